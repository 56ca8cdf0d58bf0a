"""Cuts: each boundary, each flag, the order in which they are counted."""

from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.dataset import CutStep
from bayes_cannon.surveys.apogee.allstar import read_allstar
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.catalogue import Catalogue

GOOD = {
    "SNR": 100.0, "TEFF": 4500.0, "LOGG": 2.0, "FE_H": -0.2, "MG_FE": 0.1, "SI_FE": 0.1,
    "ASPCAPFLAG": 0, "STARFLAG": 0, "EXTRATARG": 0,
}  # fmt: skip

DEFAULT = Cuts()


def catalogue(*changes: dict, leave_out: tuple[str, ...] = ()) -> Catalogue:
    """A catalogue whose row k is a good star but for `changes[k]`."""
    rows = [GOOD | change for change in changes]
    columns = {name: [row[name] for row in rows] for name in GOOD if name not in leave_out}
    return Catalogue(Table({"APOGEE_ID": [f"s{k}" for k in range(len(rows))], **columns}))


def removed_by(change: dict, cuts: Cuts = DEFAULT) -> list[str]:
    """Names of the cuts that remove a star."""
    result = apply_cuts(catalogue({}, change), cuts)
    names = [step.name for step in result.rows if step.removed]
    assert result.keep.tolist() == [True, not names]
    return names


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({}, []),
        ({"SNR": 50.0}, []),
        ({"SNR": 49.9}, ["snr"]),
        ({"SNR": np.nan}, ["snr"]),
        ({"LOGG": 4.0}, []),
        ({"LOGG": 4.01}, ["logg"]),
        ({"TEFF": 5700.0}, []),
        ({"TEFF": 5701.0}, ["teff"]),
        ({"FE_H": -1.0}, []),
        ({"FE_H": -1.01}, ["feh"]),
        ({"LOGG": np.nan}, ["labels"]),
        ({"SI_FE": np.nan}, ["labels"]),
        ({"ASPCAPFLAG": 1 << 23}, ["aspcap"]),
        ({"ASPCAPFLAG": 1 << 41 | 1 << 23 | 1 << 6}, ["aspcap"]),
        ({"ASPCAPFLAG": 1 << 41 | 1 << 24 | 1 << 7}, []),
        ({"STARFLAG": 1 << 0}, ["star"]),
        ({"STARFLAG": 1 << 3}, ["star"]),
        ({"STARFLAG": 1 << 18}, ["star"]),
        ({"STARFLAG": 1 << 22}, ["star"]),
        ({"STARFLAG": 1 << 4 | 1 << 9 | 1 << 17 | 1 << 23}, []),
        ({"EXTRATARG": 1 << 4}, ["duplicate"]),
        ({"EXTRATARG": 0b1111}, []),
    ],
)
def test_default_cuts(change: dict, cut: list[str]) -> None:
    assert removed_by(change) == cut


def test_cuts_are_counted_one_after_the_other() -> None:
    result = apply_cuts(
        catalogue(
            {},
            {"ASPCAPFLAG": 1 << 23, "SNR": 10.0, "TEFF": np.nan},
            {"SNR": 10.0, "LOGG": 4.5},
            {"SNR": 20.0},
            {"LOGG": np.nan, "TEFF": 6000.0},
            {"LOGG": 4.5, "TEFF": 6000.0},
            {"TEFF": 6000.0},
            {"FE_H": -2.0},
        )
    )
    counts = [(step.name, step.removed, step.remaining) for step in result.rows]
    assert counts == [
        ("catalogue", 0, 8), ("aspcap", 1, 7), ("star", 0, 7), ("duplicate", 0, 7), ("snr", 2, 5),
        ("labels", 1, 4), ("logg", 1, 3), ("teff", 1, 2), ("feh", 1, 1),
    ]  # fmt: skip
    assert result.keep.tolist() == [True] + [False] * 7
    assert result.n_kept == 1
    table = result.table()
    assert table.colnames == ["CUT", "DESCRIPTION", "REMOVED", "REMAINING"]
    assert [tuple(row) for row in table["CUT", "REMOVED", "REMAINING"]] == counts
    assert "SNR < 50, or unknown" in table["DESCRIPTION"].tolist()
    assert "LOGG > 4 dex, or unknown" in table["DESCRIPTION"].tolist()
    assert "STARFLAG bit 0, 3, 18, 22" in table["DESCRIPTION"].tolist()


def test_other_choices() -> None:
    loose = Cuts(snr_min=None, logg_max=None, teff_max=None, feh_min=None, aspcap_bad=(),
                 star_bad=(), drop_duplicates=False, require_labels=False)  # fmt: skip
    anything = {"SNR": np.nan, "LOGG": 5.0, "TEFF": np.nan, "FE_H": -9.0, "ASPCAPFLAG": 1 << 23,
                "STARFLAG": 1, "EXTRATARG": 16}  # fmt: skip
    assert removed_by(anything, loose) == []
    assert len(apply_cuts(catalogue({}), loose).rows) == 1
    strict = Cuts(star_bad=[4, 9, np.int64(17), 23], snr_min=np.float32(120))  # type: ignore[arg-type]
    assert strict.star_bad == (4, 9, 17, 23)
    assert apply_cuts(catalogue({"SNR": 130.0, "STARFLAG": 1 << 17}), strict).n_kept == 0
    assert apply_cuts(catalogue({"SNR": 130.0, "STARFLAG": 1}), strict).n_kept == 1


def test_missing_labels_that_are_allowed() -> None:
    cuts = Cuts(require_labels=False)
    assert removed_by({"SI_FE": np.nan, "TEFF": np.nan, "LOGG": np.nan}, cuts) == []
    assert removed_by({"SI_FE": np.nan, "LOGG": 4.5}, cuts) == ["logg"]
    assert removed_by({"SNR": np.nan}, cuts) == ["snr"]


def test_a_label_that_is_not_wanted_may_be_missing() -> None:
    result = apply_cuts(catalogue({"SI_FE": np.nan}), label_names=("TEFF", "MG_FE"))
    assert result.n_kept == 1
    # Nothing shows that this star is a giant.
    result = apply_cuts(catalogue({"LOGG": np.nan}), label_names=("TEFF", "MG_FE"))
    assert [step.name for step in result.rows if step.removed] == ["logg"]


def test_cuts_without_their_column_are_said_to_be_left_out() -> None:
    hand_made = catalogue(
        {}, {"LOGG": 4.5}, leave_out=("SNR", "ASPCAPFLAG", "STARFLAG", "EXTRATARG")
    )
    result = apply_cuts(hand_made)
    assert result.keep.tolist() == [True, False]
    assert result.rows[1] == CutStep("aspcap", "not applied: no column ASPCAPFLAG", 0, 2)
    skipped = [s.name for s in result.rows if s.description.startswith("not applied")]
    assert skipped == ["aspcap", "star", "duplicate", "snr"]
    result = apply_cuts(catalogue({}, leave_out=("FE_H",)), label_names=("TEFF",))
    assert result.rows[-1].description == "not applied: no column FE_H"


def test_label_that_the_catalogue_lacks() -> None:
    with pytest.raises(LabelError, match="C_FE: not read from"):
        apply_cuts(catalogue({}), label_names=("TEFF", "C_FE"))


def test_no_rows() -> None:
    result = apply_cuts(catalogue({}).select([]))
    assert result.n_kept == 0
    assert {step.remaining for step in result.rows} == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"snr_min": "50"}, "snr_min must be a number or None, got '50'"),
        ({"logg_max": np.nan}, "logg_max must be finite, got nan; None cuts nothing"),
        ({"teff_max": True}, "teff_max must be a number"),
        ({"aspcap_bad": (63,)}, r"aspcap_bad must be bit numbers from 0 to 62, got \(63,\)"),
        ({"star_bad": (-1,)}, "star_bad must be bit numbers"),
        ({"star_bad": ("3",)}, "star_bad must be bit numbers"),
    ],
)
def test_impossible_cuts(options: dict, message: str) -> None:
    with pytest.raises(InvalidDataError, match=message):
        Cuts(**options)


def test_real_rows(real_dir) -> None:
    rows = read_allstar(real_dir / "Montalban2021_X_APOGEE_DR17.fits")
    result = apply_cuts(rows)
    removed = {step.name: step.removed for step in result.rows if step.removed}
    assert removed == {"aspcap": 1, "snr": 2, "feh": 10}
    assert result.n_kept == 82


# Flags without a value ---------------------------------------------------------------------


def masked_catalogue(path: Path, *columns: str) -> Catalogue:
    """30 rows of which every third lacks some columns; rows 0 to 9 have flags that exclude."""
    n, bad = 30, np.arange(30) < 10
    table = Table({"APOGEE_ID": [f"2M{i:02d}" for i in range(n)]}, masked=True)
    values = {"TEFF": 4500.0, "LOGG": 2.0, "FE_H": 0.0, "MG_FE": 0.1, "SI_FE": 0.1, "SNR": 100.0}
    for name, value in values.items():
        table[name] = np.full(n, value)
        table[f"{name}_ERR"] = np.full(n, 0.1)
    for name, bit, kind in (
        ("STARFLAG", 22, np.int64), ("ASPCAPFLAG", 23, np.int32), ("EXTRATARG", 4, np.int16),
        ("NVISITS", 0, np.int16), ("MEANFIB", 0, np.int32),
    ):  # fmt: skip
        table[name] = np.where(bad, 1 << bit, 0).astype(kind)
    for name in columns:
        table[name].mask = np.arange(n) % 3 == 0
    table.write(path)
    return read_allstar(path, extra=["MEANFIB"])


@pytest.mark.parametrize(
    ("column", "cut"), [("STARFLAG", "star"), ("ASPCAPFLAG", "aspcap"), ("EXTRATARG", "duplicate")]
)
def test_rows_without_a_flag_stay_and_are_counted(column: str, cut: str, tmp_path: Path) -> None:
    only = {"star_bad": (), "aspcap_bad": (), "drop_duplicates": False}
    only |= {"star": {"star_bad": (0, 3, 18, 22)}, "aspcap": {"aspcap_bad": (23,)},
             "duplicate": {"drop_duplicates": True}}[cut]  # fmt: skip
    whole = apply_cuts(masked_catalogue(tmp_path / "allStar-a.fits"), Cuts(**only))
    assert {s.name: s.removed for s in whole.rows if s.removed} == {cut: 10}
    catalogue = masked_catalogue(tmp_path / "allStar-b.fits", column)
    result = apply_cuts(catalogue, Cuts(**only))
    assert {s.name: s.removed for s in result.rows if s.removed} == {cut: 6}
    assert np.flatnonzero(~result.keep).tolist() == [1, 2, 4, 5, 7, 8]
    (step,) = [s for s in result.rows if s.name == cut]
    assert step.description.endswith("(10 rows without a value stay)")
    np.testing.assert_array_equal(np.asarray(catalogue.table[column])[::3], 0)
    assert catalogue.table[column].mask.tolist() == [i % 3 == 0 for i in range(30)]


def test_counts_and_extra_columns_without_a_value_are_masked(tmp_path: Path) -> None:
    table = masked_catalogue(tmp_path / "allStar-c.fits", "NVISITS", "MEANFIB").table
    for name in ("NVISITS", "MEANFIB"):
        assert table[name].mask.tolist() == [i % 3 == 0 for i in range(30)]
        assert np.asarray(table[name]).tolist() == [int(i < 10 and i % 3 > 0) for i in range(30)]

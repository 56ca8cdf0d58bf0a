"""A reader of a survey that the package does not know, registered or found by an entry point."""

from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.surveys import readers

GRID = np.linspace(3360.0, 10200.0, 343)


# ---- what a user writes
class PrismReader(bc.surveys.SurveyReader):
    """One .npz file a star, a table stars.ecsv beside them; already normalised."""

    name = "prism"
    wavelength = GRID
    id_name = "PRISM_ID"
    catalogue = "PRISM1"

    def sniff(self, folder):
        return "" if (folder / "stars.ecsv").is_file() else "has no stars.ecsv"

    def open(self, folder, labels):
        table = Table.read(folder / "stars.ecsv")
        files = [f"{name}.npz" for name in table["PRISM_ID"]]
        return bc.surveys.survey_of(self, folder, table, labels, files, simulated=True)

    def read(self, path, *, visit, bad_bits):
        with np.load(path) as stored:
            flux, error = stored["flux"], stored["error"]
        return bc.surveys.StarSpectrum.with_error(path.stem, flux, error, snr=100.0)


# ----


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(4)
    teff = rng.uniform(4.0, 5.0, 12)
    flux = 1 - np.outer(0.1 * teff, np.exp(-0.5 * ((GRID - 6563) / 60) ** 2))
    flux += 0.01 * rng.normal(size=flux.shape)
    for i in range(12):
        np.savez(tmp_path / f"p{i}.npz", flux=flux[i], error=np.full(343, 0.01 if i else 0.0))
    (tmp_path / "p3.npz").write_bytes(b"no archive")
    (tmp_path / "p5.npz").unlink()
    table = Table({"PRISM_ID": [f"p{i}" for i in range(12)], "T_EFF": teff})
    table["T_EFF"].unit = "kK"
    table["FEH"] = np.ma.array(rng.normal(0, 0.3, 12), mask=np.arange(12) == 7)
    table.write(tmp_path / "stars.ecsv")
    return tmp_path


@pytest.fixture
def prism():
    bc.surveys.register_reader(PrismReader())
    yield
    bc.surveys.unregister_reader("prism")


def test_a_survey_of_another_reader_becomes_a_training_set(folder, prism):
    survey = bc.open_survey(folder, labels=["TEFF", "FE_H"])
    stars = bc.prepare(survey, label_names=["TEFF", "FE_H"])
    assert stars.star_id.tolist() == ["p1", "p2", "p4", "p6", "p8", "p9", "p10", "p11"]
    assert stars.labels.units == ("K", "dex")
    assert np.all((stars.labels["TEFF"] > 4000) & (stars.labels["TEFF"] < 5000))
    assert stars.spectra.n_pixels == 343
    assert {p.star_id for p in stars.problems} == {"p0", "p3", "p5"}
    removed = {step.name: step.removed for step in stars.cut_steps if step.removed}
    assert removed == {"labels": 1, "spectrum found": 1, "spectrum readable": 1, "good pixels": 1}
    assert stars.info["prism_id"].tolist() == stars.star_id.tolist()
    spectra, problems = bc.prepare_spectra([folder / "p2.npz", folder / "p3.npz"], like=stars)
    np.testing.assert_array_equal(spectra.flux[0], stars.spectra.flux[1])
    assert spectra.star_id.tolist() == ["p2"]
    assert [p.star_id for p in problems] == ["p3.npz"]


def test_the_command_prepares_as_the_reader_says(folder, tmp_path, prism):
    from bayes_cannon.cli.surveys import prepare

    out = tmp_path / "prism.nc"
    stars = bc.prepare(folder, label_names="TEFF")
    prepare(folder, out, label=["TEFF"])
    same = bc.TrainingSet.load(out)
    assert same.star_id.tolist() == stars.star_id.tolist()
    np.testing.assert_array_equal(same.spectra.flux, stars.spectra.flux)
    assert same.settings["cuts"] == stars.settings["cuts"]
    prepare(folder, out, label=["TEFF"], teff_max=4500.0, overwrite=True)
    assert bc.TrainingSet.load(out).labels["TEFF"].max() <= 4500.0
    with pytest.raises(bc.errors.InvalidDataError, match="continuum"):  # of APOGEE's wavelengths
        prepare(folder, out, label=["TEFF"], degree=2, overwrite=True)


def test_a_reader_is_found_by_an_entry_point(folder, monkeypatch):
    entry = EntryPoint("prism", "tests.seams.test_reader:PrismReader", readers.GROUP)
    broken = EntryPoint("lost", "no_such_package:READER", readers.GROUP)
    given = [entry]
    monkeypatch.setattr("importlib.metadata.EntryPoint.load", lambda self: {
        "prism": PrismReader}[self.name])  # fmt: skip
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: given)
    assert len(bc.prepare(folder, label_names="TEFF")) == 9
    given.append(broken)
    with pytest.warns(
        bc.errors.BayesCannonWarning,
        match=r"lost \(no_such_package:READER\) of bayes_cannon.readers",
    ):
        known = bc.surveys.known_readers()
    assert [r.name for r in known] == ["prism", "apogee", "mwm", "sdss5-apstar"]


def test_what_no_reader_takes_is_told_with_all_reasons(tmp_path, prism):
    with pytest.raises(
        bc.errors.SurveyError,
        match=r"no reader takes .* \(prism: it has no stars\.ecsv; apogee: it has no catalogue",
    ):
        bc.open_survey(tmp_path)
    with pytest.raises(bc.errors.SurveyError, match="'spoon' is not known, only prism, apogee"):
        bc.open_survey(tmp_path, reader="spoon")


def test_two_readers_that_take_a_folder(folder, prism):
    class Greedy(PrismReader):
        name = "greedy"

    bc.surveys.register_reader(Greedy)
    try:
        with pytest.raises(bc.errors.SurveyError, match=r"take .* greedy; .* of their own"):
            bc.open_survey(folder)
        assert bc.open_survey(folder, labels="TEFF", reader="greedy").reader.name == "greedy"
    finally:
        bc.surveys.unregister_reader("greedy")


def test_readers_that_cannot_be(prism):
    class Half(bc.surveys.SurveyReader):
        name = "half"
        wavelength = GRID

    with pytest.raises(bc.errors.InvalidDataError, match="Half is no reader: it lacks sniff, open"):
        bc.surveys.register_reader(Half())
    with pytest.raises(bc.errors.InvalidDataError, match="a reader 'prism' is known"):
        bc.surveys.register_reader(PrismReader())

    class Backwards(PrismReader):
        name = "backwards"
        wavelength = GRID[::-1]

    with pytest.raises(bc.errors.InvalidDataError, match=r"must have shape .* and increase"):
        bc.surveys.register_reader(Backwards())
    with pytest.raises(bc.errors.InvalidDataError, match="prism have no mask bits"):
        PrismReader().mask_bits(7)

    class Named(PrismReader):
        def __init__(self, title):
            self.title = title

    for made_of in (Named, bc.surveys.SurveyReader):
        with pytest.raises(bc.errors.InvalidDataError, match="makes no reader without arguments"):
            bc.surveys.register_reader(made_of)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": 3}, "needs a name of text, not 3"),
        ({"name": " "}, "needs a name of text"),
        ({"cuts": None}, "cuts of the reader odd must be a Cuts, not None"),
        ({"continuum": "poly"}, "continuum of the reader odd must be a ContinuumSettings or None"),
        ({"expected": "x"}, "expected of the reader odd must be a tuple of classes"),
        ({"medium": "water"}, "medium of the reader odd must be 'vacuum' or 'air'"),
        ({"id_name": "star id"}, "reader odd: the column of the stars' names"),
        ({"wavelength": "GRID"}, "reader odd: wavelength"),
        ({"wavelength": None}, "lacks wavelength"),
        ({"wavelength": [1.0, np.inf]}, "must have shape"),
    ],
)
def test_a_reader_has_what_is_asked_of_it_where_it_is_given(folder, change, why):
    odd = type("Odd", (PrismReader,), {"name": "odd"} | change)
    for reader in (odd, odd()):
        with pytest.raises(bc.errors.InvalidDataError, match=why):
            bc.open_survey(folder, "TEFF", reader=reader)
        with pytest.raises(bc.errors.InvalidDataError, match=why):
            bc.surveys.register_reader(reader)
    with pytest.raises(bc.errors.InvalidDataError, match="int is no reader"):
        bc.open_survey(folder, "TEFF", reader=3)


def test_a_reader_may_be_given_as_a_class(folder):
    assert len(bc.open_survey(folder, "TEFF", reader=PrismReader)) == 12


@pytest.mark.parametrize("answer", [lambda: {}["x"], lambda: True])
def test_a_reader_that_fails_leaves_the_others(folder, tmp_path, prism, caplog, answer):
    class Failing(PrismReader):
        name = "failing"
        expected = (OSError,)

        def sniff(self, folder):
            return answer()

    bc.surveys.register_reader(Failing)
    try:
        assert bc.open_survey(folder, "TEFF").reader.name == "prism"
        assert "the reader failing cannot look at" in caplog.text
        (tmp_path / "empty").mkdir()
        with pytest.raises(bc.errors.SurveyError, match=r"failing: it cannot be looked at \("):
            bc.open_survey(tmp_path / "empty", "TEFF")
    finally:
        bc.surveys.unregister_reader("failing")


def test_a_spectrum_of_another_length_is_a_problem_of_its_star(folder, prism):
    np.savez(folder / "p1.npz", flux=np.ones(300), error=np.ones(300))
    stars = bc.prepare(folder, label_names="TEFF")
    told = {p.star_id: p.message for p in stars.problems}
    assert told["p1"].endswith("p1.npz has 300 pixels, the grid of prism 343.")
    assert Path(next(p.path for p in stars.problems if p.star_id == "p1")).name == "p1.npz"


def test_the_command_lists_the_readers(capsys, tmp_path):
    from bayes_cannon.cli.surveys import readers as command

    command()
    said = capsys.readouterr().out
    for name in ("apogee", "mwm", "sdss5-apstar"):
        assert f"{name}\n  what        Reads surveys of" in said
    assert "  recognised  astraAllStarASPCAP-*.fits[.gz] at the top, mwmStar-*" in said
    assert "  stars       SDSS_ID\n  labels      ASPCAP DR19" in said
    with pytest.raises(bc.errors.SurveyError, match="no reader takes"):
        command(tmp_path)
    assert "  this folder has no catalogue astraAllStarASPCAP" in capsys.readouterr().out
    with pytest.raises(bc.errors.SurveyError, match="is not a directory"):
        command(tmp_path / "none")

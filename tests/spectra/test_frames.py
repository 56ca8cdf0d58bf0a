"""DataFrames of pandas, in and out."""

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.errors import LabelError
from bayes_cannon.inference.arguments import as_labels
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.catalogue import Catalogue

GRID = np.linspace(5000.0, 5100.0, 40)
LABELS = bc.Labels(
    ("TEFF", "AGE"), [[4500.0, 3.0], [4600.0, np.nan], [4700.0, 9.0]],
    [[50.0, 0.5], [np.nan, np.nan], [40.0, 1.0]], ["a", "b", "c"], ("K", "Gyr"), "SDSS_ID",
)  # fmt: skip


def dataset(labels, **options):
    return bc.training_set_from_arrays(
        GRID, np.ones((3, 40)), labels, error=0.01 * np.ones((3, 40)), allow_missing_labels=True,
        **options,
    )  # fmt: skip


def same(labels, other=LABELS):
    assert labels.names == other.names
    assert labels.units == other.units
    assert labels.id_name == other.id_name
    assert labels.star_id.tolist() == other.star_id.tolist()
    np.testing.assert_array_equal(labels.values, other.values)
    np.testing.assert_array_equal(labels.errors, other.errors)


def test_labels_become_a_frame_and_come_back():
    frame = LABELS.to_pandas()
    assert frame.columns.tolist() == ["TEFF", "TEFF_ERR", "AGE", "AGE_ERR"]
    assert frame.index.name == "SDSS_ID"
    assert frame.loc["c", "AGE"] == 9.0
    same(dataset(frame).labels)
    same(as_labels(frame))


@pytest.mark.parametrize(
    "turned",
    [
        lambda frame: frame,
        lambda frame: frame.rename_axis(None),
        lambda frame: frame.reset_index(),
        lambda frame: Table.from_pandas(frame.reset_index()),
        lambda frame: {n: c.tolist() for n, c in frame.reset_index().items()},
    ],
)
def test_rows_are_matched_by_name(turned):
    table = turned(LABELS.to_pandas().iloc[[2, 0, 1]])
    same(dataset(table, star_id=["a", "b", "c"], units={"AGE": "Gyr"}, id_name="SDSS_ID").labels)
    other = turned(LABELS.to_pandas().rename(index={"c": "x"}))
    with pytest.raises(LabelError, match=r"names .*\(a, b, x\), and lack 1 of the 3 stars \(c\)"):
        dataset(other, star_id=["a", "b", "c"])


def test_errors_are_matched_by_name():
    errors = pd.DataFrame({"TEFF": [3.0, 1.0, 2.0]}, pd.Index(["c", "a", "b"], name="STAR_ID"))
    values = pd.DataFrame({"TEFF": LABELS["TEFF"]}, pd.Index(["a", "b", "c"], name="STAR_ID"))
    for labels, options in ((values, {}), ({"TEFF": LABELS["TEFF"]}, {"star_id": ["a", "b", "c"]})):
        made = dataset(labels, label_errors=errors, **options).labels
        assert made.error("TEFF").tolist() == [1.0, 2.0, 3.0]
    plain = dataset({"TEFF": LABELS["TEFF"]}, label_errors=errors).labels
    assert plain.error("TEFF").tolist() == [3.0, 1.0, 2.0]
    twice = errors.rename(index={"b": "a"})
    with pytest.raises(LabelError, match="label_errors have names of stars of their own"):
        dataset(values, label_errors=twice)
    with pytest.raises(LabelError, match="more than once"):
        dataset(pd.concat([values, values]), star_id=["a", "b", "c"])


def test_a_training_set_becomes_a_frame():
    made = dataset(LABELS)
    info = {"field": np.array(["x", "y", "z"]), "sdss_id": made.star_id, "age": np.zeros(3)}
    frame = bc.TrainingSet(made.spectra, made.labels, info=info).to_pandas()
    assert frame.index.tolist() == ["a", "b", "c"]
    assert frame.columns.tolist() == ["TEFF", "TEFF_ERR", "AGE", "AGE_ERR", "SNR", "FIELD"]
    assert frame["FIELD"].tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(frame["SNR"], 100.0, rtol=1e-5)
    assert made.cut_table().to_pandas()["remaining"].tolist() == [3, 3]


def test_a_frame_lists_files_and_names(tmp_path):
    for name in "abc":
        Table({"WAVELENGTH": GRID, "FLUX": np.ones(40), "IVAR": np.full(40, 1e4)}).write(
            tmp_path / f"{name}.ecsv"
        )
    frame = LABELS.to_pandas().assign(PATH=["a.ecsv", "b.ecsv", "c.ecsv"])
    made = bc.training_set_from_table(
        frame, ["TEFF", "AGE"], folder=tmp_path, allow_missing_labels=True
    )
    same(made.labels)


def test_cuts_of_a_frame():
    frame = pd.DataFrame({"TEFF": [4500.0, 6000.0], "SNR": [100.0, 100.0]}, index=["s1", "s2"])
    catalogue = Catalogue(frame.rename_axis("APOGEE_ID"))
    found = apply_cuts(catalogue, Cuts(require_labels=False)).to_pandas()
    assert found.set_index("CUT").loc["teff", "REMOVED"] == 1


def test_frames_that_cannot_be_read():
    twice = pd.DataFrame([[1.0, 2.0]] * 3, columns=["TEFF", "TEFF"])
    with pytest.raises(LabelError, match="one column of each name"):
        dataset(twice)
    levels = pd.DataFrame(np.ones((3, 1)), columns=pd.MultiIndex.from_tuples([("TEFF", "x")]))
    with pytest.raises(LabelError, match="in one level"):
        dataset(levels)

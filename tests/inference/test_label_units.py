"""Units of labels are shown as the model has them, wherever they are shown."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.analysis.calibration import check_calibration
from bayes_cannon.analysis.sequences import LabelSequence
from bayes_cannon.errors import LabelError
from bayes_cannon.inference.units import known_labels, units_of_result, units_of_table
from bayes_cannon.plots.aspcap import plot_errors, plot_forest
from bayes_cannon.plots.calibration import plot_scores
from bayes_cannon.plots.sample import plot_sample
from bayes_cannon.runs.report.explorer import all_stars
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Explorer, Grid
from bayes_cannon.runs.report.physics import gradient_spectra
from bayes_cannon.runs.report.tables import original_tables
from bayes_cannon.runs.results import open_run
from bayes_cannon.spectra.labels import Labels
from tests.line_survey import LAPLACE, LineSurvey

CASES = {"Gyr": ("AGE", "AGE (Gyr)"), "": ("X", "X")}


class Made:
    """A model with a label in some unit, and a run of its stars."""

    def __init__(self, folder, unit):
        self.unit, self.name = unit, CASES[unit][0]
        survey = LineSurvey(self.name, 0.2, 1.9)
        self.stars = survey.training_set(
            30, units={self.name: unit}, label_errors={"TEFF": 20.0, self.name: 0.1}
        )
        self.model = bc.train(
            self.stars, settings=bc.TrainingSettings(n_factors=0, folds=0), seed=0
        )
        self.run = bc.infer_run(
            self.model, self.stars, folder / "run", settings=LAPLACE, aspcap=self.stars, seed=0
        )
        self.result, self.table = self.run.result, self.run.table


@pytest.fixture(scope="module", params=CASES, ids=["Gyr", "dimensionless"])
def made(request, tmp_path_factory):
    """Of an age in Gyr, and of a number without a unit."""
    return Made(tmp_path_factory.mktemp("units"), request.param)


def texts_of(figure):
    """All that is written in a figure."""
    figure.canvas.draw()
    found = [t.get_text() for t in figure.findobj(plt.Text)]
    plt.close(figure)
    return found


def test_model_result_and_tables(made):
    unit, name = made.unit, made.name
    assert made.model.basis.units == ("K", unit)
    assert units_of_result(made.result, ["TEFF", name]) == {"TEFF": "K", name: unit}
    assert units_of_table(made.table, [name]) == {name: unit}
    assert str(made.table[name].unit) == unit
    assert list(bc.star_table(made.table, "star-1")["UNIT"]) == ["K", unit]
    assert list(bc.star_table(made.result, "star-1")["UNIT"]) == ["K", unit]
    assert list(bc.comparison(made.table, made.stars)["UNIT"]) == ["K", unit]
    assert list(bc.mystery_story(made.result, "star-1").table["UNIT"]) == ["K", unit]
    assert ("dex" in bc.mystery_story(made.result, "star-1").text) is False
    check = check_calibration(made.result, {"catalogue": made.stars})
    assert sorted(set(check.coverage["UNIT"])) == sorted(["K", unit])


def test_files_keep_them(made):
    folder = made.run.folder
    table = open_run(folder).table
    assert str(table[made.name].unit) == made.unit
    assert units_of_table(Table.read(folder / "catalogue.ecsv"), [made.name]) == {
        made.name: made.unit
    }
    found = bc.aspcap_comparison(table)
    assert found.units == ("K", made.unit)


def test_figures(made):
    axis = CASES[made.unit][1]
    check = check_calibration(made.result, {"catalogue": made.stars})
    found = bc.aspcap_comparison(made.result, made.stars)
    sequence = LabelSequence(
        "s", made.model.names, (made.name,), made.model.label_mean[None], np.array([False]),
        units=made.model.basis.units,
    )  # fmt: skip
    written = {
        "corner": texts_of(bc.plot_corner(made.result, "star-1")),
        "one-to-one": texts_of(bc.plot_one_to_one(made.table)),
        "scores": texts_of(plot_scores(check, "catalogue")),
        "forest": texts_of(plot_forest(found)),
        "errors": texts_of(plot_errors(found)),
        "sample": texts_of(plot_sample(made.stars)),
        "gradients": texts_of(bc.plot_gradients(made.model, window=None)),
        "sequence": [sequence.text(0), sequence.rest],
    }
    assert axis in written["corner"]
    assert f"this work: {axis}" in written["one-to-one"]
    assert f"error of {axis}" in written["errors"]
    assert axis in written["sample"]
    for figure, texts in written.items():
        assert not [t for t in texts if "dex" in t], figure


def test_report_tables_and_lines(made):
    run = open_run(made.run.folder)
    inputs = ReportInputs(run.folder, run.result, run.table, run.summary, made.model)
    grids = [
        getattr(item, "grid", item) for part in (original_tables, all_stars)
        for item in part(inputs) if isinstance(item, Grid | Explorer)
    ]  # fmt: skip
    heads = [column.title for grid in grids for column in grid.columns]
    cells = [text for grid in grids for row in grid.rows for text in row if isinstance(text, str)]
    page = "".join(f">{text}<" for text in (*heads, *cells))
    assert "(dex)" not in page
    assert page.count(f">{CASES[made.unit][1]}<") >= 2
    items = list(gradient_spectra(inputs))
    assert any(f"No lines are known for {made.name}" in getattr(i, "text", "") for i in items)


def test_labels_of_other_units_are_converted_or_refused():
    ids = np.array(["a", "b"])
    values = np.array([[4.5, 1000.0], [5.0, 2000.0]])
    given = Labels(("TEFF", "AGE"), values, [0.05, 10.0], ids, ("kK", "Myr"))
    found = known_labels(given, {"TEFF": "K", "AGE": "Gyr"})
    np.testing.assert_allclose(found.values, [[4500, 1], [5000, 2]])
    np.testing.assert_allclose(found.errors, [[50, 0.01]] * 2)
    assert found.units == ("K", "Gyr")
    with pytest.raises(LabelError, match="TEFF is in dex here and in kK in aspcap"):
        known_labels(given, {"TEFF": "dex"})
    plain = Labels(("AGE",), [[1.0], [2.0]], np.nan, ids)  # unit unknown: that of the model
    assert known_labels(plain, {"AGE": "Gyr"}) is plain


def test_a_kiel_diagram_needs_kelvin():
    survey = LineSurvey("LOGG", 1.0, 3.0)
    values = survey.stars(30, 1)[0] / [1000, 1]
    stars = survey.training_set(30, values=values, units={"TEFF": "kK"})
    model = bc.train(stars, settings=bc.TrainingSettings(n_factors=0, folds=0), seed=0)
    result = bc.infer_labels(model, stars.select([0, 1]), settings=LAPLACE, seed=1)
    with pytest.raises(LabelError, match="needs TEFF in K, not in kK"):
        bc.plot_kiel(result)
    with pytest.raises(LabelError, match="needs TEFF in K; the model has it in kK"):
        bc.plot_giant_branch(model)

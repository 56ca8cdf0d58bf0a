"""A label that the package does not know, from a table of stars to the corner plot."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as bc
from tests.line_survey import LAPLACE, PLAIN, LineSurvey


def table_of_stars(folder, survey, n=60):
    """A user's table: ages in Myr under a name of its own, and a file of each star's spectrum."""
    known, flux, error = survey.stars(n, seed=5)
    for i in range(n):
        spectrum = Table({"WAVELENGTH": survey.wavelength, "FLUX": flux[i], "ERROR": error[i]})
        spectrum.write(folder / f"s{i}.ecsv")
    table = Table({"PATH": [f"s{i}.ecsv" for i in range(n)], "TEFF": known[:, 0]})
    table["age_iso"] = 1000 * known[:, 1]
    table["age_iso"].unit = "Myr"
    return table


@pytest.fixture
def forget():
    yield
    bc.spectra.unregister_label_kind("AGE")
    plt.close("all")


def test_a_label_from_outside_goes_from_a_table_to_the_corner_plot(tmp_path, forget):
    survey = LineSurvey("AGE", 1.0, 13.0)
    table = table_of_stars(tmp_path, survey)
    # ---- what a user writes
    bc.register_label_kind(
        bc.LabelKind("AGE", tex="age", plain="age", unit="Gyr", digits=2, step=1.0,
                     prior=(0.0, 13.8), positive=True, aliases=("AGE_ISO",))
    )  # fmt: skip
    stars = bc.training_set_from_table(table, ["TEFF", "AGE"], folder=tmp_path)
    cannon = bc.train(stars, settings=PLAIN, seed=0)
    _, new = survey.new(4)
    result = bc.infer_labels(cannon, new, settings=LAPLACE, seed=1)
    catalogue = bc.catalogue(result)
    figure = bc.plot_corner(result, str(new.star_id[0]))
    gradients = bc.plot_gradients(cannon)
    # ----
    assert stars.labels.units == ("K", "Gyr")
    np.testing.assert_allclose(stars.labels["AGE"], table["age_iso"] / 1000)
    assert result["posterior"].attrs["id_name"] == new.id_name == "STAR_ID"
    assert result["posterior"].attrs["catalogue"] == stars.catalogue == "CATALOGUE"
    assert str(catalogue["AGE"].unit) == "Gyr"
    assert (catalogue["AGE"] > 0).all()
    assert (catalogue["AGE"] < 13.8).all(), "the prior of the kind holds"
    shown = [ax.get_xlabel() for ax in figure.axes]
    assert "age (Gyr)" in shown
    assert "age\nflux per 1 Gyr" in [ax.get_ylabel() for ax in gradients.axes]

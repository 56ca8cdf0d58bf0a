"""Stars of any survey, labels of any catalogue: columns are named as the result says."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.errors import LabelError
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.tables import star_column
from bayes_cannon.plots.aspcap import plot_errors, plot_forest, plot_pulls
from bayes_cannon.runs.report.report import write_report
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra

SPECTRA = make_spectra(30)
KNOWN = labels_of(SPECTRA)
STAR = str(SPECTRA.star_id[0])


@pytest.fixture(scope="module")
def galah():
    """A result that says it is of stars with SDSS_ID, beside a catalogue named GALAH DR3."""
    result = infer_labels(CANNON, SPECTRA, settings=QUICK, seed=1)
    for name in ("posterior", "calibrated_posterior"):
        if name in result.children:
            result[name].attrs.update(id_name="SDSS_ID", catalogue="GALAH_DR3")
    return result


def texts(figure):
    return [t.get_text() for t in figure.findobj(plt.Text) if t.get_text()]


def test_columns_are_named_as_the_result_says(galah, tmp_path):
    table = bc.catalogue(galah, aspcap=KNOWN)
    assert star_column(table) == table.colnames[0] == "SDSS_ID"
    assert {"TEFF_GALAH_DR3", "TEFF_GALAH_DR3_ERR"} <= set(table.colnames)
    assert not [c for c in table.colnames if "ASPCAP" in c or "APOGEE" in c]
    fits, ecsv = bc.analysis.write_catalogue(table, tmp_path)
    for path in (fits, ecsv):
        back = Table.read(path)
        assert back["SDSS_ID"].astype(str).tolist() == SPECTRA.star_id.tolist()
        assert back.meta["ID"] == "SDSS_ID"
        assert back.meta["CATALOG"] == "GALAH_DR3"
        np.testing.assert_allclose(
            bc.comparison(back, KNOWN)["RMS"], bc.comparison(table, KNOWN)["RMS"], rtol=1e-6
        )


def test_readers_of_tables_follow(galah):
    table = bc.catalogue(galah, aspcap=KNOWN)
    one = bc.star_table(table, STAR)
    assert {"GALAH_DR3", "GALAH_DR3_ERR"} <= set(one.colnames)
    assert bc.mystery_story(table, STAR).star == STAR
    found = bc.aspcap_comparison(table)
    assert found.catalogue == "GALAH DR3"
    assert found.stars.colnames[0] == "SDSS_ID"
    assert "GALAH_DR3" in found.errors.colnames
    assert "GALAH DR3" in found.describe()
    assert "ASPCAP" not in found.describe()


def test_figures_follow(galah):
    table = bc.catalogue(galah, aspcap=KNOWN)
    snr = dict(zip(SPECTRA.star_id.tolist(), np.linspace(50, 200, 30), strict=True))
    found = bc.aspcap_comparison(galah, KNOWN, snr=snr)
    figures = {
        "one-to-one": bc.plot_one_to_one(table),
        "corner": bc.plot_corner(galah, STAR, aspcap=KNOWN),
        "errors": plot_errors(found),
        "pulls": plot_pulls(found),
        "forest": plot_forest(found),
        "kiel": bc.plots.plot_kiel_stars(galah, [STAR], aspcap=KNOWN),
    }
    for name, figure in figures.items():
        shown = texts(figure)
        assert any("GALAH DR3" in t for t in shown), name
        assert not [t for t in shown if "ASPCAP" in t], name
    plt.close("all")


def test_a_run_keeps_both_names(tmp_path):
    theirs = Table(
        {"STAR_ID": KNOWN.star_id, "TEFF": KNOWN["TEFF"], "LOGG": KNOWN["LOGG"],
         "TEFF_ERR": KNOWN.error("TEFF"), "LOGG_ERR": KNOWN.error("LOGG")},
        meta={"CATALOG": "PASTEL"},
    )  # fmt: skip
    run = bc.infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=1, aspcap=theirs)
    again = bc.open_run(run.folder)
    for one in (run, again):
        assert "TEFF_PASTEL" in one.table.colnames
        assert one.table.meta["CATALOG"] == "PASTEL"
    np.testing.assert_array_equal(again.table["TEFF_PASTEL"], KNOWN["TEFF"])
    page = write_report(run.folder, cannon=CANNON).path.read_text()
    assert "PASTEL" in page
    assert "could not be" not in page


def test_tables_of_users_may_name_their_stars_as_surveys_do():
    for key in ("APOGEE_ID", "SDSS_ID", "STAR_ID"):
        frame = pd.DataFrame({key: KNOWN.star_id, "TEFF": KNOWN["TEFF"]})
        assert bc.inference.arguments.as_labels(frame).names == ("TEFF",)
    both = Table({"SDSS_ID": [7], "APOGEE_ID": ["2M"], "TEFF": [4500.0]})
    labels = bc.inference.arguments.as_labels(both)
    assert (labels.names, labels.star_id.tolist()) == (("TEFF",), ["2M"])
    both.meta["ID"] = "SDSS_ID"
    assert bc.inference.arguments.as_labels(both).star_id.tolist() == ["7"]


def test_a_catalogue_named_like_our_columns_is_refused(galah):
    with pytest.raises(LabelError, match="needs the column TEFF_ERR twice"):
        bc.catalogue(galah, aspcap=KNOWN, name="err")

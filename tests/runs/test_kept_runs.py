"""Runs of which draws, some of them, or moments are kept."""

import logging
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.scores import score
from bayes_cannon.analysis.tables import mystery_story
from bayes_cannon.errors import InvalidDataError, OutputExistsError
from bayes_cannon.inference.posterior import draws_of, moments_group
from bayes_cannon.inference.summaries import keeping
from bayes_cannon.inference.tables import notes_of_table
from bayes_cannon.plots.common import table_title
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.runs import run as run_module
from bayes_cannon.runs.citing import methods_paragraph
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra

SPECTRA = make_spectra(5)
KEPT = {
    "moments": {"label_name": 2, "label_pair": 3, "quantile": 5},
    "thin:20": {"chain": 2, "draw": 10},
}


@pytest.mark.parametrize("keep", list(KEPT))
def test_runs_are_opened_with_whatever_was_kept(keep, tmp_path):
    settings, labels = replace(QUICK, keep=keep), labels_of(SPECTRA)
    run = infer_run(
        CANNON, SPECTRA, tmp_path, settings=settings, seed=1, aspcap=labels, corner="star0"
    )
    again = open_run(run.folder)
    assert again.summary["settings"]["keep"] == keep
    assert again["star0"]["posterior"].to_dataset().sizes == KEPT[keep]
    assert ("posterior_moments" in again.result.children) == (keep == "thin:20")
    assert moments_group(again.result, "posterior")["mean"].sizes == {"star": 5, "label_name": 2}
    assert (tmp_path / "figures" / "corner-star0.png").exists()
    np.testing.assert_allclose(catalogue(again["star0"])["TEFF"], again.table["TEFF"][0])
    figure = plot_corner(again, "star0")
    told = " ".join(text.get_text() for text in figure.texts)
    plt.close(figure)
    assert ("drawn from moments" in told) == (keep == "moments")
    assert ("moments" in repr(again)) == (keep == "moments")
    again = infer_run(
        CANNON, SPECTRA, tmp_path, settings=settings, seed=1, aspcap=labels, corner="star0"
    )
    assert again.summary["n_from_earlier"] == 5
    with pytest.raises(OutputExistsError, match="other settings"):
        infer_run(CANNON, SPECTRA, tmp_path, settings=QUICK, seed=1)
    if keep == "moments":
        assert score(again, labels, group="posterior").pit.shape == (5, 2)
        with pytest.raises(InvalidDataError, match=r"holds moments and no draws.*--keep"):
            draws_of(again.result, "posterior")
        report = write_report(again)
        assert not report.failed


def test_simulated_stars_are_marked_among_real_ones(tmp_path):
    marks = np.array(["yes", "", "yes", "", ""])
    spectra = replace(SPECTRA, notes={"SIMULATED": marks})
    settings = replace(QUICK, keep="moments", block_size=2)
    run = infer_run(CANNON, spectra, tmp_path, settings=settings, seed=1)
    assert run.summary["n_simulated"] == 2
    assert repr(run).startswith("Run of 5 stars (2 of 5 SIMULATED)")
    assert run.table["SIMULATED"].tolist() == marks.tolist()
    assert notes_of_table(run.table)[0].startswith("2 of 5 spectra are SIMULATED")
    assert table_title("Labels", run.table) == "Labels (2 of 5 simulated)"
    stories = [mystery_story(run.table, star).simulated for star in SPECTRA.star_id[[0, 1]]]
    assert stories == [True, False]
    titles = []
    for star in SPECTRA.star_id[[0, 1]]:
        figure = plot_corner(run, star)
        titles.append(" ".join(text.get_text() for text in figure.texts))
        plt.close(figure)
    assert "(simulated)" in titles[0]
    assert "model trained on simulated" in titles[1]
    page = write_report(run).path.read_text(encoding="utf-8")
    assert "2 of 5 SIMULATED: those stars of this run are not real" in page
    assert page.count('"mark":"SIMULATED"') + page.count('"mark": "SIMULATED"') == 2
    assert methods_paragraph(run).text.startswith("[2 of 5 spectra of this run are simulated.]")


def test_many_stars_keep_moments_in_large_blocks_and_one_catalogue(tmp_path, monkeypatch, caplog):
    for module in (keeping, run_module):
        monkeypatch.setattr(module, "MANY_STARS", 4)
    with caplog.at_level(logging.WARNING):
        run = infer_run(CANNON, SPECTRA, tmp_path, settings=QUICK, seed=1)
    assert "5 stars: their moments are kept" in caplog.text
    assert "5 stars: the catalogue is in catalogue.fits alone" in caplog.text
    assert run.summary["settings"]["keep"] == "moments"
    assert run.summary["settings"]["block_size"] == 256
    assert not (tmp_path / "catalogue.ecsv").exists()
    assert open_run(tmp_path).table["TEFF"].size == 5

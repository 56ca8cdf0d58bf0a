"""Runs of which draws, some of them, or moments are kept."""

import logging
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.scores import score
from bayes_cannon.errors import InvalidDataError, OutputExistsError
from bayes_cannon.inference.posterior import draws_of
from bayes_cannon.inference.summaries import keeping
from bayes_cannon.plots.corner import plot_corner
from bayes_cannon.runs import run as run_module
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

import json

import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon.cli.demo import run_demo, run_real_demo
from bayes_cannon.errors import OutputExistsError
from bayes_cannon.runs.results import open_run


@pytest.mark.slow
def test_demo_goes_the_whole_way(tmp_path, capsys):
    out = run_demo(tmp_path / "demo", n_stars=60, n_factors=2, seed=2)
    shown = capsys.readouterr().out
    summary = json.loads((out / "summary.json").read_text())
    for name in (
        "one-to-one-truth", "one-to-one", "scatter", "loadings", "continuum", "gradients",
        "calibration-truth",
    ):  # fmt: skip
        assert (out / "run" / "figures" / f"{name}.png").stat().st_size > 10_000
    page = (out / "run" / "report.html").read_text()
    assert "could not be" not in page
    assert 'id="mystery"' in page
    assert (out / "run" / "report.html").resolve().as_uri() in shown.replace("\n", "")
    table = Table.read(out / "run" / "catalogue.fits")
    assert len(table) == 30
    assert len(list((out / "run" / "figures").glob("corner-*.png"))) == 30
    assert "drew 30 corner plots" in shown
    assert summary["run"]["rhat_below_1.01"] > 0.9
    teff = next(row for row in summary["against_truth"] if row["LABEL"] == "TEFF")
    assert teff["RMS"] < 150
    tree = open_run(out / "run").result
    assert dict(tree["posterior"].sizes) == {"chain": 4, "draw": 500, "star": 30}
    assert "SIMULATED" in shown
    assert "Ness" not in shown
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_demo(out)


def test_demo_does_not_delete_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        run_demo(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    assert np.size(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_demo_of_real_giants_goes_the_whole_way(tmp_path, capsys):
    out = run_real_demo(tmp_path / "real", n_stars=180, n_factors=3, seed=2, corner=["2"])
    shown = capsys.readouterr().out
    for name in ("one-to-one", "kiel", "scatter", "loadings", "gradients", "calibration-catalogue"):
        assert (out / "run" / "figures" / f"{name}.png").stat().st_size > 10_000
    page = (out / "run" / "report.html").read_text()
    for text in (shown, page):
        assert "simulated" not in text.lower()
        assert "could not be" not in text
    assert "from Gaia DR3 XP spectra, by The Cannon" in page
    assert "60 real held-out stars, ours minus APOGEE DR17" in shown
    assert "catalogue value inside the calibrated 68 % interval" in shown
    assert "Ness" not in shown
    table = Table.read(out / "run" / "catalogue.fits")
    assert len(table) == 60
    assert not table.meta["SIMULATE"]
    assert float(table.meta["ERRNU"]) > 1
    assert np.isfinite(table["TEFF_ASPCAP"]).all()
    summary = json.loads((out / "summary.json").read_text())
    teff = next(row for row in summary["against_catalogue"] if row["LABEL"] == "TEFF")
    assert teff["RMS"] < 400
    assert summary["simulated"] is False
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_real_demo(out)

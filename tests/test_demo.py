import json

import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon.demo import run_demo
from bayes_cannon.errors import OutputExistsError
from bayes_cannon.run_store import open_run


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
    assert summary["run"]["rhat_below_1.01"] > 0.9
    teff = next(row for row in summary["against_truth"] if row["LABEL"] == "TEFF")
    assert teff["RMS"] < 150
    tree = open_run(out / "run")
    assert dict(tree["posterior"].sizes) == {"chain": 4, "draw": 500, "star": 30}
    assert "SIMULATED" in shown
    assert "Ness" in shown
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run_demo(out)


def test_demo_does_not_delete_what_is_not_its_own(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        run_demo(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").exists()
    assert np.size(list(tmp_path.iterdir())) == 1

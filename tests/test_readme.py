"""The README's code does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as bc

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")

CODE = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.mark.slow
def test_example_with_own_spectra_runs_and_recovers_the_labels():
    (code,) = (block for block in CODE if "spectra_from_arrays" in block)
    names: dict[str, object] = {}
    exec(compile(code.replace("print(", "shown = ("), "README.md", "exec"), names)
    assert np.std(np.asarray(names["shown"])) < 60


def test_example_of_a_made_up_survey_reads_it(tmp_path, monkeypatch, capsys):
    from bayes_cannon.cli.surveys import readers

    (code,) = (block for block in CODE if "SurveyReader" in block)
    folder = tmp_path / "toy-survey"
    folder.mkdir()
    rng = np.random.default_rng(1)
    names = [f"toy{k}" for k in range(6)]
    for name in names:
        np.save(folder / name, np.stack([1 + 0.01 * rng.normal(size=201), np.full(201, 0.01)]))
    table = Table({"TOY_ID": names, "TEFF": rng.uniform(4000, 5000, 6), "FE_H": np.zeros(6)})
    table.write(folder / "stars.ecsv")
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    try:
        exec(compile(code, "README.md", "exec"), known)
        readers(folder)
    finally:
        bc.surveys.unregister_reader("toy")
    dataset = known["dataset"]
    assert dataset.star_id.tolist() == names
    assert dataset.id_name == "TOY_ID"
    assert dataset.catalogue == "TOY1"
    said = capsys.readouterr().out
    assert "recognised  stars.ecsv at the top, <TOY_ID>.npy beside it" in said
    assert "this folder is of this survey" in said
    assert said.endswith("toy-survey is read by toy\n")


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from bayes_cannon.cli.commands import app

    known = set(get_command(app).commands)
    named = set(re.findall(r"`bayes-cannon (\w+)", README))
    assert named <= known
    assert known <= named

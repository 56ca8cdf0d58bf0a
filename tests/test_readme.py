"""The README's code does what it says."""

import re
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_example_with_own_spectra_runs_and_recovers_the_labels():
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    names: dict[str, object] = {}
    exec(compile(code.replace("print(", "shown = ("), "README.md", "exec"), names)
    assert np.std(np.asarray(names["shown"])) < 60


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from bayes_cannon.cli.commands import app

    known = set(get_command(app).commands)
    named = set(re.findall(r"`bayes-cannon (\w+)", README))
    assert named <= known
    assert known <= named

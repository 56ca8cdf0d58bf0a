"""The README names what there is."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_commands_of_the_readme_exist():
    from typer.main import get_command

    from bayes_cannon.cli.commands import app

    known = set(get_command(app).commands)
    named = set(re.findall(r"`bayes-cannon (\w+)", README))
    assert named <= known
    assert known <= named


def test_links_and_figures_of_the_readme_are_there_and_small():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(targets) > 15
    assert [t for t in targets if not (ROOT / t).is_file()] == []
    figures = [t for t in targets if t.endswith(".png")]
    assert len(figures) == 2
    assert all((ROOT / figure).stat().st_size < 200_000 for figure in figures)

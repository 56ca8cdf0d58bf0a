"""Progress is told in one way everywhere."""

import inspect
import io

import pytest
from rich.console import Console

import bayes_cannon as bc
from bayes_cannon.base import progress
from bayes_cannon.base.progress import as_progress, bars
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference import infer_labels
from tests.run_problem import CANNON, QUICK, make_spectra


def test_a_function_is_told_as_it_is():
    def mine(done, total, what):
        raise AssertionError

    with as_progress(mine) as tell:
        assert tell is mine


@pytest.mark.parametrize("none", [None, False])
def test_nothing_is_told_of_nothing(none, capsys):
    with as_progress(none) as tell:
        tell(1, 2, "stars")
    assert capsys.readouterr() == ("", "")


def test_true_draws_on_stderr(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.0)
    infer_labels(CANNON, make_spectra(bad=()), settings=QUICK, seed=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "inference: 11 of 11, " in err


def test_bars_are_drawn_one_for_each_kind_of_work_and_gone_in_the_end():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with bars(console) as tell:
        for what in ("inference", "corner plots"):
            tell(0, 2, what)
            tell(2, 2, what)
    text = file.getvalue()
    assert "inference" in text
    assert "corner plots" in text
    assert "2/2" in text


def test_lines_come_once_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    file = io.StringIO()
    with bars(Console(file=file, width=100)) as tell:
        for done in range(10):
            now[0] = 10.0 * done
            tell(done, 10, "stars")
    assert file.getvalue() == "stars: 6 of 10, 10.0 s each\n"


@pytest.mark.parametrize("wrong", [3, "yes", object()])
def test_anything_else_is_refused(wrong):
    with (
        pytest.raises(InvalidDataError, match=r"True, False or a function of \(done, total"),
        as_progress(wrong),
    ):
        pass


def test_every_public_function_takes_it_alike():
    seen = []
    for wing in (bc, bc.analysis, bc.inference, bc.models, bc.plots, bc.runs, bc.spectra,
                 bc.surveys, bc.training):  # fmt: skip
        for name in wing.__all__:
            found = getattr(wing, name)
            if not inspect.isfunction(found):
                continue
            parameters = inspect.signature(found).parameters
            if "progress" in parameters:
                seen.append(name)
                given = parameters["progress"]
                assert (given.annotation, given.default, given.kind) == (
                    "Progress", None, inspect.Parameter.KEYWORD_ONLY,
                ), name  # fmt: skip
    assert {"train", "infer_labels", "infer_run", "prepare", "simulate_survey"} <= set(seen)

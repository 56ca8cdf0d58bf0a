"""The page of the models says what is true: builders are public, and the tests it names exist."""

import re
from pathlib import Path

import pytest

import bayes_cannon as bc

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "models.md"


@pytest.fixture(scope="module")
def text():
    if not PAGE.exists():
        pytest.skip("documentation is not part of a source distribution")
    return PAGE.read_text(encoding="utf-8")


def test_builders_are_public(text):
    named = set(re.findall(r"bc\.models\.(build_\w+)", text))
    assert {
        "build_training_model", "build_factor_model", "build_label_error_model",
        "build_label_model", "build_plain_model", "build_full_pixel_model",
        "build_model_error_model", "build_two_star_model", "build_repeat_model",
        "build_group_model",
    } == named  # fmt: skip
    assert named == {name for name in bc.models.__all__ if name.startswith("build_")}


def test_tests_that_hold_closed_forms_to_the_models_exist(text):
    named = set(re.findall(r"`(test_\w+)`", text))
    there = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15
    assert not {name for name in named if f"def {name}(" not in there}


def test_pictures_are_there(text):
    pictures = re.findall(r"\]\((models/[\w-]+\.svg)\)", text)
    assert len(pictures) == 5
    assert all((PAGE.parent / name).stat().st_size > 1000 for name in pictures)

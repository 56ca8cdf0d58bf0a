"""What objects show of themselves, in a terminal and in a notebook."""

from dataclasses import replace

import numpy as np
import pytest

import bayes_cannon as bc
from bayes_cannon.base.cards import card, lines, range_text
from bayes_cannon.spectra.problems import StarProblem


@pytest.fixture(scope="module")
def giants():
    return bc.load_gaia_xp_giants()


def test_a_training_set_says_in_a_few_lines_what_it_holds(giants):
    shown = repr(giants)
    assert shown.splitlines()[0] == "TrainingSet of 1500 stars"
    assert 1 < len(shown.splitlines()) <= 6
    assert "343, 3360 to 10200 Å in vacuum" in shown
    assert "TEFF 3602 to 5699 K" in shown
    assert "AK_TARG" in shown
    assert "S/N " in shown
    assert all(len(line) <= 96 for line in shown.splitlines())
    html = giants._repr_html_()
    assert "TrainingSet of 1500 stars" in html
    assert html.count("<tr>") == 3, "pixels, quality, labels"


def test_what_is_simulated_missing_or_masked_is_said(giants):
    part = giants.select(np.arange(4))
    ivar = part.spectra.ivar.copy()
    ivar[:, :34] = 0
    values = part.labels.values.copy()
    values[0, 1] = np.nan
    odd = replace(
        part,
        spectra=replace(part.spectra, ivar=ivar, simulated=True),
        labels=replace(part.labels, values=values),
        problems=(StarProblem("a", "", "damaged"),),
    )
    shown = repr(odd)
    assert shown.startswith("TrainingSet of 4 stars (SIMULATED)")
    assert "9.9 % of the pixels masked" in shown
    assert "1 star here without all labels" in shown
    assert "1 with problems" in shown
    assert "LOGG" in repr(odd.labels)
    assert "unknown in 1 star" in repr(odd.labels)
    assert repr(odd.spectra).startswith("NormalizedSpectra of 4 stars (SIMULATED)")


def test_labels_and_spectra(giants):
    shown = repr(giants.labels).splitlines()
    assert shown[0] == "Labels of 1500 stars"
    assert len(shown) == 6
    assert shown[1].startswith("  TEFF     3602 to 5699 K, error 7.9")
    assert shown[-1] == "  others   AK_TARG"
    assert len(repr(giants.spectra).splitlines()) == 5
    empty = giants.spectra.select(np.zeros(1500, dtype=bool))
    assert repr(empty).startswith("NormalizedSpectra of 0 stars")


def test_text_is_escaped_and_cut():
    rows = [("a<b", "x & y"), ("empty", ""), ("two", "lines\nhere")]
    assert lines("T", rows).splitlines()[1:] == ["  a<b  x & y", "  two  lines here"]
    assert "a&lt;b" in card("T", rows)
    assert "x &amp; y" in card("T", rows)
    assert "empty" not in card("T", rows)
    long = lines("T", [("long", "word " * 100)]).splitlines()
    assert len(long) == 3
    assert all(len(line) <= 96 for line in long)
    assert long[-1].endswith("…")
    assert range_text([-0.5, np.nan, 0.25], 2, "dex") == "−0.50 to 0.25 dex"
    assert range_text([np.nan]) == ""

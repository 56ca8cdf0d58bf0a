"""What the package knows of labels by their names."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

from bayes_cannon.errors import LabelError
from bayes_cannon.models.label_priors import default_prior, known_range
from bayes_cannon.spectra import label_kinds
from bayes_cannon.spectra.label_kinds import (
    LabelKind,
    known_unit,
    label_kind,
    label_number,
    label_tex,
    label_unit,
    register_label_kind,
    registered_label_kinds,
    shown_label,
    two_digits,
    unregister_label_kind,
)

AGE = LabelKind("AGE", "age", "age", "Gyr", 1, 1.0, (0.0, 13.8), aliases="AGE_GYR")


@pytest.fixture
def age():
    register_label_kind(AGE)
    yield AGE
    unregister_label_kind("AGE")


def test_known_labels_are_shown_as_before():
    names = ("TEFF", "logg", "VMICRO", "VMACRO", "VSINI", "AK_TARG", "MG_FE", "ALPHA_M", "M_H")
    assert [label_tex(n) for n in names] == [
        r"$T_\mathrm{eff}$", r"$\log g$", r"$v_\mathrm{micro}$", r"$v_\mathrm{macro}$",
        r"$v\,\sin i$", "$A_K$", "[Mg/Fe]", r"$[\alpha/M]$", "[M/H]",
    ]  # fmt: skip
    units = ["K", "dex", "km/s", "km/s", "km/s", "mag", "dex", "dex", "dex"]
    assert [label_unit(n) for n in names] == units
    assert [known_unit(n) for n in names] == units
    assert shown_label("TIII_FE") == "[Ti II/Fe]"
    assert [known_unit(n) for n in ("AGE", "C12_C13", "A_K")] == [None] * 3
    assert [label_tex(n) for n in ("AGE", "C12_C13", "A_K", "my mass")] == [
        "AGE", "C12_C13", "A_K", "my mass"
    ]  # fmt: skip


def test_a_kind_is_known_everywhere_once_registered(age):
    assert known_unit("age") == label_unit("AGE") == "Gyr"
    assert label_kind("age_gyr") == age
    assert known_range("AGE") == (0.0, 13.8)
    assert default_prior("AGE").upper == 13.8
    assert label_number("AGE", 4.26) == "4 Gyr"
    assert age in registered_label_kinds()
    register_label_kind(age)  # the same again
    with pytest.raises(LabelError, match=r"label AGE is known \(age, in Gyr\).*replace=True"):
        register_label_kind(LabelKind("Age", unit="Myr"))
    register_label_kind(LabelKind("AGE", unit="Myr"), replace=True)
    assert label_unit("AGE") == "Myr"
    unregister_label_kind("AGE")
    assert known_unit("AGE") is None


def test_the_packages_own_kinds_come_back():
    register_label_kind(LabelKind("TEFF", tex="T", unit="K"), replace=True)
    assert label_tex("TEFF") == "T"
    unregister_label_kind("TEFF")
    assert label_tex("TEFF") == r"$T_\mathrm{eff}$"


def test_digits_and_steps_follow_the_unit():
    assert [label_kind("TEFF", u).digits for u in ("K", "kK", "")] == [0, 3, 3]
    assert label_kind("TEFF", "kK").step == pytest.approx(0.1)
    assert label_kind("TEFF", "kK").prior is None
    assert (label_kind("T_SPOT", "K").digits, label_kind("T_SPOT", "K").step) == (0, 100.0)
    assert label_number("VSINI", -3.14159) == "−3.14 km/s"
    assert label_number("LOGG", 2.5, dex=False) == "2.50"
    assert two_digits(0.0456) == "0.046"


def test_fill_values_follow_the_kind(age):
    positive = LabelKind("MASS", unit="solMass", positive=True)
    assert positive.is_fill([0.0, -1.0, 2.0, np.nan]).tolist() == [True, True, False, False]
    assert age.is_fill([99.0, -9999.0]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "MY AGE"}, "letters, digits and _"),
        ({"name": None}, "letters, digits and _"),
        ({"unit": "parrots"}, "'parrots' of AGE is none that astropy knows"),
        ({"digits": -1}, "AGE: digits must be at least 0"),
        ({"digits": 1.5}, "AGE: digits must be a whole number"),
        ({"step": 0.0}, "step of AGE must be positive"),
        ({"prior": (3.0, 1.0)}, r"prior of AGE must be a finite range"),
        ({"prior": (0.0, np.inf)}, r"prior of AGE must be a finite range"),
        ({"prior": 3.0}, r"prior of AGE must be a finite range"),
        ({"positive": "no"}, "positive of AGE must be True or False, not 'no'"),
        ({"positive": None}, "positive of AGE must be True or False"),
        ({"aliases": 3}, "aliases of AGE must be names of columns, not 3"),
        ({"aliases": ("AGE_GYR", 3)}, "aliases of AGE must be names of columns"),
        ({"aliases": (None,)}, "aliases of AGE must be names of columns"),
        ({"aliases": (" ",)}, "aliases of AGE must be names of columns"),
        ({"aliases": ""}, "aliases of AGE must be names of columns"),
    ],
)
def test_kinds_that_cannot_be(options, match):
    with pytest.raises(LabelError, match=match):
        LabelKind(**{"name": "AGE", **options})


def test_what_is_no_kind_and_names_that_are_taken():
    with pytest.raises(LabelError, match="a LabelKind is needed"):
        register_label_kind("AGE")
    with pytest.raises(LabelError, match="LOG_G is the name or an alias of another label"):
        register_label_kind(LabelKind("GRAVITY", aliases=("log_g",)))
    for given in (3, None, AGE):
        with pytest.raises(LabelError, match="the name of a label is needed, such as 'AGE', not"):
            unregister_label_kind(given)


def test_kinds_of_installed_packages(monkeypatch):
    entries = [EntryPoint("mass", "elsewhere:MASS", label_kinds.GROUP)]
    mass = LabelKind("MASS_X", unit="solMass")
    monkeypatch.setattr("importlib.metadata.EntryPoint.load", lambda self: mass)
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: entries)
    label_kinds._know_installed.cache_clear()
    try:
        assert label_unit("MASS_X") == "solMass"
    finally:
        unregister_label_kind("MASS_X")
    assert known_unit("MASS_X") is None

"""Kinds of labels: what the package knows of a label by its name.

Text, unit, digits, usual range and the step in which gradients are shown are the fields of a
`LabelKind`. Known are the columns of APOGEE's catalogue, each ratio of an element to hydrogen,
iron or all metals among them; `register_label_kind` adds one, and every table, figure and prior
follows; packages name theirs in the entry points ``bayes_cannon.label_kinds``.

>>> kind = LabelKind("V_SPIN", tex="$v$", plain="v", unit="km/s", digits=1, prior=(0.0, 90.0))
>>> register_label_kind(kind)
>>> label_kind("v_spin").plain, label_number("V_SPIN", 41.26)
('v', '41 km/s')
>>> unregister_label_kind("V_SPIN")
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.columns import is_fill_value, one_or_more, whole_number
from bayes_cannon.base.plugins import plugins
from bayes_cannon.base.rounding import two_digits
from bayes_cannon.errors import InvalidDataError, LabelError

__all__ = [
    "LabelKind",
    "known_unit",
    "label_kind",
    "label_number",
    "label_tex",
    "label_unit",
    "register_label_kind",
    "registered_label_kinds",
    "shown_label",
    "two_digits",
    "unregister_label_kind",
]

GROUP = "bayes_cannon.label_kinds"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RATIO = re.compile(r"([A-Z0-9]+)_(FE|H|M)")
_ELEMENT = re.compile(
    "(LI|CI?|N|O|NA|MG|AL|SI|P|S|K|CA|TI(II)?|V|CR|MN|FE|CO|NI|CU|ZN|GE|RB|SR|Y|ZR|BA|LA|CE|ND|SM"
    "|EU|YB|M|ALPHA)"
)
_IONS = {"CI": "C I", "TIII": "Ti II"}


@dataclass(frozen=True)
class LabelKind:
    r"""What is known of a label by its name.

    Attributes
    ----------
    name : str
        Name of the label, that of a catalogue's column: letters, digits and ``_``. Capitals do
        not matter where a kind is looked up.
    tex, plain : str
        What figures and text call it, without the unit: ``r"$\log g$"``, ``"log g"``; the name
        where left out.
    unit : str
        Unit of its values: one that Astropy knows, ``'dex'``, or ``''`` for a plain number.
        Columns in another unit are converted to it.
    digits : int
        Places after the point of values in tables; figures have one fewer.
    step : float
        Change of the label for which gradients show the change of the flux, in `unit`.
    prior : (float, float) or None
        Usual range, in `unit`: that of the uniform default prior. None: from the training stars.
    positive : bool
        Whether values that are not positive stand for unknown ones.
    aliases : tuple of str
        Other names of the column in catalogues; a table that lacks `name` is searched for them.

    Raises
    ------
    LabelError
        On a name that no label can have, a unit that Astropy does not know, or numbers out of
        range.
    """

    name: str
    tex: str = ""
    plain: str = ""
    unit: str = "dex"
    digits: int = 3
    step: float = 0.1
    prior: tuple[float, float] | None = None
    positive: bool = False
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given: Any = self.name
        if not (isinstance(given, str) and _NAME.fullmatch(given)):
            raise LabelError(f"a label's name has letters, digits and _, like FE_H, not {given!r}.")
        for fits, what, wanted in (
            (_finite(self.step) and self.step > 0, "step", "positive"),
            (isinstance(self.positive, bool | np.bool_), "positive", "True or False"),
            (self.prior is None or _is_range(self.prior), "prior",
             "a finite range (lower, upper) with lower < upper"),
            (_are_columns(self.aliases), "aliases", "names of columns"),
        ):  # fmt: skip
            if not fits:
                value = getattr(self, what)
                raise LabelError(f"the {what} of {self.name} must be {wanted}, not {value!r}.")
        try:
            digits = whole_number(self.digits, "digits", least=0)
        except InvalidDataError as error:
            raise LabelError(f"{self.name}: {error}") from error
        for field, value in (
            ("tex", self.tex or self.name), ("plain", self.plain or self.name),
            ("aliases", one_or_more(self.aliases)), ("digits", digits),
            ("positive", bool(self.positive)),
            ("prior", None if self.prior is None else tuple(map(float, self.prior))),
        ):  # fmt: skip
            object.__setattr__(self, field, value)
        if self.unit not in ("", "dex"):
            try:
                u.Unit(self.unit)
            except (ValueError, TypeError) as error:
                raise LabelError(
                    f"the unit {self.unit!r} of {self.name} is none that astropy knows; give one "
                    "such as K, Gyr or km/s, 'dex', or '' for a plain number."
                ) from error

    def in_unit(self, unit: str) -> LabelKind:
        """Return the kind of the same label in another unit: step and digits follow.

        A label in a unit of its own has no usual range.

        Parameters
        ----------
        unit
            Text of the unit, ``''`` for a plain number.

        Examples
        --------
        >>> kelvin = label_kind("TEFF")
        >>> thousand = kelvin.in_unit("kK")
        >>> (kelvin.step, kelvin.digits), (round(thousand.step, 3), thousand.digits)
        ((100.0, 0), (0.1, 3))
        """
        if unit == self.unit:
            return self
        factor = _factor(self.unit, unit)
        if factor is None:
            digits, step = (0, 100.0) if unit == "K" else (3, 0.1)
        else:
            digits, step = max(0, self.digits - round(math.log10(factor))), self.step * factor
        return replace(self, unit=unit, digits=digits, step=step, prior=None)

    def is_fill(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Which values are fill values; see `bayes_cannon.base.columns.is_fill_value`.

        Parameters
        ----------
        values : (...) float
            In `unit`.

        Returns
        -------
        (...) bool
        """
        dex = self.unit == "dex" and _find(self.name) is not None
        return is_fill_value(values, dex=dex, positive=self.positive)

    def text(self, value: float, *, error: bool = False) -> str:
        """Value as text of a table, with a digit more for its error; no unit.

        Parameters
        ----------
        value
            In `unit`.
        error
            Whether it is an error of the label.

        Examples
        --------
        >>> label_kind("TEFF").text(4612.3), label_kind("MG_FE").text(0.0312, error=True)
        ('4612', '0.0312')
        """
        return f"{value:.{self.digits + error}f}"


def _is_range(given: Any) -> bool:
    try:
        low, high = given
    except (TypeError, ValueError):
        return False
    return _finite(low) and _finite(high) and bool(low < high)


def _are_columns(given: Any) -> bool:
    names = [given] if isinstance(given, str) else list(given) if np.iterable(given) else [None]
    return all(isinstance(name, str) and bool(name.strip()) for name in names)


def _finite(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value))


def _factor(own: str, other: str) -> float | None:
    """Factor from one unit to another; None where there is none."""
    if {own, other} & {"", "dex"}:
        return None
    try:
        factor = float(u.Unit(own).to(u.Unit(other)))
    except (ValueError, TypeError, u.UnitsError):
        return None
    return factor if factor > 0 else None


_OWN = (
    LabelKind(
        "TEFF", r"$T_\mathrm{eff}$", "Teff", "K", 0, 100.0, (0.0, 10000.0), positive=True,
        aliases=("T_EFF",),
    ),
    LabelKind("LOGG", r"$\log g$", "log g", "dex", 3, 0.1, (0.0, 10.0), aliases=("LOG_G",)),
    LabelKind("VMICRO", r"$v_\mathrm{micro}$", "v_micro", "km/s", 3, 0.1, (0.0, 50.0)),
    LabelKind("VMACRO", r"$v_\mathrm{macro}$", "v_macro", "km/s", 3, 0.1, (0.0, 500.0)),
    LabelKind("VSINI", r"$v\,\sin i$", "v sin i", "km/s", 3, 0.1, (0.0, 500.0)),
    LabelKind("AK_TARG", "$A_K$", "A_K", "mag", 3, 0.1),
    LabelKind("FE_H", "[Fe/H]", "[Fe/H]", "dex", 3, 0.1, (-2.0, 2.0), aliases=("FEH",)),
    LabelKind("M_H", "[M/H]", "[M/H]", "dex", 3, 0.1, (-2.0, 2.0), aliases=("MH",)),
)  # fmt: skip
_kinds: dict[str, LabelKind] = {kind.name: kind for kind in _OWN}
_lock = Lock()


def register_label_kind(kind: LabelKind, *, replace: bool = False) -> None:
    """Make a kind of label known: its text, unit, digits, prior and step.

    Every figure, table and default prior follows, in this process and in those that it starts for
    figures; registering the same kind again does nothing.

    Parameters
    ----------
    kind
        See `LabelKind`.
    replace
        Whether to take the place of another kind of that name.

    Raises
    ------
    LabelError
        If it is no `LabelKind`, or its name or an alias is taken and `replace` is false.

    Examples
    --------
    >>> register_label_kind(LabelKind("MASS", "$M$", "M", "solMass", 2, 0.1, (0.3, 5.0)))
    >>> label_unit("MASS"), shown_label("MASS")
    ('solMass', 'M')
    >>> unregister_label_kind("MASS")
    """
    name = _as_kind(kind).name.upper()
    with _lock:
        known = _kinds.get(name)
        if known == kind:
            return
        if known is not None and not replace:
            raise LabelError(
                f"a label {known.name} is known ({known.plain}, in {known.unit or 'no unit'}); "
                "choose another name, or pass replace=True."
            )
        own = {name, *(alias.upper() for alias in kind.aliases)}
        taken = {
            n for k in _kinds.values() if k.name.upper() != name
            for n in (k.name, *k.aliases) if n.upper() in own
        }  # fmt: skip
        if taken:
            raise LabelError(
                f"{', '.join(sorted(taken))} is the name or an alias of another label; {kind.name} "
                "cannot have it too."
            )
        _kinds[name] = kind


def _as_kind(given: Any) -> LabelKind:
    if not isinstance(given, LabelKind):
        raise LabelError(f"a LabelKind is needed, as LabelKind('AGE', unit='Gyr'), not {given!r}.")
    return given


def unregister_label_kind(name: str) -> None:
    """Forget a kind that was registered; the package's own come back. Unknown ones are none.

    Parameters
    ----------
    name
        Name of the label.

    Raises
    ------
    LabelError
        If it is no text.
    """
    given: Any = name
    if not isinstance(given, str):
        raise LabelError(f"the name of a label is needed, such as 'AGE', not {given!r}.")
    with _lock:
        _kinds.pop(name.upper(), None)
        _kinds.update({kind.name: kind for kind in _OWN if kind.name == name.upper()})


def registered_label_kinds() -> tuple[LabelKind, ...]:
    """All kinds that are registered, the package's own among them (ratios of elements are not)."""
    _know_installed()
    with _lock:
        return tuple(_kinds.values())


@cache
def _know_installed() -> None:
    """Register the kinds that installed packages name, once; those here before stay."""
    for kind in plugins(GROUP, _as_kind):
        with _lock:
            _kinds.setdefault(kind.name.upper(), kind)


def label_kind(name: str, unit: str | None = None) -> LabelKind:
    r"""Return the kind of a label; where nothing is known of its name, one that is named so.

    Parameters
    ----------
    name
        Name of the label, in any case; or one of its aliases.
    unit
        Unit that its values have, where that is known; see `LabelKind.in_unit`.

    Examples
    --------
    >>> label_kind("TEFF").plain, label_kind("ALPHA_M").tex, label_kind("RATIO").plain
    ('Teff', '$[\\alpha/M]$', 'RATIO')
    """
    name = str(name)
    kind = _find(name) or LabelKind(name if _NAME.fullmatch(name) else "LABEL", name, name)
    return kind if unit is None else kind.in_unit(unit)


def _find(name: str) -> LabelKind | None:
    upper = name.upper()
    kinds = registered_label_kinds()
    named = [kind for kind in kinds if kind.name.upper() == upper]
    named += [kind for kind in kinds if upper in (alias.upper() for alias in kind.aliases)]
    if named:
        return named[0]
    found = _RATIO.fullmatch(upper)
    return _ratio(upper, found[1], found[2]) if found else None


def _ratio(name: str, top: str, bottom: str) -> LabelKind:
    """Kind of an abundance ratio: in dex, with a usual range where the element is one."""
    known = _ELEMENT.fullmatch(top) is not None
    above = _IONS.get(top, top.capitalize() if len(top) < 3 and known else top)
    below = bottom.capitalize()
    tex = plain = f"[{above}/{below}]"
    if top == "ALPHA":
        tex, plain = rf"$[\alpha/{below}]$", f"[α/{below}]"
    return LabelKind(name, tex, plain, prior=(-2.0, 2.0) if known else None)


def label_unit(name: str) -> str:
    """Unit of a label of that name: ``'K'``, ``'km/s'``, ``'mag'``, …; ``'dex'`` if unknown.

    Parameters
    ----------
    name
        Of the label, in any case.

    Examples
    --------
    >>> label_unit("TEFF"), label_unit("VSINI"), label_unit("MG_FE")
    ('K', 'km/s', 'dex')
    """
    return label_kind(name).unit


def known_unit(name: str) -> str | None:
    """Unit that a label's name tells: as `label_unit`; None where the name tells none.

    Parameters
    ----------
    name
        Of the label, in any case.

    Examples
    --------
    >>> known_unit("FE_H"), known_unit("NUMAX")
    ('dex', None)
    """
    kind = _find(name)
    return None if kind is None else kind.unit


def label_tex(name: str) -> str:
    """Text of the label `name` for figures, e.g. ``'[Mg/Fe]'``; without its unit.

    >>> label_tex("MG_FE"), label_tex("M_H")
    ('[Mg/Fe]', '[M/H]')
    """
    return label_kind(name).tex


def shown_label(name: str) -> str:
    """Name of a label in plain text: ``Teff``, ``log g``, ``[Fe/H]``.

    Parameters
    ----------
    name
        Of the label, in any case.

    Examples
    --------
    >>> shown_label("TEFF"), shown_label("MG_FE"), shown_label("NUMAX")
    ('Teff', '[Mg/Fe]', 'NUMAX')
    """
    return label_kind(name).plain


def label_number(name: str, value: float, unit: str | None = None, *, dex: bool = True) -> str:
    """Value of a label with its unit as text of a figure, a digit fewer than in tables.

    Parameters
    ----------
    name
        Name of the label.
    value
        In `unit`.
    unit
        Unit of the value; that of the label's kind where left out.
    dex
        Whether to write the unit dex.

    Examples
    --------
    >>> label_number("TEFF", 4612.3), label_number("LOGG", -0.25)
    ('4612 K', '−0.25 dex')
    """
    kind = label_kind(name, unit)
    shown = "" if kind.unit == "dex" and not dex else kind.unit
    number = f"{value:.{max(kind.digits - 1, 0)}f}".replace("-", "−")
    return f"{number} {shown}".rstrip()

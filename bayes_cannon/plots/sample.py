"""Figures of a sample: the slice of a catalogue that cuts leave, and its labels in training."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import KnownLabels, as_labels
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    corner_grid,
    label_text,
    new_figure,
    plain_log_ticks,
    title_of,
)
from bayes_cannon.spectra.dataset import CutStep, TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.catalogue import Catalogue

__all__ = [
    "plot_catalogue_slice",
    "plot_sample",
]

_N_BINS = 30
_LIMITS = {"LOGG": "logg_max", "TEFF": "teff_max", "FE_H": "feh_min", "SNR": "snr_min"}
_MANY = 5000
"""Stars from which on points are drawn smaller."""
_LONGEST = 56
"""Letters of a cut's description that have room in a bar."""


def plot_catalogue_slice(
    catalogue: Catalogue,
    cuts: Cuts | None = None,
    *,
    label_names: Sequence[str] = DEFAULT_LABELS,
    steps: Sequence[CutStep] = (),
) -> Figure:
    """Slice of a catalogue: Teff and log g, S/N and labels with the cuts, and what each removed.

    Parameters
    ----------
    catalogue
        All rows; of a survey, ``survey.catalogue``.
    cuts
        Drawn as dashed lines, and applied in order to count what each removes.
    label_names
        Labels that a star must have; those beside Teff and log g get a histogram.
    steps
        Counts to list in place of those of the cuts, `TrainingSet.cut_steps` say, which go on with
        what reading the spectra removed.

    Raises
    ------
    LabelError
        If the catalogue lacks one of the labels.
    InvalidDataError
        If it has no row.
    """
    cuts = cuts or Cuts()
    if len(catalogue) == 0:
        raise InvalidDataError("the catalogue has no row to draw.")
    found = apply_cuts(catalogue, cuts, label_names)
    keep = found.keep
    columns = ["SNR", *(n for n in label_names if n not in ("TEFF", "LOGG"))]
    columns = [n for n in columns if n in catalogue.table.colnames]
    n_rows = max(1, -(-len(columns) // 4))
    figure = new_figure((13.0, 4.2 + 2.6 * n_rows))
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=[4.2, 2.6 * n_rows]), object)
    kiel, listed = above.subplots(1, 2, width_ratios=[1.15, 1])
    _draw_kiel(kiel, catalogue, keep, cuts)
    _list_steps(listed, tuple(steps) or found.rows)
    axes = list(below.subplots(n_rows, min(4, len(columns)), squeeze=False).ravel())
    for ax, name in zip(axes, columns, strict=False):
        _draw_histogram(ax, _values(catalogue, name), keep, name, cuts)
    for ax in axes[len(columns) :]:
        ax.set_axis_off()
    axes[0].set_ylabel("stars")
    n, release = int(keep.sum()), catalogue.release.upper()
    where = f" of {release}" if release else ""
    figure.suptitle(
        title_of(f"Catalogue slice{where}: {n} of {count_text(keep.size, 'star')} pass the cuts",
                 simulated=catalogue.simulated),
        fontsize=13,
    )  # fmt: skip
    return figure


def _values(catalogue: Catalogue, name: str) -> FloatArray:
    return np.asarray(catalogue.table[name], dtype=np.float64)


def _draw_kiel(ax: Axes, catalogue: Catalogue, keep: NDArray[np.bool_], cuts: Cuts) -> None:
    """Teff against log g: stars that pass coloured by [Fe/H], the others grey."""
    missing = np.full(len(catalogue), np.nan)
    teff, logg, feh = (
        _values(catalogue, n) if n in catalogue.table.colnames else missing
        for n in ("TEFF", "LOGG", "FE_H")
    )
    size = 9 if keep.size < _MANY else 3
    ax.scatter(teff[~keep], logg[~keep], s=1.6 * size, marker="x", lw=0.8, color=GREY, alpha=0.7,
               label=f"removed ({int((~keep).sum())})", rasterized=True)  # fmt: skip
    color = np.where(np.isfinite(feh), feh, 0.0)
    points = ax.scatter(teff[keep], logg[keep], c=color[keep], s=size, lw=0, cmap="viridis",
                        label=f"kept ({int(keep.sum())})", rasterized=True)  # fmt: skip
    if keep.any() and np.isfinite(feh[keep]).any():
        ax.figure.colorbar(points, ax=ax, label=label_text("FE_H"), pad=0.01)
    for limit, draw in ((cuts.teff_max, ax.axvline), (cuts.logg_max, ax.axhline)):
        if limit is not None:
            draw(limit, color=ORANGE, ls="--", lw=1.4)
    ax.plot([], [], color=ORANGE, ls="--", lw=1.4, label="cuts")
    ax.invert_xaxis()
    ax.invert_yaxis()
    ax.set(xlabel=label_text("TEFF"), ylabel=label_text("LOGG"))
    ax.legend(loc="upper left", fontsize=9, framealpha=0.9)


def _list_steps(ax: Axes, steps: Sequence[CutStep]) -> None:
    """Cuts from top to bottom: bars of the stars left, what the cut was, numbers removed, left."""
    most = max(1, *(s.remaining for s in steps))
    ax.barh(range(len(steps)), [s.remaining for s in steps], color=BLUE, alpha=0.25, height=0.8)
    across = ax.get_yaxis_transform()
    for y, step in enumerate(steps):
        removed = f"−{step.removed}" if step.removed else ""
        text = f"{step.description[:_LONGEST]}{'…' if len(step.description) > _LONGEST else ''}"
        for x, part, align, color in (
            (0.012, f"{step.name}: {text}", "left", BLACK),
            (0.88, removed, "right", ORANGE),
            (0.985, f"{step.remaining}", "right", BLACK),
        ):
            ax.text(x, y, part, transform=across, va="center", ha=align, fontsize=8.5, color=color)
    for x, text in ((0.88, "removed"), (0.985, "left")):
        ax.text(x, 1.01, text, transform=ax.transAxes, ha="right", va="bottom", fontsize=9)
    ax.set_ylim(len(steps) - 0.5, -0.5)
    ax.set_xlim(0, most / 0.78)
    ax.set_yticks([])
    ax.set_xlabel("stars left after each step")


def _draw_histogram(
    ax: Axes, values: FloatArray, keep: NDArray[np.bool_], name: str, cuts: Cuts
) -> None:
    known = np.isfinite(values)
    text = "S/N per pixel" if name == "SNR" else label_text(name)
    ax.set_xlabel(text)
    if not known.any():
        ax.text(0.5, 0.5, "unknown", transform=ax.transAxes, ha="center")
        return
    low, high = np.percentile(values[known], [0.2, 99.8])
    if name == "SNR" and low > 0:
        edges = np.geomspace(low, max(high, low * 1.01), _N_BINS + 1)
        plain_log_ticks(ax, x=True)
    else:
        edges = np.linspace(low, max(high, low + 1e-6), _N_BINS + 1)
    inside = np.clip(values[known], edges[0], edges[-1])
    counts = np.histogram(inside, edges)[0]
    ax.stairs(counts, edges, fill=True, color=GREY, alpha=0.45, label="all")
    ax.stairs(np.histogram(inside[keep[known]], edges)[0], edges, color=BLUE, lw=1.6, label="kept")
    ax.set_ylim(0, 1.4 * max(int(counts.max()), 1))
    limit = getattr(cuts, _LIMITS[name]) if name in _LIMITS else None
    if limit is not None:
        ax.axvline(limit, color=ORANGE, ls="--", lw=1.4, label=f"cut at {limit:g}")
    ax.legend(fontsize=8.5, loc="upper left", ncols=3, columnspacing=0.8, handlelength=1.2)


def plot_sample(
    training: KnownLabels,
    held_out: KnownLabels | None = None,
    *,
    cuts: Cuts | None = None,
    names: str | Sequence[str] | None = None,
    simulated: bool | None = None,
) -> Figure:
    """Corner plot of a sample's labels, with the cuts; training and held-out stars apart.

    Parameters
    ----------
    training
        Stars to train on.
    held_out
        Stars that are not trained on.
    cuts
        Drawn as dashed lines where they lie in a panel; left out, those of a training set's
        settings.
    names
        Labels shown; all where left out.
    simulated
        Whether the title says so; a training set knows it.

    Raises
    ------
    LabelError
        If a label is not there.
    InvalidDataError
        If no star has all labels.
    """
    sets = {"training": training} | ({} if held_out is None else {"held-out": held_out})
    found = {k: as_labels(s, k) for k, s in sets.items()}
    labels = {k: s for k, s in found.items() if s is not None}
    if "training" not in labels:
        raise InvalidDataError("the labels of training stars are needed.")
    known = labels["training"].names
    units = dict(zip(known, labels["training"].units, strict=True))
    names = list(known) if names is None else list(one_or_more(names))
    if unknown := [n for n in names if any(n not in s.names for s in labels.values())]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; there are {', '.join(known)}.")
    points = {k: s.only(names).select(s.only(names).complete).values for k, s in labels.items()}
    everything = np.concatenate(list(points.values()))
    if len(everything) == 0:
        raise InvalidDataError("no star has all labels; show fewer with names=.")
    if cuts is None:
        cuts = _cuts_of(training)
    if simulated is None:
        simulated = any(isinstance(s, TrainingSet) and s.spectra.simulated for s in sets.values())
    lines = {n: getattr(cuts, _LIMITS[n]) for n in names if n in _LIMITS} if cuts else {}
    limits = _limits(everything, names, lines)
    figure, axes = corner_grid([label_text(n, units[n]) for n in names], limits)
    for color, (kind, values) in zip((BLUE, ORANGE), points.items(), strict=False):
        _draw_points(axes, values, limits, color, filled=kind == "training")
    _draw_cuts(axes, names, limits, lines)
    handles = [
        Line2D(
            [],
            [],
            color=color,
            marker="o",
            ms=5,
            lw=1.4,
            label=f"{kind}: {count_text(len(v), 'star')}",
        )
        for color, (kind, v) in zip((BLUE, ORANGE), points.items(), strict=False)
    ]
    if any(v is not None for v in lines.values()):
        handles.append(Line2D([], [], color=PURPLE, ls="--", lw=1.6, label="cuts"))
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.985, 0.93), fontsize=11)
    figure.suptitle(title_of("Labels of the sample", simulated=simulated), fontsize=13)
    return figure


def _cuts_of(training: KnownLabels) -> Cuts | None:
    """Cuts that a training set was made with, None where it does not say."""
    text = training.settings.get("cuts") if isinstance(training, TrainingSet) else None
    return Cuts(**json.loads(text)) if isinstance(text, str) else None


def _limits(
    values: FloatArray, names: Sequence[str], lines: dict[str, float | None]
) -> list[tuple[float, float]]:
    """Range of each label, with its cut where that is near."""
    limits = []
    for low, high, name in zip(values.min(axis=0), values.max(axis=0), names, strict=True):
        room = 0.06 * max(high - low, 1e-6)
        cut = lines.get(name)
        if cut is not None and low - 4 * room < cut < high + 4 * room:
            low, high = min(low, cut), max(high, cut)
        limits.append((float(low - room), float(high + room)))
    return limits


def _draw_points(
    axes: NDArray[np.object_],
    values: FloatArray,
    limits: Sequence[tuple[float, float]],
    color: str,
    *,
    filled: bool,
) -> None:
    alpha = float(np.clip(18 / np.sqrt(max(len(values), 1)), 0.15, 0.8))
    for i in range(len(axes)):
        counts, edges = np.histogram(values[:, i], np.linspace(*limits[i], _N_BINS + 1))
        axes[i, i].stairs(counts, edges, color=color, lw=1.5, fill=filled,
                          alpha=0.35 if filled else 1)  # fmt: skip
        for k in range(i):
            axes[i, k].plot(values[:, k], values[:, i], "o", ms=2.2, mew=0, color=color,
                            alpha=alpha, rasterized=True)  # fmt: skip


def _draw_cuts(
    axes: NDArray[np.object_],
    names: Sequence[str],
    limits: Sequence[tuple[float, float]],
    lines: dict[str, float | None],
) -> None:
    for i, name in enumerate(names):
        cut = lines.get(name)
        if cut is None or not limits[i][0] < cut < limits[i][1]:
            continue
        for k in range(len(names)):
            if k >= i:
                axes[k, i].axvline(cut, color=PURPLE, ls="--", lw=1.6)
            if k < i:
                axes[i, k].axhline(cut, color=PURPLE, ls="--", lw=1.6)
    for i in range(len(names)):
        axes[i, i].set_ylim(bottom=0)
        axes[i, i].spines[["top", "right"]].set_color(BLACK)

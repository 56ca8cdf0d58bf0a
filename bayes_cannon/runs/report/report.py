"""The report of a run: one HTML file with everything inside, and its figures as files beside it."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from bayes_cannon._version import __version__
from bayes_cannon.base.cards import simulated_text
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.storage import write_atomically
from bayes_cannon.errors import BayesCannonError, InvalidDataError, OutputExistsError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import figure_of
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.loading import PathLike, load_inputs
from bayes_cannon.runs.report.page import (
    GENERATOR,
    Chapter,
    Explorer,
    Note,
    Page,
    Part,
    Picture,
    plain,
)
from bayes_cannon.runs.report.parts import Drawing, Section
from bayes_cannon.runs.report.sections import registered_sections
from bayes_cannon.runs.results import Run, folder_of
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.surveys.reductions import other_reductions

__all__ = [
    "Report",
    "write_report",
]


_log = logging.getLogger(__name__)
_DPI = 120
_HEAD = 2000
"""Bytes at the start of a file in which a report names its generator."""


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes
    ----------
    path : Path
        The HTML file.
    size : int
        Its size in bytes.
    figures : tuple of Path
        Files of the figures, where they were written.
    failed : mapping of str to str
        By the key of a section: why it, or a figure in it, could not be made.
    missing : mapping of str to str
        By the key of a section: which input it lacked.
    """

    path: Path
    size: int
    figures: tuple[Path, ...]
    failed: dict[str, str]
    missing: dict[str, str]


def write_report(
    run: Run | PathLike,
    *,
    cannon: Cannon | PathLike | None = None,
    dataset: TrainingSet | PathLike | None = None,
    survey: PathLike | None = None,
    truth: Labels | PathLike | None = None,
    mystery: Run | PathLike | None = None,
    repeats: PathLike | None = None,
    out: PathLike | None = None,
    overwrite: bool = False,
    sections: Sequence[Section] | None = None,
    published: bool = False,
    pdf: bool = False,
    progress: Progress = None,
) -> Report:
    """Write ``report.html`` and ``figures/`` of a run.

    A section whose input is missing says so; one that cannot be made has a line that says why, and
    the log has the whole story. Neither stops the others.

    Parameters
    ----------
    run
        A run, or its directory.
    cannon, dataset
        The trained model and the dataset; left out, the files that the run notes.
    survey
        Folder with the raw spectra, see `load_inputs`.
    truth
        True labels of simulated stars, or a file of them.
    mystery
        A run of stars without catalogue labels, shown in a section of this report.
    repeats
        Folder of repeated visits (see `bayes_cannon.runs.run_repeats`), shown in a section.
    out
        Another file to write than ``RUN/report.html``; then no figures are written beside it.
    overwrite
        Replace a file `out` that is not an earlier report.
    sections
        What to show; left out, all that are registered (see `registry.section`).
    published
        Show accuracies that others published beside ours.
    pdf
        Write every figure as PDF, too, which takes as long again. Without, those PDFs
        of an earlier report are removed that would show other figures.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    Report

    Raises
    ------
    FileFormatError
        If the run, or a file that was given, is missing or damaged.
    OutputExistsError
        If the report cannot be written, or `out` is a file of another kind.
    """
    folder = folder_of(run)
    target = folder / "report.html" if out is None else user_path(out)
    _refuse_others(target, overwrite=overwrite)
    inputs = load_inputs(
        run, cannon=cannon, dataset=dataset, survey=survey, truth=truth, mystery=mystery,
        repeats=repeats,
    )  # fmt: skip
    inputs = replace(inputs, published=published)
    maker = _Maker(inputs, folder / "figures" if out is None else None, pdf=pdf)
    sections = registered_sections() if sections is None else sections
    chapters: list[Chapter] = []
    with as_progress(progress) as tell:
        for number, section in enumerate(sections, 1):
            chapter = maker.chapter(section)
            chapters += [] if chapter is None else [chapter]
            tell(number, len(sections), "report")
    page = _page(inputs, chapters)

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(page.pieces())

    write_atomically(target, write, overwrite=True)
    return Report(
        target, target.stat().st_size, tuple(maker.files), dict(maker.failed), dict(maker.missing)
    )


def _refuse_others(target: Path, *, overwrite: bool) -> None:
    """Raise if the target is something else than an earlier report."""
    if overwrite or not target.is_file():
        return
    with target.open("rb") as file:
        if f'name="generator" content="{GENERATOR}"'.encode() in file.read(_HEAD):
            return
    raise OutputExistsError(
        f"{target} exists and is not a report of bayes-cannon; choose another path or pass "
        "--overwrite."
    )


class _Maker:
    """Makes chapters from sections; keeps what failed and which files were written."""

    def __init__(self, inputs: ReportInputs, folder: Path | None, *, pdf: bool) -> None:
        self.inputs, self.folder, self.pdf = inputs, folder, pdf
        self.files: list[Path] = []
        self.failed: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def chapter(self, section: Section) -> Chapter | None:
        """Make the chapter of a section; None where an optional one lacks its input."""
        lacking = [name for name in section.needs if getattr(self.inputs, name) is None]
        if lacking and section.optional:
            return None
        if lacking:
            reasons = dict.fromkeys(
                self.inputs.missing.get(name, f"needs {name}, which is missing.")
                for name in lacking
            )
            self.missing[section.key] = " ".join(reasons)
            note = Note(f"Not shown: {' '.join(reasons)}", gone=True)
            return Chapter(section.key, section.title, section.see, [note], absent=True)
        parts = list(self._parts(section))
        return Chapter(section.key, section.title, section.see, parts)

    def _parts(self, section: Section) -> Iterator[Part]:
        """Parts of a section; a drawing that fails is replaced by a line, and the rest goes on."""
        items, reason = self._try(section, lambda: iter(section.make(self.inputs)))
        while items is not None:
            item, reason = self._try(section, partial(next, items, None))
            if item is None:
                break
            if not isinstance(item, Drawing):
                yield self._placed(item)
                continue
            picture, reason = self._try(section, partial(self._picture, item))
            yield picture or Note(f"{item.alt} could not be drawn: {reason}", gone=True)
        if reason:
            yield Note(f"This section could not be made further: {reason}", gone=True)

    def _try[T](self, section: Section, make: Callable[[], T]) -> tuple[T | None, str]:
        """Call `make`; what it raises goes into the log, and comes back in one line."""
        open_before = set(plt.get_fignums())
        try:
            return make(), ""
        except OutputExistsError:
            raise
        except Exception as error:
            reason = _reason(error)
            _log.warning("section %s of the report: %s", section.key, reason)
            _log.info("section %s of the report:", section.key, exc_info=error)
            self.failed[section.key] = reason
            return None, reason
        finally:
            for number in set(plt.get_fignums()) - open_before:
                plt.close(number)

    def _placed(self, item: Part) -> Part:
        """A part as it is, but for files that do not lie beside this page."""
        if isinstance(item, Explorer) and self.folder is None:
            return replace(item, data=item.data | {"beside": False})
        return item

    def _picture(self, drawing: Drawing) -> Picture:
        path = None if self.folder is None else self._path(self.folder, drawing.name)
        if drawing.kept and path is not None and path.is_file() and not path.is_symlink():
            self.files.append(path)
            kinds = ("png", "pdf") if path.with_suffix(".pdf").is_file() else ("png",)
            return Picture(path.read_bytes(), drawing.alt, drawing.caption, path.stem, kinds)
        figure = figure_of(drawing.draw())
        try:
            png = _render(figure)
            if path is None:
                return Picture(png, drawing.alt, drawing.caption)
            files = {path: png}
            beside = path.with_suffix(".pdf")
            if self.pdf:
                files[beside] = _pdf(figure)
            elif beside.is_file() and not beside.is_symlink():
                beside.unlink()
            for target, content in files.items():
                write_atomically(target, partial(_write_bytes, content=content), overwrite=True)
        finally:
            plt.close(figure)
        self.files.append(path)
        kinds = ("png", "pdf") if self.pdf else ("png",)
        return Picture(png, drawing.alt, drawing.caption, drawing.name, kinds)

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        """File of a figure; its name must not lead out of the folder."""
        path = folder / f"{name}.png"
        if path.parent != folder or path.name != f"{name}.png":
            raise InvalidDataError(f"{name!r} cannot be the name of a figure's file.")
        return path


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _reason(error: Exception) -> str:
    """What went wrong, in one line."""
    said = " ".join(plain(" ".join(str(error).split())).split())
    return said if isinstance(error, BayesCannonError) else f"{type(error).__name__}: {said}"


def _pdf(figure: Figure) -> bytes:
    """PDF of a figure that was drawn, laid out as it was, with fonts that editors can change."""
    figure.set_layout_engine("none")
    pdf = io.BytesIO()
    with mpl.rc_context({"pdf.fonttype": 42}):
        figure.savefig(pdf, format="pdf")
    return pdf.getvalue()


def _render(figure: Figure) -> bytes:
    """PNG of a figure.

    Curves of many points are pixels in it, so that its size does not grow with them; 256 colours
    are plenty for plots, and halve it.
    """
    figure.set_dpi(_DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    png = io.BytesIO()
    pixels.quantize(256, dither=Image.Dither.NONE).save(png, format="png")
    return png.getvalue()


def _banner(inputs: ReportInputs) -> str:
    if inputs.simulated_stars.all() and inputs.simulated:
        return "SIMULATED: no star of this run is real"
    if inputs.simulated:
        return f"{simulated_text(inputs.simulated_stars)}: those stars of this run are not real"
    if inputs.model_simulated:
        return "The model was trained on SIMULATED stars"
    return other_reductions(inputs.table)


def _page(inputs: ReportInputs, chapters: Sequence[Chapter]) -> Page:
    n, names = len(inputs.table), ", ".join(shown_label(name) for name in inputs.names)
    made_of = (inputs.summary.get("model") or {}).get("dataset", {})
    own = made_of.get("source") == "own spectra"
    spectra = (
        made_of.get("spectra", "own") if own else f"{made_of.get('release', '').upper()} APOGEE"
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Page(
        title=f"Stellar labels of {n:,} {'star' if n == 1 else 'stars'}",
        lines=[
            f"{names} from {spectra.strip()} spectra, by The Cannon as two PyMC models",
            f"Run: {inputs.folder.resolve().name}; report of {made}",
        ],
        banner=_banner(inputs),
        chapters=chapters,
        footer=f"Made by bayes_cannon {__version__}. Wavelengths are "
        f"{f'in {inputs.cannon.medium} and ' if inputs.cannon else ''}in the rest frame of the "
        "star.",
    )

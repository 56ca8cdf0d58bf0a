"""From a survey to a training set on disk: block by block, by one process or many."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.digests import ContentDigest
from bayes_cannon.base.parallel import as_executor, in_order
from bayes_cannon.base.paths import has_ending, user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.stores.rows import RowStore, write_block
from bayes_cannon.errors import BayesCannonError, InvalidDataError
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.files.storing import PIXELS, finish_set, row_facts
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.spectra.star_ids import simulated_note
from bayes_cannon.spectra.stored import StoredSet, StoredSpectra
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.plans import Plan
from bayes_cannon.surveys.reading import Treatment, Windows, read_treated
from bayes_cannon.surveys.survey import Survey

__all__ = [
    "prepare_to",
]


def prepare_to(
    out: str | os.PathLike[str],
    survey: Survey | str | os.PathLike[str],
    *,
    label_names: str | Sequence[str] = DEFAULT_LABELS,
    cuts: Cuts | None = None,
    bad_bits: str | int = "default",
    continuum: ContinuumSettings | None = None,
    windows: Windows | Literal["default"] | None = "default",
    allow_missing_labels: bool = False,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> StoredSet:
    """Read a survey as `prepare` does, and write the spectra to disk block by block.

    Only one block of spectra is in memory at a time, for each worker. Where a call was cut off,
    the same one goes on; blocks that were damaged since are read again. On a finished dataset it
    ends at once. What is written depends neither on interruptions nor on the workers.

    Parameters
    ----------
    out
        Folder to write in Zarr's layout, ending with ``.zarr``.
    survey, label_names, cuts, bad_bits, continuum, windows, allow_missing_labels
        See `prepare`.
    executor
        Reads blocks of stars side by side: any of `concurrent.futures`, or that of a Dask client.
        Workers write their own blocks: all must see `out` and the survey.
    overwrite
        Replace a dataset that is there.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    StoredSet
        Its spectra stay on disk.

    Raises
    ------
    NoStarsError
        If the cuts, or troubles with the files, leave no star.
    InvalidDataError
        If the windows do not fit the spectra, or `out` does not end with ``.zarr``.
    OutputExistsError
        If the folder holds something else or a dataset made otherwise, cannot be written, or
        another process writes it. What is done stays: the same call goes on.
    FitError
        If the executor fails.
    """
    folder = user_path(out).absolute()
    if not has_ending(folder, ".zarr"):
        raise InvalidDataError(f"a dataset on disk needs a name that ends with .zarr, not {out}.")
    executor = as_executor(executor)
    plan = Plan.make(
        survey, label_names=label_names, cuts=cuts, bad_bits=bad_bits, continuum=continuum,
        windows=windows, allow_missing_labels=allow_missing_labels,
    )  # fmt: skip
    files, star_id = plan.files, plan.star_id
    store = RowStore(
        folder, PIXELS, (len(files), plan.treatment.n_pixels), digest=_digest(plan),
        overwrite=overwrite,
    )  # fmt: skip
    with store, as_progress(progress) as tell:
        pending, done = store.pending, 0

        def finished(number: int) -> None:
            nonlocal done
            rows = store.blocks[pending[number]]
            done += rows.stop - rows.start
            tell(earlier + done, len(files), "reading spectra")

        tasks = [
            _Block(folder, block, files[rows], star_id[rows], plan.treatment)
            for block, rows in ((block, store.blocks[block]) for block in pending)
        ]
        earlier = len(files) - sum(len(task.files) for task in tasks)
        for _ in in_order(executor, _prepare_block, tasks, named=_names, finished=finished):
            pass
        if not store.is_whole:
            read = _Read.of_store(store, plan)
            try:
                made = plan.training_set(read, StoredSet)
            except BayesCannonError:  # of no use as they are: files may be mended, cuts loosened
                store.forget()
                raise
            finish_set(store, made, made.spectra.row, made.spectra.n_good)
    return StoredSet.load(folder)


def _digest(plan: Plan) -> str:
    """Digest of what the dataset is made of."""
    digest = ContentDigest()
    settings = {k: v for k, v in plan.settings.items() if k != "survey"}
    digest.text(json.dumps([settings, plan.names], sort_keys=True))
    base = plan.survey.path
    digest.array(plan.star_id)
    digest.text(json.dumps([os.path.relpath(file, base) for file in plan.files]))
    return digest.hex


@dataclass(frozen=True, eq=False)
class _Block:
    """What a worker is sent to prepare a block of stars."""

    folder: Path
    block: int
    files: list[str]
    star_id: NDArray[np.str_]
    treatment: Treatment


def _names(block: _Block) -> str:
    return name_some(block.star_id)


def _prepare_block(given: _Block) -> None:
    """Read, normalise and write the stars of a block; those of no use stay empty rows."""
    began = time.monotonic()
    read = read_treated(given.files, given.star_id, given.treatment)
    arrays = {
        name: np.zeros((len(given.files), given.treatment.n_pixels), np.float32) for name in PIXELS
    }
    arrays["flux"][read.kept], arrays["ivar"][read.kept] = read.flux, read.ivar
    facts = {
        **row_facts(read.ivar),
        "place": read.kept.tolist(),
        "snr": [float(star.snr) for star in read.stars],
        "simulated": [star.simulated for star in read.stars],
        "masked_chips": read.masked_chips.astype(int).tolist(),
        "notes": {name: text.tolist() for name, text in read.notes.items()},
        "n_readable": read.n_readable,
        "problems": [asdict(problem) for problem in read.problems],
    }
    write_block(given.folder, given.block, arrays, facts, time.monotonic() - began)


@dataclass(frozen=True, eq=False)
class _Read:
    """What was noted of all stars; see `Readable`."""

    kept: NDArray[np.intp]
    n_readable: int
    problems: tuple[StarProblem, ...]
    masked_chips: NDArray[np.bool_]
    stored: StoredSpectra

    def spectra(self) -> StoredSpectra:
        """Return the spectra, which are on disk."""
        return self.stored

    @classmethod
    def of_store(cls, store: RowStore, plan: Plan) -> _Read:
        """Gather it from the blocks, all of which are done."""
        facts = list(store.facts())
        starts = [rows.start for rows in store.blocks]
        kept = np.array(
            [start + k for start, f in zip(starts, facts, strict=True) for k in f["place"]],
            dtype=np.intp,
        )
        stored = StoredSpectra(
            path=store.folder,
            row=kept,
            star_id=plan.star_id[kept],
            snr=np.array(_joined(facts, "snr"), dtype=np.float64),
            n_good=np.array(_joined(facts, "n_good"), dtype=np.intp),
            simulated=any(marks := _joined(facts, "simulated")),
            notes=_notes(facts) | simulated_note(marks),
            **plan.treatment.grid(),
        )
        problems = tuple(StarProblem(**p) for p in _joined(facts, "problems"))
        masked = np.array(_joined(facts, "masked_chips"), dtype=np.bool_)
        return cls(kept, sum(f["n_readable"] for f in facts), problems, masked, stored)


def _joined(facts: Sequence[dict[str, Any]], name: str) -> list[Any]:
    return [value for f in facts for value in f[name]]


def _notes(facts: Sequence[dict[str, Any]]) -> dict[str, NDArray[np.str_]]:
    """Columns of text; '' where a block has none."""

    def column(name: str) -> Iterator[str]:
        for f in facts:
            yield from f["notes"].get(name, [""] * len(f["place"]))

    names = dict.fromkeys(name for f in facts for name in f["notes"])
    return {name: np.array(list(column(name)), dtype=np.str_) for name in names}

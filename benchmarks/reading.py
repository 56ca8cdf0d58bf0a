"""Speed and memory of reading files and preparing a survey."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from astropy.io import fits
from common import clock, say, short, table
from memory import measure

from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.apogee.apstar import read_apstar
from bayes_cannon.surveys.preparing import prepare
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.survey import open_survey

TITLE = "Reading and preparing"


def section(*, quick: bool) -> Iterator[str]:
    """Single files, and surveys of growing size."""
    with tempfile.TemporaryDirectory() as folder:
        say("reading: files")
        survey = simulate_survey(Path(folder) / "survey", n_stars=150, seed=1)
        yield _files(sorted(survey.glob("*/*/*Star-*.fits"))[:100])
        yield _dataset(survey, Path(folder) / "dataset.nc")
    yield _surveys((75, 150) if quick else (150, 300, 599))


def _plain(path: Path) -> None:
    """What a script would do: flux, error, mask and the header, all checks left out."""
    with fits.open(path, memmap=False) as file:
        _ = [file[i].data[0].astype(float) for i in (1, 2, 3)], dict(file[0].header)


def _files(paths: list[Path]) -> str:
    """Both ways in turn; shortest of three turns."""
    turns = []
    for _ in range(3):
        ours, _ = clock(lambda: [read_apstar(p) for p in paths])
        plain, _ = clock(lambda: [_plain(p) for p in paths])
        turns.append((ours / plain, ours, plain))
    ours, plain = (min(t[i] for t in turns) * 1e3 / len(paths) for i in (1, 2))
    size = sum(p.stat().st_size for p in paths) / len(paths) / 1e6
    rows = [
        ("`read_apstar`", short(ours), short(min(t[0] for t in turns))),
        ("astropy, three arrays and the header", short(plain), "1"),
    ]
    return (
        f"{len(paths)} simulated apStar files of {size:.2g} MB from the page cache, one process; "
        "shortest of three turns. `read_apstar` also checks the layout, the wavelength scale and "
        "the values.\n\n" + table(("one file", "ms", "ratio"), rows)
    )


def _dataset(survey: Path, path: Path) -> str:
    stars = prepare(open_survey(survey))
    saving, _ = clock(lambda: stars.save(path))
    loading, _ = clock(lambda: TrainingSet.load(path))
    rows = [(stars.n_stars, short(path.stat().st_size / 1e6), short(saving), short(loading))]
    return "The dataset on disk.\n\n" + table(("stars", "MB", "save, s", "load, s"), rows)


def _surveys(sizes: tuple[int, ...]) -> str:
    rows = []
    for n_stars in sizes:
        say(f"reading: a survey of {n_stars} stars")
        one = measure("prepare", n_stars)
        rows.append(
            (n_stars, short(one["simulate"]), short(one["seconds"]),
             short(one["seconds"] * 1e3 / n_stars), short(one["peak"]), short(one["data"]))
        )  # fmt: skip
    head = (
        "stars", "`simulate_survey`, s", "`prepare`, s", "ms a star", "peak memory, GB",
        "of it before, GB",
    )  # fmt: skip
    return (
        "`prepare`: cuts, reading, masks, continuum of three chips, from files just written; each "
        "size in a process of its own.\n\n" + table(head, rows)
    )

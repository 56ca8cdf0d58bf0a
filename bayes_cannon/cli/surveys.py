"""The commands about surveys: simulate, download, prepare."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bayes_cannon.cli.options import (
    Overwrite,
    Progress,
    Scheduler,
    Seed,
    Workers,
    bits_of,
    check_options,
    numbers_of_text,
    print_cuts,
    to_go_on,
)
from bayes_cannon.errors import InvalidDataError

if TYPE_CHECKING:
    from bayes_cannon.spectra.dataset import TrainingSet
    from bayes_cannon.surveys.readers import SurveyReader

__all__ = [
    "download",
    "prepare",
    "readers",
    "simulate",
]


_OF_READER = "Default: as the survey's reader says; APOGEE: "


def simulate(
    out: Annotated[Path, typer.Argument(help="Folder to write the survey to.")],
    n_stars: Annotated[
        int | None, typer.Option(help="Number of stars. Default: all stars of the library.")
    ] = None,
    label_errors: Annotated[
        float, typer.Option(help="Size of the errors of the catalogue labels, relative to DR17.")
    ] = 1.0,
    layout: Annotated[
        str, typer.Option(help="Layout of the files: dr17, or mwm, that of DR19 (SDSS-V).")
    ] = "dr17",
    hard: Annotated[
        bool, typer.Option("--hard", help="Add all faults of real spectra, in realistic sizes.")
    ] = False,
    rest_frame: Annotated[
        float | None, typer.Option(help="Error of the rest frame, km/s rms. With --hard: 0.4.")
    ] = None,
    correlation: Annotated[
        float | None,
        typer.Option(help="Noise shared by neighbours: c of the kernel (c, 1, c). --hard: 0.3."),
    ] = None,
    ghosts: Annotated[
        float | None,
        typer.Option(help="Share of stars with a ghost in the blue chip. --hard: 0.15."),
    ] = None,
    tellurics: Annotated[
        float | None, typer.Option(help="Telluric residuals, share of flux rms. --hard: 0.01.")
    ] = None,
    sky: Annotated[
        float | None, typer.Option(help="Residuals of unmasked sky lines, sigma rms. --hard: 3.")
    ] = None,
    error_scale: Annotated[
        float | None,
        typer.Option(help="Spread of quoted over true flux error from star to star. --hard: 0.2."),
    ] = None,
    broadened: Annotated[
        float | None, typer.Option(help="Share of stars broadened by 4-9 km/s. --hard: 0.05.")
    ] = None,
    blends: Annotated[
        float | None, typer.Option(help="Share of blends of two giants. --hard: 0.03.")
    ] = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Write a simulated survey in the layout of the SDSS archive.

    Every file is marked as simulated in its header, which also tells the faults;
    `truth.ecsv` names the blends, broadened stars, ghosts and shifts. An option beside --hard
    replaces its value.
    """
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.surveys.simulation.faults import SurveyFaults
    from bayes_cannon.surveys.simulation.simulate import simulate_survey
    from bayes_cannon.surveys.simulation.stars import SimulationSettings

    asked = {
        "rest_frame": rest_frame, "correlation": correlation, "ghosts": ghosts,
        "tellurics": tellurics, "sky": sky, "error_scale": error_scale, "broadened": broadened,
        "blends": blends,
    }  # fmt: skip
    faults = replace(
        SurveyFaults.hard() if hard else SurveyFaults(),
        **{name: size for name, size in asked.items() if size is not None},
    )
    settings = SimulationSettings(label_error_scale=label_errors, faults=faults)
    with watching() as progress:
        simulate_survey(
            out, n_stars=n_stars, seed=seed, settings=settings, layout=layout,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    OUT.print(f"{out}: a simulated survey{' with the faults of real spectra' if faults else ''}")


def download(
    out: Annotated[Path, typer.Argument(help="Survey folder to create or to complete.")],
    release: Annotated[str, typer.Option(help="Data release: dr17, dr16, dr19 or dr20.")] = "dr17",
    field: Annotated[
        list[str] | None,
        typer.Option(help="Field to download, such as M15. Repeat for several fields."),
    ] = None,
    star: Annotated[
        list[str] | None,
        typer.Option(
            help="APOGEE_ID (2MASS name) of a star to download, without cuts. Repeat for several "
            "stars."
        ),
    ] = None,
    sdss_id: Annotated[
        list[int] | None,
        typer.Option(help="SDSS_ID of a star to download (dr19, dr20). Repeat for several stars."),
    ] = None,
    cone: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RA,DEC,RADIUS",
            help="Circle in the sky to download, in degrees (dr19, dr20). Repeat for several.",
        ),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RA1,RA2,DEC1,DEC2",
            help="Range of coordinates to download, in degrees (dr19, dr20). Repeat for several.",
        ),
    ] = None,
    visits: Annotated[
        bool, typer.Option("--visits", help="Also download the visits of stars (dr19, dr20).")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional label column (dr16, dr17; later releases come with all columns). "
            "Repeat for several labels."
        ),
    ] = None,
    allstar: Annotated[
        Path | None,
        typer.Option(
            "--allstar",
            "--catalogue",
            help="Local catalogue file: allStar, or astraAllStarASPCAP for dr19 and dr20.",
        ),
    ] = None,
    catalogue_source: Annotated[
        str | None,
        typer.Option(
            help="Source of the catalogue: skyserver (default of dr16 and dr17), or allstar-file "
            "(4 GB, for dr19 and dr20 1.2 GB, downloaded once)."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of spectra.")] = None,
    snr_min: Annotated[float | None, typer.Option(help="Minimum S/N per pixel.")] = None,
    cuts: Annotated[
        bool,
        typer.Option(
            help="Skip stars of the fields that `prepare` removes by default (dr16, dr17)."
        ),
    ] = True,
    sas_url: Annotated[str | None, typer.Option(help="URL of another archive server.")] = None,
    skyserver_url: Annotated[str | None, typer.Option(help="URL of another SkyServer.")] = None,
    _progress: Progress = True,
) -> None:
    """Download catalogue rows and spectra from SDSS.

    Repeat the same command to continue an interrupted download.
    """
    from bayes_cannon.cli.console import OUT, downloading
    from bayes_cannon.spectra.labels import DEFAULT_LABELS
    from bayes_cannon.surveys.apogee.cuts import Cuts
    from bayes_cannon.surveys.archive.download import download_survey
    from bayes_cannon.surveys.archive.mwm import download_mwm
    from bayes_cannon.surveys.archive.sdssv import MWM_RELEASES

    is_mwm = release.lower() in MWM_RELEASES
    only_mwm = {"--sdss-id": sdss_id, "--cone": cone, "--box": box, "--visits": visits}
    only_old = {"--label": label, "--skyserver-url": skyserver_url, "--no-cuts": not cuts}
    check_options(only_old if is_mwm else only_mwm, release)
    with to_go_on(), downloading() as progress:
        if is_mwm:
            report = download_mwm(
                out,
                release=release,
                sdss_ids=sdss_id or (),
                stars=star or (),
                fields=field or (),
                cones=[numbers_of_text("--cone", text, "RA,DEC,RADIUS") for text in cone or ()],
                boxes=[numbers_of_text("--box", text, "RA1,RA2,DEC1,DEC2") for text in box or ()],
                catalogue=allstar,
                catalogue_source=catalogue_source,
                visits=visits,
                limit=limit,
                snr_min=snr_min,
                sas_url=sas_url,
                details=progress,
            )
        else:
            report = download_survey(
                out,
                release=release,
                fields=field or (),
                stars=star or (),
                allstar=allstar,
                catalogue_source=catalogue_source,
                limit=limit,
                snr_min=snr_min,
                cuts=Cuts() if cuts else None,
                labels=tuple(dict.fromkeys((*DEFAULT_LABELS, *(label or ())))),
                sas_url=sas_url,
                skyserver_url=skyserver_url,
                details=progress,
            )
    OUT.print("; ".join(f"{step}: {n}" for step, n in report.selection), markup=False)
    OUT.print(f"{out}: {report}", markup=False)
    for missing in report.missing:
        OUT.print(f"  missing {missing.star_id}: {missing.message}", markup=False)
    if not report.complete:
        raise typer.Exit(2)


def readers(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of a survey: which reader takes it.")
    ] = None,
) -> None:
    """List the readers of surveys, and how each recognises one.

    With a folder, say which reader takes it and why the others do not.
    """
    from bayes_cannon.base.paths import user_path
    from bayes_cannon.cli.console import OUT
    from bayes_cannon.errors import SurveyError
    from bayes_cannon.surveys.readers import known_readers, reader_of, why_not

    if folder is not None and not user_path(folder).is_dir():
        raise SurveyError(f"{folder} is not a directory; give the directory that holds a survey.")
    for reader in known_readers():
        OUT.print(reader.name)
        for what, text in _described(reader):
            OUT.print(f"  {what:<12}{text}")
        if folder is not None:
            why = why_not(reader, user_path(folder))
            OUT.print(f"  {'this folder':<12}{why or 'is of this survey'}")
    if folder is not None:
        OUT.print(f"{folder} is read by {reader_of(user_path(folder)).name}")


def _described(reader: SurveyReader) -> list[tuple[str, str]]:
    """What a reader is for, how it recognises a survey, and what it calls things."""
    doc = " ".join((type(reader).__doc__ or "").partition("\n\n")[0].split())
    first, last = reader.wavelength[0], reader.wavelength[-1]
    return [
        ("what", doc),
        ("recognised", getattr(reader, "recognised", "") or "by its own look at the folder"),
        ("stars", reader.id_name),
        ("labels", reader.catalogue),
        ("grid", f"{len(reader.wavelength)} pixels, {first:.0f} to {last:.0f} Å, {reader.medium}"),
    ]


def prepare(
    survey: Annotated[
        Path, typer.Argument(help="Survey folder, in the layout of the SDSS archive.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Dataset to write: a NetCDF file, or a folder that ends with .zarr, whose spectra "
            "stay on disk.",
        ),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label to use, such as TEFF. Repeat for several labels."),
    ] = None,
    snr_min: Annotated[
        float | None, typer.Option(help=f"Minimum S/N per pixel. {_OF_READER}50.")
    ] = None,
    logg_max: Annotated[
        float | None, typer.Option(help=f"Maximum log g (dex). {_OF_READER}4.")
    ] = None,
    teff_max: Annotated[
        float | None, typer.Option(help=f"Maximum Teff (K). {_OF_READER}5700.")
    ] = None,
    feh_min: Annotated[
        float | None, typer.Option(help=f"Minimum [Fe/H] (dex). {_OF_READER}-1.")
    ] = None,
    reduction: Annotated[
        list[str] | None,
        typer.Option(
            help="Version of the survey's pipeline to take, such as 1.3 or dr17. Repeat to mix "
            "several in one set."
        ),
    ] = None,
    degree: Annotated[
        int | None,
        typer.Option(help=f"Degree of the continuum polynomial, 2 to 5. {_OF_READER}4."),
    ] = None,
    bad_bits: Annotated[
        str,
        typer.Option(help="Bits that mark bad pixels: default, lenient, pipeline, or a number."),
    ] = "default",
    missing_labels: Annotated[
        bool, typer.Option("--missing-labels", help="Keep stars with missing labels.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Read a survey, apply cuts and masks, and normalise the spectra.

    A table shows how many stars each cut removed. A dataset that ends with .zarr is written block
    by block, by several workers if wanted; repeat the same command to continue.
    """
    from bayes_cannon.base.cards import count_text
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.base.paths import has_ending
    from bayes_cannon.base.storage import check_netcdf
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.spectra.continuum import ContinuumSettings
    from bayes_cannon.spectra.dataset import NAMED
    from bayes_cannon.spectra.labels import DEFAULT_LABELS
    from bayes_cannon.surveys.preparing import prepare as prepare_dataset
    from bayes_cannon.surveys.storing import prepare_to
    from bayes_cannon.surveys.survey import open_survey

    on_disk = has_ending(out, ".zarr")
    if not on_disk:
        check_netcdf(out, NAMED, overwrite=overwrite)
        if workers is not None or scheduler is not None:
            raise InvalidDataError(
                f"several workers write a dataset that ends with .zarr; {out.name} is put "
                "together in the memory of one."
            )
    names = tuple(label) if label else DEFAULT_LABELS
    opened = open_survey(survey, labels=names)
    limits = {"snr_min": snr_min, "logg_max": logg_max, "teff_max": teff_max, "feh_min": feh_min}
    given: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    if reduction:
        given["reductions"] = tuple(reduction)
    continuum = opened.reader.continuum
    if degree is not None:
        continuum = replace(continuum or ContinuumSettings(), degree=degree)
    how: dict[str, Any] = {
        "label_names": names, "cuts": replace(opened.reader.cuts, **given),
        "bad_bits": bits_of(bad_bits), "continuum": continuum,
        "allow_missing_labels": missing_labels,
    }  # fmt: skip
    dataset: TrainingSet
    if on_disk:
        with to_go_on(), watching() as progress, open_engine(workers, scheduler) as engine:
            dataset = prepare_to(
                out, opened, executor=engine, overwrite=overwrite, progress=progress, **how
            )
    else:
        anew = "nothing is kept; datasets that end with .zarr go on where they were stopped"
        with to_go_on(anew), watching() as progress:
            dataset = prepare_dataset(opened, progress=progress, **how)
        dataset.save(out, overwrite=overwrite)
    print_cuts(dataset)
    OUT.print(f"{out}: {count_text(dataset.n_stars, 'star')}, {dataset.spectra.n_pixels} pixels")

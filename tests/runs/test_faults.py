"""Killed processes, full disks, read-only folders, two writers, damaged files.

Whatever happens: nothing is lost that was reported as done, the message is one line with exit
status 2, and the same command run again comes to its end.
"""

import errno
import io
import json
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.base.storage import part_path, read_tree, write_atomically, write_tree
from bayes_cannon.errors import (
    BayesCannonWarning,
    DownloadError,
    FileFormatError,
    OutputExistsError,
)
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from tests.archive_server import N_SPECTRA, ArchiveServer
from tests.archive_server import make_survey as make_archive
from tests.fault_runner import FaultRunner
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra, write_files
from tests.spectra.test_dataset import make_survey

FULL = "No space left on device; make space, then run the same command again"
SPECTRA = make_spectra()


@pytest.fixture(scope="module")
def runner():
    process = FaultRunner()
    yield process
    process.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A survey of six stars, a dataset, a trained model, and an archive to download from."""
    folder = tmp_path_factory.mktemp("inputs")
    make_survey(folder / "survey", [1, 2, 3, 4, 5, 6])
    write_files(folder, 40)
    make_archive(folder / "archive")
    return folder


@pytest.fixture(scope="module")
def server(inputs):
    with ArchiveServer(inputs / "archive") as running:
        yield running


@pytest.fixture
def commands(inputs, server):
    """Arguments of each command that writes `out`, and the environment it needs."""

    def arguments(name: str, out: Path) -> tuple[list[object], dict[str, str]]:
        env = {
            "BAYES_CANNON_SAS_URL": server.sas_url,
            "BAYES_CANNON_SKYSERVER_URL": server.skyserver_url,
            "no_proxy": "*",
        }
        train = ["train", inputs / "dataset.nc", "-o", out, "--factors", 0]
        train += ["--degree", 1, "--train-fraction", 0.15]  # too few to learn the model error
        infer = ["infer", inputs / "cannon.nc", inputs / "dataset.nc", "-o", out, "--all-stars"]
        return {
            "simulate": ["simulate", out, "--n-stars", 2],
            "prepare": ["prepare", inputs / "survey", "-o", out],
            "train": train,
            "infer": [*infer, "--method", "laplace", "--draws", 400, "--corner", "none"],
            "download": ["download", out, "--field", "M15", "--field", "N6791", "--no-cuts"],
        }[name], env

    return arguments


# Killed -----------------------------------------------------------------------------------


def save_dataset(path: str) -> None:
    TrainingSet(SPECTRA, labels_of(SPECTRA)).save(path, overwrite=Path(path).exists())


SAVE = "tests.runs.test_faults:save_dataset"


def test_killed_at_any_moment_a_file_is_whole_or_absent(runner, tmp_path):
    changes = runner.function(SAVE, tmp_path / "a" / "out.nc", watch=tmp_path / "a").changes
    assert 4 <= len(changes) < 20
    assert any(change == "os.link out.nc" for change in changes)
    for moment in range(len(changes)):
        folder = tmp_path / f"killed{moment}"
        path = folder / "out.nc"
        assert runner.function(SAVE, path, watch=folder, fatal=moment).status == -9
        if path.exists():
            assert TrainingSet.load(path).n_stars == 11
        assert runner.function(SAVE, path).status == 0
        assert TrainingSet.load(path).n_stars == 11
        assert [p.name for p in folder.iterdir()] == ["out.nc"], changes[moment]


def test_killed_while_overwriting_the_old_file_stays(runner, tmp_path):
    path = tmp_path / "out.nc"
    save_dataset(path)
    n_changes = len(runner.function(SAVE, path, watch=tmp_path).changes)
    for moment in range(n_changes):
        assert runner.function(SAVE, path, watch=tmp_path, fatal=moment).status == -9
        assert TrainingSet.load(path).n_stars == 11
    assert runner.function(SAVE, path).status == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out.nc"]


@pytest.mark.parametrize("name", ["prepare", "train", "simulate"])
def test_killed_command_leaves_nothing_and_completes(runner, commands, tmp_path, name):
    arguments, _ = commands(name, tmp_path / "out")
    moment = 12 if name == "simulate" else 3
    assert runner.command(*arguments, watch=tmp_path, fatal=moment).status == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".out.")
    assert runner.command(*arguments).status == 0
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_part_of_a_living_or_foreign_process_is_left_alone(tmp_path):
    path = tmp_path / "out.nc"
    living = part_path(path)
    dead = living.with_name(living.name.replace(f"-{os.getpid()}.", "-4194999."))
    foreign = dead.with_name(dead.name.replace("-4194999", "x-4194999"))
    parent = living.with_name(living.name.replace(f"-{os.getpid()}.", f"-{os.getppid()}."))
    for part in (dead, foreign, parent):
        part.write_text("half")
    write_atomically(path, lambda part: part.write_text("whole") and None, overwrite=False)
    assert sorted(tmp_path.iterdir()) == sorted([path, foreign, parent])


def make_run(folder: str) -> None:
    infer_run(CANNON, make_spectra(3, bad=()), folder, settings=QUICK, seed=1)


MAKE_RUN = "tests.runs.test_faults:make_run"


def test_killed_before_its_first_block_a_run_goes_on(runner, tmp_path):
    whole = tmp_path / "whole"
    changes = runner.function(MAKE_RUN, whole / "run", watch=whole).changes
    first = next(i for i, change in enumerate(changes) if "run.json" in change) + 5
    for moment in sorted({*range(0, first, 3), first - 1}):  # six seconds each
        folder = tmp_path / f"killed{moment}"
        assert runner.function(MAKE_RUN, folder / "run", watch=folder, fatal=moment).status == -9
        again = runner.function(MAKE_RUN, folder / "run")
        assert again.status == 0, (changes[moment], again.said)
        assert len(open_run(folder / "run").result["posterior"].star) == 3


def test_killed_download_goes_on(runner, commands, server, tmp_path):
    arguments, env = commands("download", tmp_path / "whole")
    whole = runner.command(*arguments, watch=tmp_path / "whole", env=env)
    assert whole.status == 0, whole.said
    spectra = sorted(p.relative_to(tmp_path / "whole") for p in tmp_path.glob("whole/*/*/*.fits"))
    assert len(spectra) >= 4
    n = len(whole.changes)
    for moment in sorted({1, 5, n // 3, 2 * n // 3, n - 4, n - 1}):
        out = tmp_path / f"killed{moment}"
        arguments, _ = commands("download", out)
        # Threads take turns in another order each time: a late moment may not come.
        assert runner.command(*arguments, watch=out, fatal=moment, env=env).status in (-9, 0)
        there = {p.relative_to(out): p.read_bytes() for p in out.glob("*/*/*.fits")}
        for name, content in there.items():
            assert content == (tmp_path / "whole" / name).read_bytes()
        again = runner.command(*arguments, env=env)
        assert again.status == 0, again.said
        assert f"{len(there)} there already" in again.said
        assert sorted(p.relative_to(out) for p in out.glob("*/*/*.fits")) == spectra
        assert not list(out.rglob("*.part"))


# Full disks -------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path):
    """Mount small file systems; needs the rights to do so."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip("no file system can be mounted here")
        return folder

    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("no file system can be mounted here")
    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


SIZES = {"simulate": "200k", "prepare": "100k", "train": "40k", "infer": "160k", "download": "450k"}
"""Less than each command writes, and enough for it to begin."""


@pytest.mark.parametrize("name", SIZES)
def test_full_disk(runner, commands, tmpfs, name):
    disk = tmpfs(f"size={SIZES[name]}")
    arguments, env = commands(name, disk / "out")
    ended = runner.command(*arguments, env=env)
    assert "Traceback" not in ended.said
    if name == "download" and ended.said.count("\n") > 1:
        assert ended.status == 2
        assert "No space left on device" in ended.said
    else:
        ended.require_one_line_error(str(disk), "o space left on device" if name != "download"
                                     else "make space")  # fmt: skip
    if name not in ("infer", "download"):
        assert list(disk.iterdir()) == [], "nothing half is left in the way"
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    again = runner.command(*arguments, env=env)
    # One of the stars of `infer` has no good pixel, which is status 1.
    assert again.status == (name == "infer"), again.said


def test_full_disk_keeps_the_file_that_was_there(runner, commands, tmpfs):
    disk = tmpfs("size=50m")
    arguments, _ = commands("prepare", disk / "out.nc")
    assert runner.command(*arguments).status == 0
    size = (disk / "out.nc").stat().st_size
    subprocess.run(["mount", "-o", f"remount,size={size + 50_000}", str(disk)], check=True)
    ended = runner.command(*arguments, "--overwrite")
    ended.require_one_line_error(FULL)
    assert TrainingSet.load(disk / "out.nc").n_stars == 6


def test_full_disk_keeps_the_stars_that_are_done(runner, tmpfs, tmp_path):
    disk = tmpfs("size=50m")
    write_files(tmp_path, 200)
    arguments = ["infer", tmp_path / "cannon.nc", tmp_path / "dataset.nc", "-o", disk / "run"]
    arguments += ["--all-stars", "--method", "laplace", "--draws", 250, "--corner", "none"]
    assert runner.command(*arguments, watch=disk, fatal=10**6).status == 1  # a star without pixels
    used = sum(p.stat().st_blocks * 512 for p in disk.rglob("*"))
    shutil.rmtree(disk / "run")
    subprocess.run(["mount", "-o", f"remount,size={used // 2}", str(disk)], check=True)
    runner.command(*arguments).require_one_line_error(FULL)
    done = sorted(p.name for p in (disk / "run" / "progress").glob("[0-9]*"))
    assert 1 <= len(done) < 4
    with pytest.warns(BayesCannonWarning, match="not finished"):
        assert np.isfinite(open_run(disk / "run").result["posterior"]["TEFF"].values[..., -1]).all()
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    again = runner.command(*arguments)
    assert again.status == 1, again.said
    assert f"{64 * len(done)} of them done earlier" in again.said


@pytest.mark.parametrize("limit", [0, 500, 5000, 25_000])
def test_netcdf_on_a_disk_that_fills_up(tmp_path, monkeypatch, limit):
    """The same without the rights to mount: HDF5 never hears of a failed write."""
    path_open = Path.open

    class SmallDisk(io.FileIO):
        def write(self, content):
            room = max(0, limit - self.tell())
            super().write(content[:room])
            if len(content) > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return len(content)

    def small_disk(path, mode="r", *args, **options):
        return SmallDisk(path, mode) if "w" in mode else path_open(path, mode, *args, **options)

    path = tmp_path / "d.nc"
    dataset = TrainingSet(SPECTRA, labels_of(SPECTRA))
    dataset.save(path)
    before = path.read_bytes()
    assert len(before) > 26_000
    monkeypatch.setattr(Path, "open", small_disk)
    with pytest.raises(OutputExistsError, match=FULL):
        dataset.save(path, overwrite=True)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["d.nc"]


@pytest.mark.parametrize("moment", range(7))
def test_run_on_a_disk_that_fills_up(tmp_path, monkeypatch, moment):
    """Each note of progress in turn finds the disk full."""
    folder, fsync, calls = tmp_path / "run", os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) > moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputExistsError, match=f"{folder}.*{FULL}"):
        infer_run(CANNON, SPECTRA, folder, settings=QUICK, seed=1)
    monkeypatch.undo()
    n_done = 4 * max(0, min(moment - 3, 2)) + 3 * (moment > 5)
    run = infer_run(CANNON, SPECTRA, folder, settings=QUICK, seed=1)
    assert run.summary["n_from_earlier"] == n_done
    assert not list(folder.rglob("*.part"))


def test_full_disk_where_the_summary_is_written(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("bayes_cannon.runs.run.write_summary", full)
    with pytest.raises(OutputExistsError, match=FULL):
        infer_run(CANNON, SPECTRA, tmp_path / "run", settings=QUICK, seed=1)


@pytest.mark.parametrize("part", ["mirror.write_manifest", "download.write_catalogue"])
def test_download_onto_a_disk_that_fills_up(server, tmp_path, monkeypatch, part):
    from bayes_cannon.surveys.archive.download import download_survey

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("no_proxy", "*")
    options = {"sas_url": server.sas_url, "skyserver_url": server.skyserver_url}
    with monkeypatch.context() as patch:
        patch.setattr(f"bayes_cannon.surveys.archive.{part}", full)
        with pytest.raises(DownloadError, match=f"cannot write into .*{FULL}; what came is kept"):
            download_survey(tmp_path, fields=["M15"], **options)
    report = download_survey(tmp_path, fields=["M15"], **options)
    assert report.complete
    assert (report.n_present > 0) == (part == "mirror.write_manifest")


def test_catalogue_on_a_disk_that_fills_up(server, tmp_path, monkeypatch):
    """The part of the file that was written is gone, and what stood there before is whole."""
    from bayes_cannon.surveys.archive.download import download_survey

    monkeypatch.setenv("no_proxy", "*")
    options = {"sas_url": server.sas_url, "skyserver_url": server.skyserver_url}
    report = download_survey(tmp_path, fields=["M15"], **options)
    before = report.catalogue.read_bytes()

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DownloadError, match=rf"cannot write .*{FULL}\. What came is kept"):
        download_survey(tmp_path, fields=["M15"], **options)
    assert report.catalogue.read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def test_simulated_survey_on_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("bayes_cannon.surveys.simulation.layout_files.write_apstar", full)
        with pytest.raises(OutputExistsError, match=FULL):
            simulate_survey(tmp_path / "s", n_stars=1, seed=1)
    assert list(tmp_path.iterdir()) == []


# Where nothing can be written -------------------------------------------------------------


@pytest.mark.parametrize("name", SIZES)
def test_read_only_folder(runner, commands, tmpfs, name):
    disk = tmpfs("size=1m,ro")
    arguments, env = commands(name, disk / "out")
    runner.command(*arguments, env=env).require_one_line_error("cannot write", str(disk))


@pytest.mark.parametrize("name", SIZES)
def test_file_in_place_of_a_folder(runner, commands, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    arguments, env = commands(name, tmp_path / "file" / "out")
    runner.command(*arguments, env=env).require_one_line_error(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["prepare", "train"])
def test_a_folder_is_never_replaced_by_a_file(runner, commands, tmp_path, name):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "all.tex").write_text("years")
    arguments, _ = commands(name, tmp_path / "thesis")
    for more in ([], ["--overwrite"]):
        runner.command(*arguments, *more).require_one_line_error("is a folder; choose another")
    assert (tmp_path / "thesis" / "all.tex").read_text() == "years"


# Two at once ------------------------------------------------------------------------------


def test_the_second_of_two_writers_does_not_replace_the_first(tmp_path):
    path = tmp_path / "cannon.nc"

    def slow(part: Path) -> None:
        write_atomically(path, lambda other: other.write_text("first") and None, overwrite=False)
        part.write_text("second")

    with pytest.raises(OutputExistsError, match="written by another process meanwhile; choose"):
        write_atomically(path, slow, overwrite=False)
    assert path.read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["cannon.nc"]


@pytest.mark.parametrize("taken", [False, True])
def test_file_system_without_links(tmp_path, monkeypatch, taken):
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def slow(part: Path) -> None:
        part.write_text("second")
        if taken:
            path.write_text("first")

    path = tmp_path / "x"
    monkeypatch.setattr(os, "link", refuse)
    if taken:
        with pytest.raises(OutputExistsError, match="meanwhile"):
            write_atomically(path, slow, overwrite=False)
    else:
        write_atomically(path, slow, overwrite=False)
    assert path.read_text() == ("first" if taken else "second")


def test_the_second_of_two_simulations_does_not_replace_the_first(tmp_path, monkeypatch):
    from bayes_cannon.surveys.simulation import layout_files

    out, write_apstar = tmp_path / "s", layout_files.write_apstar

    def slow(*args, **options):
        out.mkdir(exist_ok=True)
        (out / "first").touch()
        return write_apstar(*args, **options)

    monkeypatch.setattr(layout_files, "write_apstar", slow)
    with pytest.raises(OutputExistsError, match="written by another process meanwhile"):
        simulate_survey(out, n_stars=1, seed=1)
    assert [p.name for p in out.iterdir()] == ["first"]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


# Damaged NetCDF ---------------------------------------------------------------------------


def fuzz_dataset(path: str, first: str) -> None:
    """Damage a dataset in many ways; each time it is refused, or nothing that matters changed."""
    content = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    whole = TrainingSet.load(path)
    hurt, n_refused = Path(path).with_name("hurt.nc"), 0
    for seed in range(int(first), int(first) + 60):
        rng = np.random.default_rng(seed)
        changed = content.copy()
        if seed % 4 == 0:
            changed = changed[: rng.integers(1, content.size)]
        elif seed % 4 == 1:
            place = rng.integers(content.size - 512)
            changed[place : place + 512] = 0
        else:
            high = 4000 if seed % 4 == 2 else content.size
            changed[rng.integers(high, size=3)] ^= rng.integers(1, 256, 3).astype(np.uint8)
        hurt.write_bytes(changed.tobytes())
        try:
            found = TrainingSet.load(hurt)
        except FileFormatError:
            n_refused += 1
            continue
        np.testing.assert_array_equal(found.star_id, whole.star_id)
        for name in ("wavelength", "flux", "ivar", "snr"):
            np.testing.assert_array_equal(
                getattr(found.spectra, name), getattr(whole.spectra, name)
            )
        np.testing.assert_array_equal(found.labels.values, whole.labels.values)
        assert dict(found.settings) == dict(whole.settings)
    assert n_refused >= 20


def test_damaged_netcdf_never_passes_for_what_was_written(runner, tmp_path):
    TrainingSet(SPECTRA, labels_of(SPECTRA)).save(tmp_path / "d.nc")
    ended = runner.function("tests.runs.test_faults:fuzz_dataset", tmp_path / "d.nc", 0)
    assert ended.status == 0, ended.said


@pytest.mark.parametrize(("name", "file"), [("train", "dataset.nc"), ("infer", "cannon.nc")])
def test_command_on_a_damaged_file(runner, commands, inputs, tmp_path, name, file):
    hurt = tmp_path / file
    hurt.write_bytes((inputs / file).read_bytes()[:-3000])
    arguments, _ = commands(name, tmp_path / "out")
    arguments = [hurt if a == inputs / file else a for a in arguments]
    runner.command(*arguments).require_one_line_error(str(hurt), "make it again")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["words", "numbers", "truths", "wide"])
def test_every_kind_of_array_passes_its_own_check(tmp_path, name):
    values = {
        "words": np.array(["a", "", "é" * 9, "2M1+1"], dtype=object),
        "numbers": np.array([np.nan, -0.0, np.inf, 1e-300]),
        "truths": np.array([True, False, True, True]),
        "wide": np.arange(4, dtype=np.uint64) + 2**63,
    }[name]
    tree = xr.DataTree.from_dict({"/a/b": xr.Dataset({"x": ("n", values), "s": ((), "text")})})
    write_tree(tree, tmp_path / "x", format_name="f", version=1)
    again = read_tree(tmp_path / "x", format_name="f", version=1)
    np.testing.assert_array_equal(again["a/b/x"].values.astype(values.dtype), values)


# Damaged Zarr -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    infer_run(CANNON, SPECTRA, folder, settings=QUICK, seed=1)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink], ids=["cut", "flip", "lost"])
@pytest.mark.parametrize("chunk", ["posterior/TEFF/0.0.1", "star_stats/status/1"])
def test_damaged_stars_are_said_and_done_again(finished, tmp_path, damage, chunk):
    run = shutil.copytree(finished, tmp_path / "run")
    damage(run / "posterior.zarr" / chunk)
    if damage is not flip:  # in a lazy look, only the sizes of files count
        with pytest.raises(FileFormatError, match=f"{chunk} is damaged or lost; run the same"):
            open_run(run)
    with pytest.warns(BayesCannonWarning, match=r"of 4 stars \(.*\) .* are done again"):
        again = infer_run(CANNON, SPECTRA, run, settings=QUICK, seed=1)
    assert again.summary["n_from_earlier"] == 7
    for path in finished.glob("posterior.zarr/**/*"):
        if path.is_file():
            assert (run / path.relative_to(finished)).read_bytes() == path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error", BayesCannonWarning)
        open_run(run)


@pytest.mark.parametrize("damage", [cut, Path.unlink], ids=["cut", "lost"])
@pytest.mark.parametrize(
    "name", ["posterior/TEFF/.zarray", "posterior/star/0", "star_stats/.zgroup", ".zattrs"]
)
def test_damaged_descriptions_are_said(finished, tmp_path, damage, name):
    run = shutil.copytree(finished, tmp_path / "run")
    damage(run / "posterior.zarr" / name)
    with pytest.raises(FileFormatError, match=r"posterior\.zarr"):
        open_run(run)
    with pytest.raises(FileFormatError, match=f"{name} is damaged or lost; put it back.*overwrite"):
        infer_run(CANNON, SPECTRA, run, settings=QUICK, seed=1)
    again = infer_run(CANNON, SPECTRA, run, settings=QUICK, seed=1, overwrite=True)
    assert again.summary["n_failed"] == 1


def test_runs_of_before_have_no_sums_and_are_read(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    for path in (run / "progress").iterdir():
        if path.name == "layout" or path.name.isdigit():
            content = json.loads(path.read_text())
            del content["files"]
            path.write_text(json.dumps(content))
    assert open_run(run).result["posterior"].sizes["star"] == 11
    again = infer_run(CANNON, SPECTRA, run, settings=QUICK, seed=1)
    assert again.summary["n_from_earlier"] == 11


def test_download_counts_what_it_should(server):
    assert N_SPECTRA == 8, "the sizes of the small disks above go by it"

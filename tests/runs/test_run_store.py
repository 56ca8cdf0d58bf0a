import errno
import json
import os
import subprocess
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from bayes_cannon.base.locks import lock_folder
from bayes_cannon.errors import BayesCannonWarning, FileFormatError, OutputExistsError
from bayes_cannon.inference.infer import infer_blocks, infer_labels
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.store import RunStore
from tests.run_problem import CANNON, QUICK, make_spectra

ROOT = Path(__file__).parents[2]
SPECTRA = make_spectra()


@pytest.fixture(scope="module")
def parts():
    return list(infer_blocks(CANNON, SPECTRA, settings=QUICK, seed=1))


def a_store(folder, **options):
    options = {"block_size": 4, "digests": {"seed": "1"}, "simulated": True, **options}
    return RunStore(folder, SPECTRA.star_id, **options)


def written(folder, parts, blocks=(0, 1, 2)):
    with a_store(folder) as store:
        for block in blocks:
            store.write(block, parts[block], seconds=0.5)
    return folder


@pytest.fixture
def run(tmp_path, parts):
    return written(tmp_path / "run", parts)


def test_what_is_written_is_read_lazily(run, parts):
    tree = open_run(run).result
    whole = infer_labels(CANNON, SPECTRA, settings=QUICK, seed=1)
    assert set(tree.children) == set(whole.children)
    for name in whole.children:
        one, other = tree[name].to_dataset(), whole[name].to_dataset()
        assert not any(v.variable._in_memory for v in one.data_vars.values() if v.ndim)
        xr.testing.assert_equal(one, other)
        for v in other.variables:
            assert one[v].dtype.kind == other[v].dtype.kind, v
            assert one[v].attrs.keys() == other[v].attrs.keys(), v
    assert tree["posterior"]["TEFF"].dtype == np.float32
    assert tree["posterior"]["TEFF"].attrs["units"] == "K"


def test_order_of_variables_and_attributes_are_kept(run, parts):
    tree = open_run(run).result
    for name, dataset in parts[0].children.items():
        assert list(tree[name].data_vars) == list(dataset.data_vars), name
    assert list(tree["posterior"].data_vars) == list(CANNON.names)
    assert tree.attrs["simulated"] == tree["posterior"].attrs["simulated"] == 1
    assert tree["posterior"].attrs["method"] == "laplace"
    assert "variables" not in tree["posterior"].attrs
    assert tree["star_stats"]["status"].attrs["flag_meanings"].startswith("NO_PIXELS")


def test_plain_xarray_opens_a_run_without_a_warning(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tree = xr.open_datatree(run / "posterior.zarr", engine="zarr")
    np.testing.assert_array_equal(
        tree["posterior"]["TEFF"], open_run(run).result["posterior"]["TEFF"]
    )


def test_chunks_are_blocks_of_stars(run):
    encoding = open_run(run).result["posterior"]["TEFF"].encoding
    assert encoding["chunks"] == (2, 20, 4)
    chunks = sorted(p.name for p in (run / "posterior.zarr/posterior/TEFF").glob("[0-9]*"))
    assert chunks == ["0.0.0", "0.0.1", "0.0.2"]


def test_one_block_smaller_than_the_rest_can_be_all_there_is(tmp_path, parts):
    with RunStore(tmp_path, SPECTRA.star_id[:4], block_size=64, digests={}) as store:
        store.write(0, parts[0])
    assert open_run(tmp_path).result["posterior"].sizes["star"] == 4


def test_sel_of_a_star_goes_through_all_groups(run):
    star = str(SPECTRA.star_id[5])
    one = open_run(run)[star]
    assert dict(one["posterior"].sizes) == {"chain": 2, "draw": 20}
    assert one["constant_data"].sizes["label_name"] == 2
    assert float(one["star_stats"]["used_pixels"]) > 100
    assert str(one["posterior"]["star"].values) == star


def test_writing_and_reading_says_nothing(tmp_path, parts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_run(written(tmp_path / "run", parts)).result.load()


def test_a_store_for_many_stars_takes_no_memory_for_them(tmp_path, parts):
    star_id = np.array([f"s{i}" for i in range(100_000)])
    with RunStore(tmp_path, star_id, block_size=4, digests={}) as store:
        tracemalloc.start()
        store.write(0, parts[0])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    draws = 100_000 * 2 * 20 * 4
    assert peak < 2 * draws, "less than the draws of all stars in any two arrays"


def test_unfinished_run_gives_the_stars_that_are_done(tmp_path, parts):
    folder = written(tmp_path / "run", parts, blocks=(0, 2))
    with pytest.warns(BayesCannonWarning, match=r"not finished: 7 of 11 stars"):
        tree = open_run(folder).result
    assert (
        tree["posterior"]["star"].values.tolist()
        == SPECTRA.star_id[[0, 1, 2, 3, 8, 9, 10]].tolist()
    )
    assert tree["star_stats"].sizes["star"] == 7
    assert np.isfinite(tree["posterior"]["TEFF"].isel(star=-1).values).all()
    with a_store(folder) as store:
        assert store.pending == [1]
        assert store.seconds == [0.5, 0.5]


def test_posteriors_without_their_progress_are_read_whole(run):
    for path in (run / "progress").iterdir():
        path.unlink()
    (run / "progress").rmdir()
    assert open_run(run).result["posterior"].sizes["star"] == 11


def test_run_without_any_star(tmp_path, parts):
    folder = written(tmp_path / "run", parts, blocks=(0,))
    for name in ("layout", "000000"):
        (folder / "progress" / name).unlink()
    with pytest.raises(FileFormatError, match=r"no star of .* is done yet"):
        open_run(folder)


def test_a_damaged_mark_is_a_block_to_do(run):
    (run / "progress" / "000001").write_text("")
    with a_store(run) as store:
        assert store.pending == [1]
        assert store.seconds == [0.5, 0.5]
    with pytest.warns(BayesCannonWarning, match="7 of 11 stars"):
        open_run(run)


def test_no_run(tmp_path):
    with pytest.raises(FileFormatError, match=r"holds no posterior\.zarr"):
        open_run(tmp_path)


def test_damaged_other_and_newer_stores(run):
    head = run / "posterior.zarr" / ".zattrs"
    attrs = json.loads(head.read_text())
    head.write_text(json.dumps(attrs | {"format_version": 99}))
    with pytest.raises(FileFormatError, match="newer format"):
        open_run(run)
    head.write_text(json.dumps({}))
    with pytest.raises(FileFormatError, match="not a run of bayes_cannon"):
        open_run(run)
    (run / "posterior.zarr" / "posterior" / "TEFF" / ".zarray").write_text("{")
    with pytest.raises(FileFormatError, match="cannot be read"):
        open_run(run)


def test_other_digests_are_refused_and_named(run, parts):
    with (
        pytest.raises(OutputExistsError, match=r"a run with other seed, priors; choose"),
        a_store(run, digests={"seed": "2", "priors": "x"}),
    ):
        pass
    with a_store(run) as store:
        assert store.pending == []
    with a_store(run, digests={"seed": "2"}, overwrite=True) as store:
        assert store.pending == [0, 1, 2]
        assert not store.path.exists()


def test_a_run_killed_before_its_first_block_binds_nothing(tmp_path, parts):
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "run.json").write_text(json.dumps({"seed": "other"}))
    (tmp_path / ".lock").write_text("1")
    written(tmp_path, parts)
    assert open_run(tmp_path).result["posterior"].sizes["star"] == 11
    with a_store(tmp_path) as store:
        assert store.pending == []


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with (
            pytest.raises(OutputExistsError, match="not empty and holds no run"),
            a_store(tmp_path, overwrite=overwrite),
        ):
            pass
    (tmp_path / "summary.json").write_text("{}")
    with (
        pytest.raises(OutputExistsError, match="not empty and holds no run"),
        a_store(tmp_path, overwrite=True),
    ):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["summary.json", "thesis.tex"]


def test_overwriting_keeps_what_is_not_of_the_run(run):
    (run / "notes.txt").write_text("mine")
    with a_store(run, overwrite=True):
        assert (run / "notes.txt").read_text() == "mine"


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(OutputExistsError, match="is a file"), a_store(tmp_path / "run"):
        pass
    with pytest.raises(OutputExistsError, match="cannot write"), a_store(tmp_path / "run" / "x"):
        pass


def test_what_a_killed_process_left_is_swept_away(tmp_path, parts):
    folder = written(tmp_path / "run", parts, blocks=(0,))
    (folder / "figures").mkdir()
    left = [
        ".catalogue.fits.77.part", "progress/000001.part", "figures/.corner-a.part.png",
        "posterior.zarr/posterior/TEFF/0.0.1.abc.partial",
    ]  # fmt: skip
    for name in left:
        (folder / name).write_text("half")
    (folder / "figures" / "corner-a.png").write_text("whole")
    with a_store(folder):
        assert not any((folder / name).exists() for name in left)
    assert (folder / "figures" / "corner-a.png").exists()


def test_two_writers_of_one_run(tmp_path, parts):
    folder = tmp_path / "run"
    with a_store(folder) as store:
        store.write(0, parts[0])
        for overwrite in (False, True):
            with (
                pytest.raises(
                    OutputExistsError, match=rf"another process \(number {os.getpid()}\)"
                ),
                a_store(folder, overwrite=overwrite),
            ):
                pass
        assert store.pending == [1, 2]
    assert not (folder / ".lock").exists()
    with a_store(folder) as store:
        assert store.pending == [1, 2]


def test_lock_of_another_process_ends_with_it(tmp_path):
    code = (
        "import sys, time\nfrom bayes_cannon.base.locks import lock_folder\n"
        "with lock_folder(sys.argv[1]):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(OutputExistsError, match=rf"\(number {other.pid}\)"),
            lock_folder(tmp_path),
        ):
            pass
        other.kill()
    assert (tmp_path / ".lock").exists(), "a killed process leaves its file"
    with lock_folder(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK])
def test_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    def refuse(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with lock_folder(tmp_path):
        assert "no locks" in caplog.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["link", "file/lock"])
def test_lock_that_cannot_be_written(tmp_path, name):
    (tmp_path / "link").symlink_to(tmp_path / "none")
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputExistsError, match=f"cannot write {tmp_path}: "),
        lock_folder(tmp_path, name),
    ):
        pass
    assert not (tmp_path / "none").exists()

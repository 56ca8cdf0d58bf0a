"""Datasets whose spectra stay on disk: what comes back, what is read, what is refused."""

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import bayes_cannon as bc
from bayes_cannon.base.stores import rows
from bayes_cannon.errors import (
    BayesCannonWarning,
    FileFormatError,
    InvalidDataError,
    OutputExistsError,
)
from bayes_cannon.inference.arguments import as_spectra
from bayes_cannon.runs.fingerprint import digest_of_spectra
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.stored import StoredSet, StoredSpectra, is_stored, open_dataset

N_STARS, N_PIXELS = 600, 2100
"""Three blocks of stars, three chunks of pixels."""


def a_set(n_stars=N_STARS, n_pixels=N_PIXELS) -> TrainingSet:
    rng = np.random.default_rng(1)
    ids = np.array([f"stär {k:04d}" for k in rng.permutation(n_stars)])
    ivar = rng.uniform(1, 1e4, (n_stars, n_pixels)) * (rng.random((n_stars, n_pixels)) < 0.8)
    ivar[7 % n_stars] = 0  # a star of which nothing is good
    values = rng.normal(size=(n_stars, 2))
    values[0, 1] = np.nan
    return TrainingSet(
        NormalizedSpectra(
            star_id=ids, wavelength=15000.0 + np.arange(n_pixels) / 3,
            flux=np.where(ivar > 0, rng.normal(1, 0.01, ivar.shape), 1.0), ivar=ivar,
            snr=rng.uniform(50, 200, n_stars),
            chips=((0, n_pixels // 2), (n_pixels // 2, n_pixels)),
            simulated=True, medium="air", id_name="SDSS_ID",
            notes={"REDUCTION": np.where(np.arange(n_stars) % 2, "dr17", "")},
        ),
        Labels(("TEFF", "X_FE"), values, np.abs(values), ids, ("K", "dex"), "SDSS_ID"),
        problems=(StarProblem("lost", "a/b.fits", "is not there", 3), ),
        settings={"catalogue": "GALAH", "windows": "[[0, 1]]", "split_seed": 3, "x": 0.1},
        info={"telescope": np.where(np.arange(n_stars) % 3, "apo25m", ""),
              "flag": np.arange(n_stars), "a": rng.normal(size=n_stars)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole() -> TrainingSet:
    return a_set()


@pytest.fixture(scope="module")
def kept(whole: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole.save(tmp_path_factory.mktemp("stored") / "set.zarr")


@pytest.fixture
def mine(kept: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(kept, tmp_path / "set.zarr"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Chunks that are read."""
    names: list[str] = []
    check = rows.RowReader._check

    def noted(self, name, block, chunks):
        names.extend(f"{name}/{block}.{chunk}" for chunk in chunks)
        check(self, name, block, chunks)

    monkeypatch.setattr(rows.RowReader, "_check", noted)
    return names


def assert_same(one: TrainingSet, other: TrainingSet) -> None:
    for name in ("star_id", "wavelength", "flux", "ivar", "snr", "good", "usable"):
        a, b = getattr(one.spectra, name), getattr(other.spectra, name)
        assert a.dtype.kind == b.dtype.kind, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    for name in ("chips", "simulated", "medium", "id_name"):
        assert getattr(one.spectra, name) == getattr(other.spectra, name), name
    for one_of, other_of in ((one.spectra.notes, other.spectra.notes), (one.info, other.info)):
        assert list(one_of) == list(other_of)
        for name, column in one_of.items():
            assert column.dtype.kind == other_of[name].dtype.kind
            np.testing.assert_array_equal(column, other_of[name])
    assert (one.labels.names, one.labels.units) == (other.labels.names, other.labels.units)
    np.testing.assert_array_equal(one.labels.values, other.labels.values)
    np.testing.assert_array_equal(one.labels.errors, other.labels.errors)
    assert (one.cut_steps, one.problems) == (other.cut_steps, other.problems)
    assert list(one.settings.items()) == list(other.settings.items())


def test_what_is_saved_comes_back_as_from_netcdf(whole, kept, tmp_path):
    file = whole.save(tmp_path / "set.nc")
    of_file = TrainingSet.load(file)
    assert_same(TrainingSet.load(kept), of_file)
    plain = xr.open_dataset(file)  # other programs choose stars and labels by their names
    star = whole.star_id[5]
    np.testing.assert_array_equal(plain["flux"].sel(star=star), whole.spectra.flux[5])
    assert float(plain["label_values"].sel(star=star, label_name="TEFF")) == whole.labels["TEFF"][5]
    assert plain["flux"].coords["wavelength"].attrs["units"] == "Angstrom"
    stored = open_dataset(kept)
    assert isinstance(stored, StoredSet)
    assert isinstance(stored.spectra, StoredSpectra)
    assert_same(stored.in_memory(), of_file)
    assert not isinstance(stored.in_memory(), StoredSet)
    assert type(open_dataset(file)) is TrainingSet
    assert stored.path == kept
    assert repr(stored) == repr(of_file)
    assert "on disk" in repr(stored.spectra)


def test_its_digest_is_that_in_memory(whole, kept):
    stored = open_dataset(kept).spectra
    assert digest_of_spectra(stored) == digest_of_spectra(whole.spectra)
    some = np.arange(N_STARS) % 5 == 2
    assert digest_of_spectra(stored.select(some)) == digest_of_spectra(whole.spectra.select(some))
    none = np.zeros(N_STARS, bool)
    assert digest_of_spectra(stored.select(none)) == digest_of_spectra(whole.spectra.select(none))


def test_other_programs_open_it_without_a_warning(whole, kept, recwarn):
    tree = xr.open_datatree(kept, engine="zarr")
    assert tree["pixels/flux"].dims == ("row", "pixel")
    np.testing.assert_array_equal(tree["pixels/flux"][3].values, whole.spectra.flux[3])
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


@pytest.mark.parametrize("stars", [[3, 3], ["stär 0003", "stär 0003"]], ids=["rows", "names"])
def test_a_star_is_chosen_once_alone_as_in_memory(whole, kept, stars):
    for spectra in (whole.spectra, open_dataset(kept).spectra):
        with pytest.raises(InvalidDataError, match="1 star id occur more than once"):
            spectra.select(stars)


def test_endings_of_names_count_in_capitals_too(tmp_path):
    few = a_set(3, 20)
    folder = few.save(tmp_path / "SET.ZARR")
    assert is_stored(folder)
    assert (folder / "progress" / "whole").is_file()
    assert_same(open_dataset(folder).in_memory(), few)


def test_a_folder_of_something_else_is_told_from_a_dataset(tmp_path):
    (tmp_path / "dr17").mkdir()
    with pytest.raises(
        FileFormatError, match=r"prepare a survey first: bayes-cannon prepare .*dr17"
    ):
        open_dataset(tmp_path / "dr17")


@pytest.mark.parametrize(
    "stars",
    [slice(250, 262), np.array([599, 0, 256, 255]), np.arange(600) % 97 == 5, slice(0, 0)],
    ids=["slice", "unordered", "mask", "none"],
)
def test_chosen_stars_are_read_and_no_others(whole, kept, read, stars):
    spectra = open_dataset(kept).spectra.select(stars)
    assert read == []
    index = np.arange(N_STARS)[stars]
    assert spectra.star_id.tolist() == whole.star_id[index].tolist()
    np.testing.assert_array_equal(spectra.usable, whole.spectra.usable[index])
    np.testing.assert_array_equal(spectra.in_memory().flux, whole.spectra.flux[index])
    blocks = {int(name.split("/")[1].split(".")[0]) for name in read}
    assert blocks == set((index // rows.BLOCK).tolist())


def test_rows_read_their_own_chunks_once(whole, kept, read):
    part = open_dataset(kept).spectra.rows(slice(256, 300))
    assert isinstance(part, NormalizedSpectra)
    np.testing.assert_array_equal(part.ivar, whole.spectra.ivar[256:300])
    assert part.notes["REDUCTION"].tolist() == whole.spectra.notes["REDUCTION"][256:300].tolist()
    assert sorted(read) == [f"{name}/1.{c}" for name in ("flux", "ivar") for c in range(3)]


def test_columns_read_their_own_chunks(whole, kept, read):
    flux, ivar = open_dataset(kept).spectra.columns(slice(1100, 1200))
    np.testing.assert_array_equal(flux, whole.spectra.flux[:, 1100:1200])
    np.testing.assert_array_equal(ivar, whole.spectra.ivar[:, 1100:1200])
    assert sorted(read) == [f"{name}/{b}.1" for name in ("flux", "ivar") for b in range(3)]
    read.clear()
    flux, _ = open_dataset(kept).spectra.columns(slice(1000, 1030), whole.star_id[[400, 30]])
    np.testing.assert_array_equal(flux, whole.spectra.flux[[400, 30], 1000:1030])
    assert {name.partition("/")[2] for name in read} == {"0.0", "0.1", "1.0", "1.1"}


@pytest.mark.parametrize(
    "stars", [slice(None), np.arange(600) % 5 == 0, np.array([5, 3, 599]), slice(0, 0)]
)
def test_what_is_pickled_names_the_stars_and_holds_no_array_of_theirs(whole, kept, stars):
    spectra = open_dataset(kept).spectra.select(stars)
    content = pickle.dumps(spectra)
    assert len(content) < 600
    again = pickle.loads(content)  # noqa: S301
    assert again.star_id.tolist() == spectra.star_id.tolist()
    np.testing.assert_array_equal(again.in_memory().flux, whole.spectra.flux[stars])


def test_a_set_replaced_meanwhile_is_not_taken_for_the_old_one(whole, mine):
    content = pickle.dumps(open_dataset(mine).spectra)
    whole.select(slice(0, 300)).save(mine, overwrite=True)
    with pytest.raises(FileFormatError, match="replaced by another dataset"):
        pickle.loads(content)  # noqa: S301


def test_split_and_select_read_nothing(whole, kept, read):
    first, rest = open_dataset(kept).split(0.3, seed=2)
    mine, others = whole.split(0.3, seed=2)
    assert isinstance(first, StoredSet)
    assert first.star_id.tolist() == mine.star_id.tolist()
    assert read == []
    assert_same(rest.in_memory(), others)


def test_pixels_asked_for_as_if_in_memory_say_how_to_read_them(kept):
    spectra = open_dataset(kept).spectra
    for name in ("flux", "ivar", "good"):
        with pytest.raises(InvalidDataError, match=r"are on disk .* in_memory\(\)"):
            getattr(spectra, name)
    assert isinstance(as_spectra(open_dataset(kept)), NormalizedSpectra)


def test_the_same_save_goes_on_and_ends_at_once(whole, mine, read):
    times = {path: path.stat().st_mtime_ns for path in mine.rglob("*") if path.is_file()}
    whole.save(mine)
    assert {p: p.stat().st_mtime_ns for p in mine.rglob("*") if p.is_file()} == times


def test_a_save_that_was_cut_off_goes_on(whole, kept, tmp_path, monkeypatch):
    from bayes_cannon.spectra.files import storing

    out, write = tmp_path / "set.zarr", storing.write_block

    def cut_off(folder, block, *rest):
        if block == 2:
            raise KeyboardInterrupt
        write(folder, block, *rest)

    monkeypatch.setattr(storing, "write_block", cut_off)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT011
        whole.save(out)
    with pytest.raises(FileFormatError, match=r"is not finished; .* goes on"):
        open_dataset(out)
    monkeypatch.setattr(storing, "write_block", write)
    first = (out / "progress" / "000000").stat().st_mtime_ns
    whole.save(out)
    assert (out / "progress" / "000000").stat().st_mtime_ns == first
    assert contents(out) == contents(kept)


def contents(folder: Path) -> dict[str, bytes]:
    """All files, the marks without their seconds."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.parent.name == "progress" and path.name.isdigit():
            content = json.dumps(json.loads(content) | {"seconds": 0}).encode()
        found[path.relative_to(folder).as_posix()] = content
    return found


def test_another_set_is_not_mixed_in(whole, mine):
    other = replace(whole, settings={"another": 1})
    with pytest.raises(OutputExistsError, match="made of something else"):
        other.save(mine)
    other.save(mine, overwrite=True)
    assert TrainingSet.load(mine).settings == {"another": 1}


def test_folders_of_others_stay(whole, tmp_path):
    other = tmp_path / "other.zarr"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="holds nothing that can go on"):
            whole.save(other, overwrite=overwrite)
    assert (other / "thesis.tex").exists()
    (tmp_path / "file.zarr").write_text("a file")
    with pytest.raises(OutputExistsError, match="is a file"):
        whole.save(tmp_path / "file.zarr")


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("what", ["damaged", "lost", "shorter"])
@pytest.mark.parametrize("file", ["pixels/flux/1.2", "progress/000001"])
def test_damage_is_found_when_it_is_read_and_mended_by_the_same_save(whole, mine, file, what):
    path = mine / file
    if what == "lost":
        path.unlink()
    elif what == "shorter":
        path.write_bytes(path.read_bytes()[:-40])
    elif "progress" in file:
        path.write_text("{")
    else:
        damage(path)
    spectra = open_dataset(mine).spectra
    assert spectra.rows(slice(0, 256)).n_stars == 256  # another block is whole
    with pytest.raises(FileFormatError, match=r"00001|flux.1.2.* is damaged or lost"):
        spectra.rows(slice(200, 300))
    if "progress" in file:
        whole.save(mine)
    else:
        with pytest.warns(BayesCannonWarning, match="1 of 3 blocks"):
            whole.save(mine)
    assert_same(TrainingSet.load(mine), whole)


def test_a_chunk_that_was_not_written_is_not_taken(tmp_path):
    """One that holds only fill values has no file; one that appears there is not believed."""
    empty = a_set(2, 8)
    spectra = replace(empty.spectra, ivar=np.zeros((2, 8)))
    out = replace(empty, spectra=spectra).save(tmp_path / "empty.zarr")
    assert not (out / "pixels/ivar/0.0").exists()
    assert not open_dataset(out).spectra.usable.any()
    assert not open_dataset(out).spectra.in_memory().good.any()
    (out / "pixels/ivar/0.0").write_bytes((out / "pixels/flux/0.0").read_bytes())
    with pytest.raises(FileFormatError, match=r"ivar.0\.0 is damaged"):
        open_dataset(out).spectra.in_memory()


def test_a_set_of_no_star_comes_back(whole, tmp_path):
    none = whole.select(slice(0, 0))
    for name in ("none.zarr", "none.nc"):
        none.save(tmp_path / name)
        assert len(open_dataset(tmp_path / name)) == 0
        assert TrainingSet.load(tmp_path / name).spectra.flux.shape == (0, N_PIXELS)


@pytest.mark.parametrize(
    "file", ["stars/star_id/0", ".zattrs", ".zgroup", "pixels/flux/.zarray", "info/.zgroup"]
)
def test_damaged_descriptions_are_refused(whole, mine, file):
    (mine / file).write_bytes(b"{}")
    with pytest.raises(FileFormatError, match=r"is damaged or lost|holds something else"):
        open_dataset(mine)
    if "pixels" in file:
        with pytest.raises(FileFormatError, match=r"put it back from a copy, or pass --overwrite"):
            whole.save(mine)
    whole.save(mine, overwrite="pixels" in file)
    assert_same(TrainingSet.load(mine), whole)


def test_other_kinds_and_newer_formats_are_refused(mine, tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        open_dataset(tmp_path / "none.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FileFormatError, match="holds something else"):
        open_dataset(tmp_path / "empty.zarr")
    zarr.open_group(tmp_path / "other", mode="w", zarr_format=2).attrs["format"] = "a cube"
    with pytest.raises(FileFormatError, match=r"holds a cube, not bayes_cannon\.dataset"):
        TrainingSet.load(tmp_path / "other")
    zarr.open_group(tmp_path / "three", mode="w", zarr_format=3)
    with pytest.raises(FileFormatError, match="holds something else"):
        open_dataset(tmp_path / "three")
    attrs = mine / ".zattrs"
    attrs.write_text(json.dumps(json.loads(attrs.read_text()) | {"format_version": 2}))
    with pytest.raises(FileFormatError, match="has format version 2, not 1; upgrade"):
        open_dataset(mine)


def test_a_codec_that_runs_code_is_refused(mine, tmp_path):
    """Zarr's codec ``pickle`` runs what it reads; the sums are those of the attacker."""
    head = mine / "stars" / "star_id" / ".zarray"
    content = json.loads(head.read_text())
    head.write_text(json.dumps(content | {"filters": [{"id": "pickle", "protocol": 5}]}))
    trap = tmp_path / "trapped"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    (mine / "stars" / "star_id" / "0").write_bytes(pickle.dumps(Trap()))
    forge(mine)
    with pytest.raises(FileFormatError, match="encoded by pickle, which datasets of bayes_cannon"):
        open_dataset(mine)
    assert not trap.exists()


def forge(folder: Path) -> None:
    """Put the sums right, as somebody would who wants to be read."""
    from bayes_cannon.base.stores.blocks import sums_of, write_json

    mark = folder / "progress" / "whole"
    content = json.loads(mark.read_text())
    files = sums_of(folder, [folder / name for name in content["files"]])
    write_json(mark, content | {"files": files})


def test_which_paths_are_stored(kept, tmp_path):
    assert is_stored(kept)
    assert not is_stored(tmp_path)
    assert not is_stored(tmp_path / "none.zarr")
    assert bc.spectra.open_dataset is open_dataset

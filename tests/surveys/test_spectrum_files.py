"""Files below a folder: linked folders, loops of links, capital endings."""

import logging

import pytest

from bayes_cannon.surveys.folders import files_below, is_spectrum

NAME = "apStar-dr17-2M00000001+0000001.fits"


@pytest.fixture
def tree(tmp_path):
    """A real folder, a linked one, one that links to its parent, and a link into nowhere."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "apo25m" / "M15", elsewhere / "N6791"):
        folder.mkdir(parents=True)
        (folder / NAME).touch()
    (root / "apo25m" / "M15" / NAME.replace("01.fits", "02.FITS")).touch()
    (root / "apo25m" / "M15" / "notes.txt").touch()
    (root / ".hidden").mkdir()
    (root / ".hidden" / NAME).touch()
    (root / "lco25m").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(root)
    (root / "apo25m" / NAME).symlink_to(tmp_path / "nowhere")
    (root / "apo25m" / "self").symlink_to("self")
    return root


def test_links_are_followed_and_loops_are_not(tree, caplog):
    with caplog.at_level(logging.WARNING):
        found = ["/".join(parts) for parts in files_below(tree, is_spectrum)]
    assert found == [
        f"apo25m/M15/{NAME}",
        f"apo25m/M15/{NAME.replace('01.fits', '02.FITS')}",
        f"apo25m/{NAME}",
        f"lco25m/N6791/{NAME}",
    ]
    assert "loop is a link to a folder above it; it is not followed" in caplog.text


def test_depth(tree):
    assert list(files_below(tree, is_spectrum, depth=1)) == [("apo25m", NAME)]


def test_folder_that_is_not_there(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert list(files_below(tmp_path / "x", is_spectrum)) == []
    assert "cannot be looked into: No such file" in caplog.text


@pytest.mark.parametrize(
    ("name", "wanted"),
    [(NAME, True), (f"{NAME}.gz", True), ("asStar-dr17-2M1.FITS.GZ", True),
     ("apStarC-dr17-2M1.fits", False), ("apStar-dr17-2M1.fits.tmp", False), ("x.fits", False)],
)  # fmt: skip
def test_names_of_spectra(name, wanted):
    assert is_spectrum(name) is wanted

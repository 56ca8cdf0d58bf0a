"""The report of a run: what is in it, what is said where something is missing, what is refused."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from bayes_cannon.analysis.catalogued.files import write_catalogue
from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.errors import (
    BayesCannonWarning,
    FileFormatError,
    InvalidDataError,
    OutputExistsError,
)
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.report.explorer import _stars, links_of, small_pictures
from bayes_cannon.runs.report.loading import load_inputs
from bayes_cannon.runs.report.page import (
    Cell,
    Chapter,
    Column,
    Facts,
    Grid,
    Heading,
    Note,
    Picture,
    Text,
)
from bayes_cannon.runs.report.page import Page as HtmlPage
from bayes_cannon.runs.report.parts import Drawing, Section, file_names
from bayes_cannon.runs.report.registry import registered_sections, remove_section, section
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.runs.report.sections import SECTIONS
from bayes_cannon.runs.results import open_run
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import shown_label
from tests.cli.test_cli import run as command
from tests.report_problem import HOSTILE, make_run

TEXTS = tuple(s for s in SECTIONS if s.key in ("summary", "tables", "stars", "settings"))


class Page(HTMLParser):
    """Tags of a page with what was in them."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.text, self.ids = [], [], "", []
        self.feed(Path(path).read_text())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_data(self, data):
        self.text += data


def data_of(report):
    """What the script of a report is given."""
    text = report.path.read_text()
    start = text.index('id="star-data">') + len('id="star-data">')
    return json.loads(text[start : text.index("</script>", start)])


@pytest.fixture(scope="module")
def page(big_report):
    return Page(big_report.path)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    make_run(folder, n_stars=30, n_pixels=300)
    return folder


@pytest.fixture
def small(original, tmp_path):
    """A run of 30 stars on few pixels; it notes its model and dataset."""
    return Path(shutil.copytree(original, tmp_path / "small")) / "run"


def test_no_section_fails_on_a_healthy_run(big_report, page):
    assert big_report.failed == {}
    assert set(big_report.missing) == {"spectrum"}, "the run has no raw spectra"
    assert "could not be" not in page.text


def test_500_stars_fit_into_15_megabytes(big_report):
    assert big_report.size == big_report.path.stat().st_size < 15e6


def test_nothing_in_the_page_leads_outside(page):
    loads = [(t, n, v) for t, n, v in page.attributes if n in ("src", "href", "srcset", "action")]
    assert {t for t, _, _ in loads} == {"a", "img", "link"}
    assert all(v.startswith(("data:", "#", "figures/")) for _, _, v in loads)
    assert {t for t, _, v in loads if v.startswith("figures/")} == {"a"}, "linked, not loaded"
    assert not {"iframe", "object", "embed", "base", "form"} & set(page.tags)
    assert not [n for _, n, _ in page.attributes if n.startswith("on") or n == "style"]
    assert page.tags.count("style") == 1
    assert page.tags.count("script") == 2
    assert ("script", "type", "application/json") in page.attributes, "one of them is data alone"


def test_hostile_names_stay_text(page, big_report):
    assert "b" not in page.tags
    for name in HOSTILE[:5]:
        assert name in page.text
    assert [star["id"] for star in data_of(big_report)["stars"][:5]] == list(HOSTILE[:5])
    source = big_report.path.read_text()
    assert "<script>document" not in source
    assert source.count("</style>") == 1


def test_figures_stay_in_their_folder_whatever_the_stars_are_called(big_report):
    folder = big_report.path.parent / "figures"
    assert {path.parent for path in big_report.figures} == {folder}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in big_report.figures)
    outside = {p.name for p in big_report.path.parent.parent.iterdir()}
    assert outside == {"cannon.nc", "dataset.nc", "run"}
    assert any("script" in path.name for path in big_report.figures), "they are drawn at all"


def test_names_of_files_are_plain_and_differ():
    stars = [*HOSTILE, "a/b", "a_b", "..", ".", "/", "\0", "A/b"]
    names = list(file_names("corner", stars, stars).values())
    assert len({name.lower() for name in names}) == len(stars)
    for name in names:
        assert name.startswith("corner-")
        assert not re.search(r"[/\\\0<>\"'$ ]", name)
        assert len(name.encode()) < 200


@pytest.mark.parametrize("name", ["../x", "a/b", "", "..\\..", "x\0"])
def test_a_figure_whose_name_leads_outside_is_not_written(small, name):
    drawing = Drawing(name, plt.figure, "a figure")
    section = Section("bad", "Bad", "", lambda inputs: [drawing])
    report = write_report(small, sections=[section])
    if "/" in name or "\0" in name:
        assert list(report.failed) == ["bad"]
        assert report.figures == ()
    else:
        assert [path.parent for path in report.figures] == [small / "figures"]


def test_every_section_has_its_title_and_what_to_see(page, big_report):
    for one in SECTIONS:
        if not one.optional:
            assert one.key in page.ids
            assert one.title in page.text
            assert one.see in page.text


def test_findings_come_first_and_are_of_the_run(page):
    assert page.ids.index("findings") < page.ids.index("summary")
    for text in (
        "The labels of 499 stars scatter about ",
        "The calibrated 68 % intervals hold the catalogue for ",
        "differ from ASPCAP by more than 3 joint errors in some label; furthest off are ",
        f"{HOSTILE[0]} (", "Of 500 stars, 1 lacks a posterior; 0 have R-hat above 1.01",
    ):  # fmt: skip
        assert text in page.text, text
    for word in ("student", "course", "Ness"):
        assert word not in page.text


def test_what_others_published_is_shown_when_asked_for(small):
    report = write_report(small, sections=TEXTS, published=True)
    assert "Ness et al. 2015: ApJ 808, 16" in Page(report.path).text


def test_the_data_of_the_script_are_the_runs(big_report):
    data, run = data_of(big_report), open_run(big_report.path.parent)
    assert [label["name"] for label in data["labels"]] == list(run.names)
    assert data["references"] == ["ASPCAP"]
    star, row = data["stars"][7], run.table[7]
    np.testing.assert_allclose(star["v"], [row[n] for n in run.names], rtol=1e-5)
    np.testing.assert_allclose(star["e"], [row[f"{n}_ERR"] for n in run.names], rtol=1e-5)
    np.testing.assert_allclose(
        star["r"][0]["v"], [row[f"{n}_ASPCAP"] for n in run.names], rtol=1e-5
    )
    assert star["t"][0] == value_with_error(row["TEFF"], row["TEFF_ERR"])
    assert data["stars"][1]["v"] == [None] * 5, "no posterior"
    assert data["stars"][0]["flag"] == 64 + 4096
    assert {f["name"] for f in data["flags"] if 64 & f["bit"]} == {"RHAT"}
    assert all(f["text"].endswith(".") for f in data["flags"])
    assert not any("links" in s for s in data["stars"]), "no star of a simulation is in an archive"
    assert data["beside"]


def test_small_pictures_of_the_corner_plots_keep_to_their_room(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for path in files:
        Image.fromarray(rng.integers(0, 255, (300, 700, 3), dtype=np.uint8)).save(path)
    whole = small_pictures(files)
    assert [Image.open(io.BytesIO(base64.b64decode(t))).width for t in whole] == [640] * 4
    monkeypatch.setattr("bayes_cannon.runs.report.explorer._BYTES", len("".join(whole)) // 3)
    fewer = small_pictures(files)
    widths = {Image.open(io.BytesIO(base64.b64decode(t))).width for t in fewer}
    assert max(widths) < 640
    assert len("".join(fewer)) <= len("".join(whole)) // 3
    files[2].write_text("no picture")
    assert [bool(text) for text in small_pictures(files)] == [True, True, False, True]


def test_a_star_of_the_sky_has_links(small):
    star = "2M16333217-3942519"
    links = dict(links_of(f"apo25m/M13/{star}#2", "dr17"))
    assert "apogee_id=2M16333217-3942519" in links["SDSS spectrum"]
    assert links["SIMBAD"].endswith("Ident=2MASS%20J16333217-3942519")
    assert "target=16%2033%2032.17%20-39%2042%2051.9" in links["Aladin"]
    assert "SDSS spectrum" not in dict(links_of(star, "dr19"))
    inputs = load_inputs(small)
    inputs.result.attrs["simulated"] = inputs.table.meta["SIMULATE"] = 0
    real = _stars(inputs, 3, [])
    assert [title for title, _ in real[0]["links"]] == ["SIMBAD", "Aladin"]


def test_flags_are_decoded_and_stars_listed(page):
    assert "R-hat above its limit; fitted worse than 99 %" in page.text
    assert page.tags.count("tr") > 500
    assert "SIMULATED" in page.text


def test_settings_and_versions_are_at_the_end(page):
    assert page.ids.index("settings") > page.ids.index("stars")
    for text in ("priors.coef_scale", "draws", "pymc", "bayes_cannon"):
        assert text in page.text[page.text.rindex("Settings and versions") :]


def test_missing_files_are_said_section_by_section(tmp_path):
    small = make_run(tmp_path, n_stars=30, n_pixels=300)
    for name in ("cannon.nc", "dataset.nc"):
        (small.parent / name).unlink()
    report = write_report(small, sections=[s for s in SECTIONS if s.needs or s.key == "one-to-one"])
    assert report.failed == {}
    assert set(report.missing) >= {"sample", "spectrum", "model", "gradients", "scatter", "factors"}
    text = Page(report.path).text
    assert "its cannon.nc is not there any more; give it with --cannon FILE" in text
    assert "its dataset.nc is not there any more; give it with --dataset FILE" in text
    assert {"one-to-one.png"} <= {path.name for path in report.figures}


def test_a_run_that_notes_nothing_is_completed_by_files_given(tmp_path):
    run = make_run(tmp_path, n_stars=30, n_pixels=300, noted=False)
    bare = load_inputs(run)
    assert bare.cannon is None
    assert "does not say where; give it with --cannon FILE" in bare.missing["cannon"]
    assert np.isnan(bare.snr).all()
    whole = load_inputs(run, cannon=tmp_path / "cannon.nc", dataset=tmp_path / "dataset.nc")
    assert whole.missing.keys() == {"files", "survey"}
    assert all("--survey FOLDER." in text for text in whole.missing.values())
    assert "given as arrays, not as files; where they are of" in bare.missing["files"]
    own = TrainingSet.load(tmp_path / "dataset.nc")
    own = replace(own, settings=dict(own.settings) | {"source": "own spectra"})
    told = load_inputs(run, dataset=own).missing
    assert (
        told["survey"]
        == told["files"]
        == ("cannot be shown: the spectra are a user's own, not of a survey.")
    )
    assert whole.notes == ()
    assert np.isfinite(whole.snr).all()
    assert whole.spectra.star_id.tolist() == whole.star_id.tolist()


def test_a_folder_moved_as_a_whole_still_finds_its_files(tmp_path):
    (tmp_path / "here").mkdir()
    make_run(tmp_path / "here", n_stars=30, n_pixels=300)
    (tmp_path / "here").rename(tmp_path / "there")
    assert not (tmp_path / "here").exists()
    inputs = load_inputs(tmp_path / "there" / "run")
    assert inputs.cannon is not None
    assert inputs.dataset is not None


def changed(small, **digests):
    """Note other digests in a run, as of this version."""
    from bayes_cannon import __version__

    path = small / "progress" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": __version__} | digests))


def test_files_changed_since_the_run_are_not_used(small):
    changed(small)
    assert load_inputs(small).missing.keys() == {"files", "survey"}
    changed(small, model="another", spectra="another")
    inputs = load_inputs(small)
    assert inputs.cannon is None
    assert inputs.spectra is None
    assert "cannon.nc was changed since the run was made" in inputs.missing["cannon"]
    assert "dataset.nc changed since the run was made" in inputs.missing["spectra"]


def test_another_model_that_is_given_is_used_with_a_warning(small):
    changed(small, model="another")
    with pytest.warns(BayesCannonWarning, match="not what this run was made with"):
        inputs = load_inputs(small, cannon=small.parent / "cannon.nc")
    assert inputs.cannon is not None
    with pytest.warns(BayesCannonWarning):
        report = write_report(small, cannon=inputs.cannon, sections=TEXTS)
    assert "not what this run was made with" in Page(report.path).text


def test_a_run_without_summary_and_catalogue_is_reported_all_the_same(small):
    for name in ("summary.json", "catalogue.fits", "catalogue.ecsv"):
        (small / name).unlink()
    report = write_report(small, sections=TEXTS)
    assert report.failed == {}
    text = Page(report.path).text
    assert "has no summary.json" in text
    assert "no catalogue labels" in text


def test_damaged_files_are_an_error(small):
    (small / "catalogue.fits").write_bytes(b"x" * 5000)
    with pytest.raises(FileFormatError, match="catalogue"):
        write_report(small)
    (small / "catalogue.fits").unlink()
    (small / "summary.json").write_text("[1")
    with pytest.raises(FileFormatError, match=r"summary\.json cannot be read"):
        write_report(small)
    with pytest.raises(FileFormatError, match="not a run"):
        write_report(small / "figures")
    (small / "summary.json").unlink()
    with pytest.raises(FileFormatError, match="does not exist"):
        write_report(small, cannon=small / "no.nc")


def failing(inputs):
    yield Text("before")
    yield Drawing("broken", lambda: 1 / 0, "Broken figure")
    yield Text("between")
    raise InvalidDataError("nothing\nmore to <b>see</b>")


def test_a_figure_that_fails_leaves_a_line_and_the_rest(small, caplog):
    sections = [Section("failing", "Failing", "See.", failing), *TEXTS]
    before = plt.get_fignums()
    report = write_report(small, sections=sections)
    text = Page(report.path).text
    assert "Broken figure could not be drawn: ZeroDivisionError: division by zero" in text
    assert "before" in text
    assert "between" in text
    assert "could not be made further: nothing more to <b>see</b>" in text
    assert report.failed == {"failing": "nothing more to <b>see</b>"}
    assert "section failing of the report" in caplog.text
    assert "Settings and versions" in text
    assert plt.get_fignums() == before


def test_figures_of_failed_drawings_are_closed(small):
    def draw():
        plt.figure()
        raise ValueError("too late")

    before = plt.get_fignums()
    section = Section("a", "A", "", lambda inputs: [Drawing("a", draw, "a")])
    assert write_report(small, sections=[section]).failed == {"a": "ValueError: too late"}
    assert plt.get_fignums() == before


def test_figures_are_written_as_pdf_where_asked_and_none_stays_that_is_old(small):
    def draw():
        figure = plt.figure()
        figure.add_subplot().plot([0, 1])
        return figure

    section = Section("a", "A", "", lambda inputs: [Drawing("a", draw, "a")])
    pdf = small / "figures" / "a.pdf"
    for asked in (True, False):
        report = write_report(small, sections=[section], pdf=asked)
        assert pdf.is_file() == asked == ("figures/a.pdf" in report.path.read_text())
        assert not asked or pdf.read_bytes().startswith(b"%PDF-")
        assert (small / "figures" / "a.png").is_file()


MYSTERY = tuple(s for s in SECTIONS if s.key == "mystery")


def test_unlabelled_stars_get_a_section(tmp_path):
    run = make_run(tmp_path, n_stars=3, n_pixels=300, labelled=False)
    report = write_report(run, sections=MYSTERY)
    assert report.failed == {}
    page = Page(report.path)
    assert "mystery" in page.ids
    assert "times the formal ones: the formal posterior takes" in page.text
    names = {path.name for path in report.figures}
    star = "mystery-2M00000000+0000000"
    assert {f"{star}-corner.png", f"{star}-spectrum.png"} < names


def test_another_run_of_mystery_stars_is_shown_beside(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    run = make_run(tmp_path / "a", n_stars=30, n_pixels=300)
    other = make_run(tmp_path / "b", n_stars=3, n_pixels=300, labelled=False)
    inputs = load_inputs(run, mystery=other)
    assert inputs.mystery.star_id.size == 3
    assert inputs.mystery.cannon is inputs.cannon
    assert "mystery" not in Page(write_report(run, sections=MYSTERY).path).ids


def test_report_replaces_a_report_and_nothing_else(small, tmp_path):
    first = write_report(small, sections=TEXTS)
    assert write_report(small, sections=TEXTS).path == first.path
    thesis = tmp_path / "thesis.html"
    thesis.write_text("<p>years of work</p>")
    with pytest.raises(OutputExistsError, match="not a report"):
        write_report(small, out=thesis, sections=TEXTS)
    assert thesis.read_text() == "<p>years of work</p>"
    write_report(small, out=thesis, overwrite=True, sections=TEXTS)
    assert "Settings and versions" in thesis.read_text()


def test_elsewhere_only_the_file_is_written(small, tmp_path):
    one = [s for s in SECTIONS if s.key == "scatter"]
    report = write_report(small, out=tmp_path / "new" / "r.html", sections=one)
    assert report.figures == ()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.html"]
    assert not list((small / "figures").glob("scatter*")) if (small / "figures").exists() else True
    assert "img" in Page(report.path).tags


def test_a_link_in_the_figures_folder_is_replaced_not_followed(small, tmp_path):
    (small / "figures").mkdir(exist_ok=True)
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    (small / "figures" / "scatter.png").symlink_to(victim)
    write_report(small, sections=[s for s in SECTIONS if s.key == "scatter"])
    assert victim.read_bytes() == b"mine"
    assert not (small / "figures" / "scatter.png").is_symlink()


def test_the_command_says_what_is_missing_and_where_the_report_is(small, capsys, monkeypatch):
    import bayes_cannon.runs.report.report as module

    monkeypatch.setattr(
        module.write_report, "__kwdefaults__",
        module.write_report.__kwdefaults__
        | {"sections": [s for s in SECTIONS if s.key in ("summary", "spectrum")]},
    )  # fmt: skip
    assert command("report", small) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "not shown (spectrum): needs the raw spectra" in said
    assert f"{small / 'report.html'}: a report of 0." in said
    assert command("report", small / "nothing") == 2
    assert "not a run" in capsys.readouterr().err
    (small / "report.html").write_text("mine")
    assert command("report", small) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a<b>&\"'", "a&lt;b&gt;&amp;&#34;&#39;"),
        ("\x00\x1b[31m\u202e", "\ufffd\ufffd[31m\ufffd"),
        ("Ångström ± 5 χ²", "Ångström ± 5 χ²"),
    ],
)
def test_every_value_of_the_page_is_escaped(text, shown):
    image = b"\x89PNG\r\n\x1a\n" + bytes(16)
    parts = [
        Text(text), Heading(text), Note(text), Facts([(text, text)]), Picture(image, text, text),
        Grid(text, [Column(text)], [(text,)]),
    ]  # fmt: skip
    chapter = Chapter("key", text, text, parts)
    html = HtmlPage(text, [text], text, [chapter], text).html()
    assert text not in html or text == shown
    # Title twice, line, banner, contents, footer; two of the chapter; those of the parts.
    assert html.count(shown) == 6 + 2 + (1 + 1 + 1 + 2 + 2 + 4)


def test_cells_sort_by_their_numbers():
    cells = [Column("x", ".2f").cell(v) for v in (1.234, -5, np.float32(2), None, np.nan, "x")]
    assert cells[0] == Cell("1.23", "number", "1.234")
    assert cells[1] == Cell("\N{MINUS SIGN}5.00", "number", "-5")
    assert cells[2].sort == "2"
    assert cells[3] == cells[4] == cells[5] == Cell("–", "number", "")
    assert Column("n", "d").cell(np.int64(7)) == Cell("7", "number", "7")
    grid = Grid("t", [Column("n", "d"), Column("s", kind="id")], [(7, "a"), (None, "b")])
    html = HtmlPage("", [], "", [Chapter("k", "", "", [grid])], "").html()
    assert '<td class="number" data-sort="7">7</td><td class="id">a</td>' in html
    assert '<td class="number" data-sort="">–</td><td class="id">b</td>' in html


def test_parts_refuse_what_they_cannot_show():
    with pytest.raises(InvalidDataError, match="has 2 values, not 1"):
        Grid("t", [Column("a")], [("x",), ("y", "z")])
    with pytest.raises(InvalidDataError, match="not a PNG"):
        Picture(b"GIF89a" * 10, "a picture")


def test_labels_in_plain_text():
    assert [shown_label(n) for n in ("FE_H", "LOGG", "M_H", "NA_FE")] == [
        "[Fe/H]", "log g", "[M/H]", "[Na/Fe]",
    ]  # fmt: skip


def test_a_model_of_all_stars_is_read_back(tmp_path):
    from tests.report_problem import make_model

    cannon = replace(make_model(50), held_out=np.array([], dtype=np.str_))
    cannon.save(tmp_path / "cannon.nc")
    assert Cannon.load(tmp_path / "cannon.nc").held_out.size == 0


def test_own_spectra_and_their_catalogue_are_called_by_their_names(tmp_path):
    run = make_run(tmp_path, n_stars=20, n_pixels=300)
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    for settings, text in (
        ({"release": "dr17"}, "from DR17 APOGEE spectra, by"),
        ({"source": "own spectra"}, "from own spectra, by"),
        ({"source": "own spectra", "spectra": "Gaia DR3 XP"}, "from Gaia DR3 XP spectra, by"),
    ):
        summary["model"]["dataset"] = settings
        path.write_text(json.dumps(summary))
        assert text in write_report(run, sections=()).path.read_text()
    sections = tuple(s for s in SECTIONS if s.key == "one-to-one")
    assert (
        "Labels of this work against ASPCAP"
        in write_report(run, sections=sections).path.read_text()
    )
    dataset = TrainingSet.load(tmp_path / "dataset.nc")
    named = replace(dataset, settings={"catalogue": "GALAH DR4"})
    write_catalogue(catalogue(open_run(run), aspcap=named), run, overwrite=True)
    assert (
        "Labels of this work against GALAH DR4"
        in write_report(run, sections=sections).path.read_text()
    )


# Sections of other packages


OTHER_PACKAGE = '''
import matplotlib.pyplot as plt
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.report.sections import Column, Drawing, Grid, section

@section("hot", "Hot <stars>", "Few should be hotter than 5000 K.", after="kiel")
def hot_stars(inputs):
    """Histogram of Teff, and the hottest stars."""
    def draw():
        figure, ax = plt.subplots()
        ax.hist(inputs.table["TEFF"][inputs.has_posterior])
        ax.set(xlabel="Teff (K)", ylabel="stars")
        return figure
    yield Drawing("hot-stars", draw, "Histogram of Teff")
    rows = [(star, t) for star, t in zip(inputs.star_id, inputs.table["TEFF"]) if t > 4600]
    yield Grid("Hot stars.", [Column("star", kind="id"), Column("Teff (K)", ".0f")], rows)
'''


def test_a_section_of_another_package(small, tmp_path, monkeypatch):
    """Twelve lines in a module elsewhere; found by an entry point or an import."""
    from bayes_cannon.runs.report import registry as report_registry

    site = tmp_path / "site"
    info = site / "hot_stars-1.dist-info"
    info.mkdir(parents=True)
    (site / "hot_stars_of_mine.py").write_text(OTHER_PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hot-stars\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[bayes_cannon.report]\nhot = hot_stars_of_mine\nbad = not_there_at_all\n"
    )
    monkeypatch.syspath_prepend(site)
    report_registry._load_entry_points.cache_clear()
    try:
        with pytest.warns(BayesCannonWarning, match="not_there_at_all are not in the report"):
            keys = [s.key for s in registered_sections()]
        assert keys.index("hot") == keys.index("kiel") + 1
        one = [s for s in registered_sections() if s.key == "hot"]
        report = write_report(small, sections=one)
    finally:
        remove_section("hot")
    assert report.failed == {}
    assert [path.name for path in report.figures] == ["hot-stars.png"]
    page = Page(report.path)
    assert "Hot <stars>" in page.text
    assert page.tags.count("td") >= 2
    assert registered_sections() == SECTIONS


def test_the_report_asks_for_what_is_registered_when_it_is_made(small, monkeypatch):
    from bayes_cannon.runs.report import report

    seen = []
    monkeypatch.setattr(report, "registered_sections", lambda: seen.append(1) or TEXTS[:1])
    assert "Summary" in Page(write_report(small).path).text
    assert seen == [1]


def test_sections_that_cannot_be_registered():
    def make(inputs):
        return []

    with pytest.raises(InvalidDataError, match="must be letters, digits, hyphens"):
        section("a b", "A", "")
    with pytest.raises(InvalidDataError, match=r"no section .nothing. to come after; .* kiel"):
        section("a", "A", "", after="nothing")
    with pytest.raises(InvalidDataError, match="either the order of a section or after="):
        section("a", "A", "", after="kiel", order=3)
    with pytest.raises(InvalidDataError, match="no input spectrum"):
        section("a", "A", "", needs=("spectra", "spectrum"))
    with pytest.raises(InvalidDataError, match="a section 'kiel' already, made by bayes_cannon"):
        section("kiel", "A", "")(make)
    with pytest.raises(InvalidDataError, match="no section 'a'; there are"):
        remove_section("a")
    section("a", "A", "")(make)
    section("a", "B", "", order=1)(make)  # a cell of a notebook that runs again
    assert registered_sections()[0].title == "B"
    remove_section("a")
    assert registered_sections() == SECTIONS


def test_a_fresh_process_knows_the_sections_of_the_package():
    """The command imports the report alone; the report of the demo was empty."""
    code = (
        "import bayes_cannon.runs.report.report as report\n"
        "print(*[s.key for s in report.registered_sections()])"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert said.split() == [s.key for s in SECTIONS]
    assert {"summary", "kiel", "calibration", "stars"} <= set(said.split())

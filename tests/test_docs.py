"""The documentation says what there is, and is built without a warning or a broken link."""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache, reduce
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.analysis.catalogued.columns import FACTS, ucd_of
from bayes_cannon.inference.flags import ADVICE, MEANINGS, LabelFlag
from bayes_cannon.models.label_priors import LabelPrior, read_priors
from tests.browser import Browser, browser_is_needed, find_browser
from tests.run_problem import CANNON, QUICK, labels_of, make_spectra

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [
    path
    for path in sorted(DOCS.rglob("*.md"))
    if not {"_build", "generated"} & set(path.parts)
    and (path.name == "index.md" or path.parent.name not in ("api", "tutorials"))
    and path.name != "commands.md"
]
FENCED = re.compile(r"^```.*?^```", flags=re.S | re.M)
MADE = re.compile(r"(tutorials/\d|reference/commands\.md|generated/)")
"""Targets of links that are made when the documentation is built."""


def named(path: Path) -> str:
    return str(path.relative_to(DOCS))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text("utf-8"), flags=re.S | re.M)


@cache
def generated():
    spec = importlib.util.spec_from_file_location("generated", DOCS / "_ext" / "generated.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def options() -> dict[str, set[str]]:
    from typer.main import get_command

    from bayes_cannon.cli.commands import app

    return {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        for name, command in get_command(app).commands.items()
    }


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_commands_of_a_page_exist_with_their_options(path):
    text = path.read_text("utf-8")
    lines = re.findall(r"^\$ bayes-cannon (.*)$", text, flags=re.M)
    for command, *words in (shlex.split(line, comments=True) for line in lines):
        assert command in options(), command
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= options()[command], command
    inline = re.findall(r"`[^`\n]*?(--[a-z][a-z-]*)", FENCED.sub("", text))
    assert set(inline) <= set.union(*options().values())


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_python_of_a_page_names_what_there_is(path):
    for code in blocks(path, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("bayes_cannon"):
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []
        for chain in re.findall(r"\bbc((?:\.[A-Za-z_]\w*)+)", code):
            reduce(getattr, chain.strip(".").split("."), bc)


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text("utf-8")):
        place = (path.parent / target).resolve()
        made = MADE.match(str(place.relative_to(DOCS))) if place.is_relative_to(DOCS) else None
        assert made or place.is_file(), target


@pytest.mark.slow
def test_example_with_own_spectra_runs_and_recovers_the_labels():
    (code,) = blocks(DOCS / "how-to/own-spectrograph.md", "python")
    names: dict[str, object] = {}
    exec(compile(code.replace("print(", "shown = ("), "own-spectrograph.md", "exec"), names)
    assert np.std(np.asarray(names["shown"])) < 60


def test_example_of_a_made_up_survey_reads_it(tmp_path, monkeypatch, capsys):
    from bayes_cannon.cli.surveys import readers

    (code,) = blocks(DOCS / "how-to/own-survey.md", "python")
    folder = tmp_path / "toy-survey"
    folder.mkdir()
    rng = np.random.default_rng(1)
    names = [f"toy{k}" for k in range(6)]
    for name in names:
        np.save(folder / name, np.stack([1 + 0.01 * rng.normal(size=201), np.full(201, 0.01)]))
    table = Table({"TOY_ID": names, "TEFF": rng.uniform(4000, 5000, 6), "FE_H": np.zeros(6)})
    table.write(folder / "stars.ecsv")
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    try:
        exec(compile(code, "own-survey.md", "exec"), known)
        readers(folder)
    finally:
        bc.surveys.unregister_reader("toy")
    dataset = known["dataset"]
    assert dataset.star_id.tolist() == names
    assert dataset.id_name == "TOY_ID"
    assert dataset.catalogue == "TOY1"
    said = capsys.readouterr().out
    assert "recognised  stars.ecsv at the top, <TOY_ID>.npy beside it" in said
    assert "this folder is of this survey" in said
    assert said.endswith("toy-survey is read by toy\n")


def test_example_of_priors_is_read(tmp_path):
    (text,) = blocks(DOCS / "how-to/priors.md", "toml")
    (tmp_path / "priors.toml").write_text(text, encoding="utf-8")
    assert read_priors(tmp_path / "priors.toml") == {
        "AGE": LabelPrior.uniform(0, 14),
        "TEFF": LabelPrior.uniform(3500, 5500),
        "LOGG": LabelPrior.truncated(2.5, 0.5, lower=0),
        "FE_H": LabelPrior.normal(-0.2, 0.3),
    }


def test_links_to_files_in_one_folder_make_a_survey(tmp_path, monkeypatch):
    bc.simulate_survey(tmp_path / "sky", n_stars=3, seed=1)
    survey = bc.open_survey(tmp_path / "sky")
    (tmp_path / "my-spectra").mkdir()
    for path in map(Path, filter(None, survey.files.tolist())):
        whole = path if path.is_absolute() else survey.path / path
        whole.rename(tmp_path / "my-spectra" / path.name)
    catalogue = next((tmp_path / "sky").glob("allStar*.fits"))
    catalogue.rename(tmp_path / "allStar-dr17-synspec_rev1.fits")
    monkeypatch.chdir(tmp_path)
    code = next(b for b in blocks(DOCS / "how-to/own-apstar.md", "python") if "symlink_to" in b)
    exec(compile(code, "own-apstar.md", "exec"), {})
    again = bc.open_survey("survey")
    assert (again.files != "").tolist() == (survey.files != "").tolist()


def named_as_on_the_page(name: str, labels: tuple[str, ...]) -> str:
    either = "|".join(labels)
    return re.sub(
        rf"^({either})(_({either}))?(?=_|$)", lambda m: "NAME_NAME" if m[3] else "NAME", name
    )


def test_page_of_files_has_every_column_of_the_catalogue(tmp_path):
    page = (DOCS / "reference/files.md").read_text("utf-8")
    part = page[page.index("## Columns") : page.index("## Groups")]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", part, flags=re.M)
    told = {name: ucd for name, _, ucd in rows}
    spectra = make_spectra(6)
    every = {
        name: np.full(6, "1")
        for name, facts in FACTS.items()
        if facts.display or facts.kind == "text"
    }
    of_survey = {name: every[name] for name in list(FACTS)[1 : list(FACTS).index("REDUCTION")]}
    spectra = replace(spectra, notes={**of_survey, spectra.id_name: spectra.star_id})
    aspcap = labels_of(spectra)
    with pytest.warns(bc.errors.BayesCannonWarning, match="fewer than"):
        run = bc.infer_run(
            CANNON, spectra, tmp_path / "run", settings=QUICK, seed=1, aspcap=aspcap, votable=True
        )
    table = run.table
    found = {named_as_on_the_page(name, run.names): name for name in table.colnames}
    found = {name.replace(table.meta["CATALOG"], "ASPCAP"): own for name, own in found.items()}
    assert set(found) == set(told) - {"REDUCTION"}
    assert set(told) <= set(found) | set(FACTS)
    for name, own in found.items():
        said = re.findall(r"`([^`]+)`", told[name])
        ucd = ucd_of(own, run.names, table.meta["ID"])
        assert all(text.strip(";") in ucd for text in said), name
        assert "NAME" in name or [ucd] == said, name
    cards = set(re.findall(r"`([A-Z]+)`", part[part.index("Cards") :]))
    assert set(table.meta) <= cards | {"CATALOGUE"}
    assert {path.name for path in run.folder.iterdir()} <= set(re.findall(r"[\w.]+", page))


def test_generated_pages_are_of_the_package():
    made = generated()
    flags = made.flags()
    assert all(f"`{flag.name}`" in flags for flag in LabelFlag)
    assert all(made.cell(text) in flags for text in (*MEANINGS.values(), *ADVICE.values()))
    commands = made.commands()
    for name, known in options().items():
        part = commands[commands.index(f"\n## {name}\n") :].split("\n## ")[1]
        assert [o for o in known if o.startswith("--") and o != "--help" and o not in part] == []
    api = made.api()
    for wing in made.WINGS:
        page = api[f"reference/api/{wing}.md"]
        for name, module in made.exports(ROOT / "bayes_cannon" / wing / "__init__.pyi"):
            if (ROOT / "bayes_cannon" / wing / f"{module.replace('.', '/')}.py").is_file():
                assert f".{name}\n" in page, name


class Links(HTMLParser):
    """Targets of links and figures of a page, and its ids."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found[key] for key in ("id", "name") if found.get(key)}
        self.targets |= {found[key] for key in ("href", "src") if found.get(key)}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The documentation, built with warnings as errors."""
    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme", "sphinx_design"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-n", "-W", "--keep-going", "-q"]
    command += ["-d", str(folder / "trees"), str(DOCS), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
def test_built_documentation_has_no_broken_link(site):
    pages = {}
    for path in set(site.rglob("*.html")) - set((site / "_static").rglob("*.html")):
        pages[path] = Links()
        pages[path].feed(path.read_text("utf-8"))
    assert len(pages) > 40
    broken = []
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            place = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[place].ids if place in pages else {anchor}
            if not place.is_file() or (anchor and anchor not in known):
                broken.append((str(path.relative_to(site)), target))
    assert broken == []
    figures = [t for links in pages.values() for t in links.targets if t.endswith(".png")]
    assert len(figures) > 40


@pytest.mark.slow
def test_built_pages_open_in_a_browser_at_two_widths(site, tmp_path):
    program = find_browser()
    if program is None:
        assert not browser_is_needed(), "no browser: install chromium"
        pytest.skip("there is no browser (chromium, google-chrome)")
    names = ("index", "start", "tutorials/1_data_and_continuum", "reference/flags")
    with Browser(program, tmp_path) as browser:
        for width in (1400, 390):
            browser.call(
                "Emulation.setDeviceMetricsOverride",
                width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
            )  # fmt: skip
            for name in names:
                browser.open((site / f"{name}.html").as_uri())
                assert browser.said("Runtime.exceptionThrown") == [], name
                figures = browser.value(
                    "Array.from(document.querySelectorAll('article img'), (i) => i.naturalWidth)"
                )
                assert all(w > 100 for w in figures), name
                assert bool(figures) == (name != "index" and name != "reference/flags")
                scrolled = (
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                assert browser.value(scrolled) <= 0, (name, width)
                assert len(browser.value("document.querySelector('article h1').textContent")) > 4

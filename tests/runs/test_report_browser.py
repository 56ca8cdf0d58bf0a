"""The report in a real browser: figures are there, tables sort, nothing else is loaded or run."""

import pytest

from tests.browser import Browser, browser_is_needed, find_browser
from tests.report_problem import HOSTILE

COLUMN = """(title) => {
  const table = document.querySelector('#stars table');
  const heads = Array.from(table.tHead.rows[0].cells);
  const at = heads.findIndex((head) => head.textContent === title);
  return [heads[at], Array.from(table.tBodies[0].rows, (row) => row.cells[at])];
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if program is None:
        assert not browser_is_needed(), "no browser: install chromium"
        pytest.skip("there is no browser (chromium, google-chrome)")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser, big_report):
    browser.open(big_report.path.as_uri())
    return browser


def test_nothing_is_requested_from_outside_and_no_error_is_said(page, big_report):
    asked = [event["request"]["url"] for event in page.said("Network.requestWillBeSent")]
    outside = [url for url in asked if not url.startswith("data:")]
    assert outside == [big_report.path.as_uri()]
    assert page.said("Runtime.exceptionThrown") == []
    assert page.said("Runtime.consoleAPICalled") == []
    assert page.said("Log.entryAdded") == []


def test_every_figure_is_shown(page, big_report):
    widths = page.value("Array.from(document.images, (image) => image.naturalWidth)")
    assert len(widths) == len(big_report.figures) >= 12
    assert min(widths) > 300
    assert page.value("Array.from(document.images).every((image) => image.alt.length > 5)")


def test_hostile_names_stay_text(page):
    assert page.value("document.title") == "Labels of 500 stars"
    assert page.value("document.scripts.length") == 1
    assert page.value("document.querySelectorAll('b, [onerror], [src^=x]').length") == 0
    shown = page.value(
        "Array.from(document.querySelectorAll('#stars td.id'), (c) => c.textContent)"
    )
    assert set(HOSTILE[:5]) <= set(shown)
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page.value("document.body.textContent")


def test_what_is_put_into_the_page_cannot_run(page):
    page.value(
        "document.body.insertAdjacentHTML('beforeend', '<img src=http://localhost:9/x.png"
        ' onerror="document.title=1">\')'
    )
    page.value("new Promise((done) => setTimeout(done, 300))")
    assert page.value("document.title") == "Labels of 500 stars"
    assert [e["blockedReason"] for e in page.said("Network.loadingFailed")] == ["csp"]


def test_a_click_on_a_header_sorts_and_another_turns_the_order(page):
    order = f"(() => ({COLUMN})('Teff (K)')[1].map((cell) => cell.dataset.sort))()"
    before = page.value(order)
    numbers = sorted(float(v) for v in before if v)
    assert len(before) == 500
    assert before.count("") == 1, "one star has no posterior"
    assert [float(v) for v in before if v] != numbers
    click = f"({COLUMN})('Teff (K)')[0].querySelector('button').click()"
    page.value(click)
    after = page.value(order)
    assert [float(v) for v in after[:-1]] == numbers
    assert after[-1] == "", "stars without a value stay at the end"
    state = f"({COLUMN})('Teff (K)')[0].getAttribute('aria-sort')"
    assert page.value(state) == "ascending"
    page.value(click)
    turned = page.value(order)
    assert [float(v) for v in turned[:-1]] == numbers[::-1]
    assert turned[-1] == ""
    assert page.value(state) == "descending"


@pytest.mark.parametrize(("key", "text"), [("Enter", "\r"), (" ", " ")])
def test_the_keyboard_sorts(page, key, text):
    head = f"({COLUMN})('[Fe/H] (dex)')[0]"
    page.value(f"{head}.removeAttribute('aria-sort')")
    page.value(f"{head}.querySelector('button').focus()")
    page.press(key, text)
    assert page.value(f"{head}.getAttribute('aria-sort')") == "ascending"
    values = page.value(f"({COLUMN})('[Fe/H] (dex)')[1].map((cell) => cell.dataset.sort)")
    numbers = [float(v) for v in values if v]
    assert numbers == sorted(numbers)
    assert page.value("document.querySelectorAll('#stars th[aria-sort]').length") == 1


def test_names_sort_as_words(page):
    page.value(f"({COLUMN})('star')[0].querySelector('button').click()")
    shown = page.value(f"({COLUMN})('star')[1].map((cell) => cell.textContent)")
    plain = [s for s in shown if s.startswith("2M0")]
    assert plain == sorted(plain)
    assert len(plain) > 400


@pytest.mark.parametrize("width", [360, 700, 1500])
def test_the_page_is_never_wider_than_the_window(page, width):
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
        mobile=False,
    )  # fmt: skip
    assert page.value("document.documentElement.scrollWidth") <= width
    page.call("Emulation.clearDeviceMetricsOverride")


def test_contents_lead_to_every_section(page):
    links = page.value("Array.from(document.querySelectorAll('nav a'), (a) => a.hash.slice(1))")
    sections = page.value("Array.from(document.querySelectorAll('main section'), (s) => s.id)")
    assert links == sections
    assert {"summary", "one-to-one", "corners", "stars", "settings"} <= set(links)

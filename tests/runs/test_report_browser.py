"""The report in a real browser: figures are there, tables sort, nothing else is loaded or run."""

import csv

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
    assert page.value("document.title") == "Stellar labels of 500 stars"
    assert page.value("document.querySelectorAll('script:not([type])').length") == 1
    assert page.value("document.scripts.length") == 2
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
    assert page.value("document.title") == "Stellar labels of 500 stars"
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


POINT = """((i) => {
  const point = document.querySelector(`#chart .point[data-star="${i}"]`);
  point.scrollIntoView({block: 'center', behavior: 'instant'});
  const box = point.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})"""
VISIBLE = "Array.from(document.querySelectorAll('#stars tbody tr:not([hidden])')).length"


def set_width(page, width):
    page.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
        mobile=False,
    )  # fmt: skip
    page.value("new Promise((done) => setTimeout(done, 300))")  # the plot is drawn anew


def move(page, x, y, *kinds):
    for kind in ("mouseMoved", *kinds):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@pytest.mark.parametrize("width", [1400, 390])
def test_moving_over_a_point_names_the_star_and_a_click_opens_its_panel(page, width):
    set_width(page, width)
    x, y = page.value(f"{POINT}(300)")
    move(page, x, y)
    near = page.value("document.getElementById('tip').textContent")
    star = page.value("document.querySelector('#chart .name').textContent")
    assert near.startswith(star)
    assert "Teff" in near
    assert page.value("document.querySelectorAll('#stars tr.near').length") == 1
    move(page, x, y, "mousePressed", "mouseReleased")
    panel = page.value("document.getElementById('panel').innerText")
    assert panel.startswith(star)
    for text in ("this work (calibrated)", "ASPCAP", "±", "σ)"):
        assert text in panel
    assert page.value("document.querySelector('#stars tr.chosen td').textContent") == star
    assert page.said("Runtime.exceptionThrown") == []
    page.call("Emulation.clearDeviceMetricsOverride")


def test_a_name_in_the_table_opens_the_panel_with_advice_and_corner_plot(page):
    page.value("document.querySelectorAll('#stars td.id button')[0].click()")
    panel = page.value("document.getElementById('panel').innerText")
    assert panel.startswith(HOSTILE[0])
    assert "RHAT (BAD): R-hat above its limit. Sample again with more draws" in panel
    assert page.value("document.querySelectorAll('#panel a').length") == 0, "simulated, not drawn"
    page.value("document.querySelectorAll('#stars td.id button')[7].click()")
    page.value("new Promise((done) => setTimeout(done, 200))")
    assert page.value("document.querySelector('#panel img').naturalWidth") == 640
    link = page.value("document.querySelector('#panel a').href")
    assert "/figures/corner-2M" in link
    page.value("document.querySelector('#panel img').click()")
    assert page.value("document.querySelector('dialog').open")


def test_filter_and_flagged_only_hide_stars_in_table_and_plot(page):
    write = "((t) => { const f = document.getElementById('find'); f.value = t;"
    write += " f.dispatchEvent(new Event('input')); })"
    assert page.value(VISIBLE) == 500
    drawn = page.value("document.querySelectorAll('#chart .point[data-star]').length")
    assert drawn == 499, "one has no posterior"
    page.value(f"{write}('2m0000012')")
    assert page.value(VISIBLE) == 10
    assert page.value("document.querySelectorAll('#chart .point[data-star]').length") == 10
    assert page.value("document.getElementById('count').textContent") == "10 of 500 stars"
    page.value(f"{write}('')")
    page.value("document.getElementById('flagged').click()")
    flagged = page.value(VISIBLE)
    assert 10 < flagged < 30
    page.value(f"{write}('rhat')")
    assert page.value(VISIBLE) == 1


def test_the_plot_shows_every_label_the_kiel_diagram_and_differences(page):
    for plot in ("0", "4", "kiel"):
        for against in ("0 same", "0 off"):
            page.value(
                f"for (const [id, v] of [['plot', '{plot}'], ['against', '{against}']]) {{"
                "const s = document.getElementById(id); s.value = v;"
                "s.dispatchEvent(new Event('change')); }"
            )
            assert page.value("document.querySelectorAll('#chart .point[data-star]').length") == 499
            titles = page.value("document.getElementById('chart').textContent")
            assert ("log g" in titles) == (plot == "kiel")
            assert ("Δ" in titles) == (plot != "kiel" and against == "0 off")
    assert page.said("Runtime.exceptionThrown") == []


def test_the_csv_holds_the_stars_that_are_shown(page):
    page.value(
        "window.saved = []; URL.createObjectURL = (blob) => { saved.push(blob); return '#'; };"
        "const f = document.getElementById('find'); f.value = '2m0000012';"
        "f.dispatchEvent(new Event('input')); document.getElementById('csv').click()"
    )
    rows = list(csv.reader(page.value("saved[0].text()").splitlines()))
    assert len(rows) == 11
    assert rows[0][:5] == ["STAR", "SNR", "TEFF", "TEFF_ERR", "TEFF_FORMAL_ERR"]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[1][0].startswith("2M0000012")
    assert 3000 < float(rows[1][2]) < 7000


@pytest.mark.parametrize("width", [1400, 390])
def test_no_column_is_cut_off_and_the_first_one_stays(page, width):
    set_width(page, width)
    assert page.value("document.documentElement.scrollWidth") <= width
    wide = page.value(
        "Array.from(document.querySelectorAll('.scroll'),"
        " (s) => [s.closest('section').id, s.scrollWidth - s.clientWidth])"
    )
    if width == 1400:
        assert [name for name, over in wide if over > 1] == []
    stuck = page.value(
        "Array.from(document.querySelectorAll('.scroll'), (s) => { s.scrollLeft = 1e5;"
        " const [a, b] = [s, s.querySelector('tbody td')].map((e) => e.getBoundingClientRect());"
        " const end = Array.from(s.querySelectorAll('thead th')).at(-1).getBoundingClientRect();"
        " return [Math.abs(a.left - b.left), end.right - a.right]; })"
    )
    for left, right in stuck:
        assert left < 3, "the first column is frozen"
        assert right < 3, "the last one can be reached"
    page.call("Emulation.clearDeviceMetricsOverride")


def test_a_figure_is_enlarged_and_its_files_are_linked(page):
    page.value("document.querySelector('#figure-one-to-one img').click()")
    assert page.value("document.querySelector('dialog').open")
    assert page.value("document.querySelector('dialog img').naturalWidth") > 300
    links = page.value(
        "Array.from(document.querySelectorAll('#figure-one-to-one a'), (a) => a.textContent)"
    )
    assert links == ["PNG"], "PDFs are written on request alone"


def test_the_page_is_dark_for_those_who_want_it(page):
    color = "getComputedStyle(document.body).backgroundColor"
    light = page.value(color)
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    page.call("Emulation.setEmulatedMedia", features=features)
    dark = page.value(color)
    page.call("Emulation.setEmulatedMedia", features=[])
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(21, 25, 30)")


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

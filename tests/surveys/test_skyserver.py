"""The SQL catalogue: queries, answers, and errors that come as answers."""

from __future__ import annotations

import numpy as np
import pytest

from bayes_cannon.errors import DownloadError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.archive import skyserver
from bayes_cannon.surveys.archive.addresses import find_release
from bayes_cannon.surveys.archive.catalogue import catalogue_columns, read_allstar_rows
from bayes_cannon.surveys.archive.http import FetchSettings, HttpClient
from bayes_cannon.surveys.archive.skyserver import (
    build_query,
    parse_rows,
    query_catalogue,
    query_url,
)
from tests.archive_server import FIELDS, Always, ArchiveServer, Page, Status, make_survey

DR17 = find_release("dr17")
COLUMNS = catalogue_columns(DR17, ("TEFF",))
HEADER = ",".join(column.sql.rpartition(".")[2].strip("[]") for column in COLUMNS)


@pytest.fixture(scope="module", params=["dr16", "dr17"])
def survey(request, tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp(request.param), request.param), request.param


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def slept():
    return []


@pytest.fixture
def client(slept):
    return HttpClient(FetchSettings(sleep=slept.append))


def _row(**values: str) -> str:
    cells = {c.name: "0" if c.kind == "i" else "1.5" if c.kind == "f" else "x" for c in COLUMNS}
    return ",".join((cells | values).values())


def test_address_holds_the_release():
    assert query_url("https://skyserver.sdss.org", DR17) == (
        "https://skyserver.sdss.org/dr17/SkyServerWS/SearchTools/SqlSearch"
    )


def test_query_joins_on_the_spectrum_and_names_fields():
    sql = build_query(COLUMNS, fields=("M15", "060+00"), stars=("2M1+2",))
    assert "ON a.apstar_id = s.apstar_id" in sql
    assert sql.endswith("WHERE s.field IN ('M15', '060+00') OR s.apogee_id IN ('2M1+2')")
    assert "a.teff, a.teff_err" in sql


@pytest.mark.parametrize("name", ["M15'; DROP TABLE s; --", "M15' OR '1'='1", 'M"15', "M%", ""])
def test_names_cannot_carry_sql(name):
    with pytest.raises(DownloadError, match="cannot be the name of a field"):
        build_query(COLUMNS, fields=(name,))
    with pytest.raises(DownloadError, match="cannot be the id of a star"):
        build_query(COLUMNS, stars=(name,))


def test_quotes_would_be_doubled():
    assert skyserver._quoted(["a'b", "c"]) == "'a''b', 'c'"


def test_query_for_nothing(client):
    with pytest.raises(DownloadError, match="at least one field or star"):
        build_query(COLUMNS)
    with pytest.raises(DownloadError, match="at least one field or star"):
        query_catalogue("http://127.0.0.1:1", DR17, labels=("TEFF",), client=client)


@pytest.mark.parametrize("first", ["#Table1\n", "", "\ufeff\r\n#Table1\r\n"])
def test_answer_with_and_without_first_line(first):
    text = first + HEADER + "\r\n" + _row(TEFF="4500.25", STARFLAG="2199031644224") + "\r\n\r\n"
    arrays = parse_rows(text, COLUMNS)
    assert arrays["TEFF"].tolist() == [4500.25]
    assert arrays["STARFLAG"].tolist() == [2199031644224]
    assert arrays["APOGEE_ID"].tolist() == ["x"]


def test_answer_with_unknown_values():
    text = f"#Table1\n{HEADER}\n{_row(TEFF='', SNR='null', STARFLAG='NULL', FIELD='')}\n"
    arrays = parse_rows(text, COLUMNS)
    assert np.isnan(arrays["TEFF"][0])
    assert np.isnan(arrays["SNR"][0])
    assert arrays["STARFLAG"][0] == 0
    assert arrays["FIELD"][0] == ""


@pytest.mark.parametrize("text", [f"#Table1\n{HEADER}\n", HEADER, "No objects have been found\n"])
def test_answer_without_rows(text):
    arrays = parse_rows(text, COLUMNS)
    assert set(arrays) == {c.name for c in COLUMNS}
    assert all(len(values) == 0 for values in arrays.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html><head></head><body><h1>Server &amp; Error</h1></body></html>", "Server & Error"),
        ("Invalid column name 'tefff'.\n", "Invalid column name 'tefff'"),
        ("#Table1\napogee_id,teff\n2M1,4500\n", "apogee_id,teff"),
        ("", "an empty answer"),
        ("#Table1", "#Table1"),
    ],
)
def test_error_that_comes_as_an_answer(text, said):
    with pytest.raises(DownloadError, match="no table but with") as raised:
        parse_rows(text, COLUMNS)
    assert said in str(raised.value)


def test_answer_that_is_cut_or_garbled():
    with pytest.raises(DownloadError, match="cut short or garbled"):
        parse_rows(f"{HEADER}\n{_row()}\nx,x,x", COLUMNS)
    with pytest.raises(DownloadError, match="no number in column STARFLAG"):
        parse_rows(f"{HEADER}\n{_row(STARFLAG='many')}\n", COLUMNS)
    with pytest.raises(DownloadError, match="no number in column TEFF"):
        parse_rows(f"{HEADER}\n{_row(TEFF='hot')}\n", COLUMNS)


def test_answer_with_as_many_rows_as_the_service_gives(monkeypatch):
    monkeypatch.setattr(skyserver, "_ROW_CAP", 3)
    assert len(parse_rows(f"{HEADER}\n" + f"{_row()}\n" * 2, COLUMNS)["TEFF"]) == 2
    with pytest.raises(DownloadError, match="3 rows, the most that it ever sends"):
        parse_rows(f"{HEADER}\n" + f"{_row()}\n" * 3, COLUMNS)


def test_row_cap_is_that_of_the_service():
    assert skyserver._ROW_CAP == 500_000


def test_service_and_file_give_the_same_table(survey, client):
    root, name = survey
    release = find_release(name)
    wish = {"labels": (*DEFAULT_LABELS, "C_FE"), "fields": FIELDS, "stars": ("VESTA",)}
    with ArchiveServer(root, name) as server:
        queried = query_catalogue(server.skyserver_url, release, client=client, **wish)
    read = read_allstar_rows(next(root.glob("allStar-*.fits")), release, **wish)
    assert queried.colnames == read.colnames
    assert len(queried) == 10
    for column in queried.colnames:
        assert queried[column].dtype == read[column].dtype, column
        np.testing.assert_array_equal(queried[column], read[column], err_msg=column)
    assert np.sum(~(queried["TEFF"] > -999)) == 1, "the star without labels"


def test_rows_of_a_star_in_all_its_fields(survey, client):
    root, name = survey
    with ArchiveServer(root, name) as server:
        table = query_catalogue(
            server.skyserver_url, find_release(name), labels=("TEFF",),
            stars=("2M19205338+3748282",), client=client,
        )  # fmt: skip
    assert table["FIELD"].tolist() == ["060+00", "N6791"]


def test_long_lists_are_split_with_pauses(survey, client, slept, monkeypatch):
    root, name = survey
    monkeypatch.setattr(skyserver, "_PER_QUERY", 2)
    with ArchiveServer(root, name) as server:
        table = query_catalogue(
            server.skyserver_url, find_release(name), labels=("TEFF",), fields=FIELDS,
            stars=("2M19205338+3748282",), client=client,
        )  # fmt: skip
        assert len(server.asked("SqlSearch")) == 3
        assert "%2B" in server.requests[0].raw
        assert server.requests[0].headers["User-Agent"].startswith("bayes_cannon/")
    assert len(table) == 9, "rows that several queries bring are there once"
    assert len(slept) == 2
    assert min(slept) >= 1.0


def test_busy_service_is_asked_again_later(survey, client, slept):
    root, name = survey
    busy = Page("Maximum 60 queries allowed per minute. Rejected query: ...\n")
    wish = {"labels": ("TEFF",), "fields": ("M15",), "client": client}
    with ArchiveServer(root, name) as server:
        server.script("SqlSearch", busy, busy)
        assert len(query_catalogue(server.skyserver_url, find_release(name), **wish)) == 4
        assert slept == [60.0, 60.0]
        server.script("SqlSearch", Always(busy))
        with pytest.raises(DownloadError, match="SkyServer is busy: Maximum 60 queries"):
            query_catalogue(server.skyserver_url, find_release(name), **wish)


def test_error_page_names_the_way_out(survey, client):
    root, name = survey
    with ArchiveServer(root, name) as server:
        server.script("SqlSearch", Page())
        with pytest.raises(DownloadError, match=r"Site maintenance.*use the allStar file"):
            query_catalogue(
                server.skyserver_url, find_release(name), labels=("TEFF",), fields=("M15",),
                client=client,
            )  # fmt: skip


def test_label_that_the_service_does_not_have(survey, client):
    root, name = survey
    with ArchiveServer(root, name) as server, pytest.raises(DownloadError, match="no such column"):
        query_catalogue(
            server.skyserver_url, find_release(name), labels=("XX_FE",), fields=("M15",),
            client=client,
        )  # fmt: skip


def test_service_that_fails_for_a_while(survey, client, slept):
    root, name = survey
    with ArchiveServer(root, name) as server:
        server.script("SqlSearch", Status(503), Status(500))
        table = query_catalogue(
            server.skyserver_url, find_release(name), labels=("TEFF",), fields=("M15",),
            client=client,
        )  # fmt: skip
    assert len(table) == 4
    assert len(slept) == 2
    assert 1.0 <= slept[0] <= 1.5
    assert 2.0 <= slept[1] <= 3.0


def test_no_network(client, slept):
    with pytest.raises(DownloadError, match=r"no connection .*Check the network"):
        query_catalogue(
            "http://127.0.0.1:9", DR17, labels=("TEFF",), fields=("M15",), client=client
        )
    assert len(slept) == 4

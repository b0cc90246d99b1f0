"""URLs of databases: what they say, and that no password is ever repeated."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from fedrec.data.databases.urls import check_source, database_of, is_url, located
from fedrec.data.reading.readers import read_interactions
from fedrec.data.sources import load_source
from fedrec.errors import InputError
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan

SECRET = "swordfish7"


@pytest.mark.parametrize(
    ("url", "kind", "shown", "relation"),
    [
        ("postgresql://ann@db/shop?table=clicks", "postgresql", "postgresql://ann@db/shop", '"clicks" AS asked'),
        ("postgres://db:5433/d?table=Web.Clicks", "postgresql", "postgresql://db:5433/d", '"Web"."Clicks" AS asked'),
        ("postgresql:///shop?host=/run/pg&table=t", "postgresql", "postgresql:///shop", '"t" AS asked'),
        ("postgresql://a@[::1]:7,b/d?table=t", "postgresql", "postgresql://a@[::1]:7,b/d", '"t" AS asked'),
        ('postgresql://d/d?table="my.schema"."a""b"', "postgresql", "postgresql://d/d", '"my.schema"."a""b" AS asked'),
        ("sqlite:///a/b.db?table=my clicks", "sqlite", "sqlite:///a/b.db", '"my clicks" AS asked'),
        ("sqlite:////srv/a%20b.db?query=SELECT 1--", "sqlite", "sqlite:////srv/a b.db", "(\nSELECT 1--\n) AS asked"),
        ("sqlite:///b.db?query=SELECT a%26b FROM t;", "sqlite", "sqlite:///b.db", "(\nSELECT a&b FROM t\n) AS asked"),
    ],
)  # fmt: skip
def test_a_url_says_system_place_and_what_to_read(url: str, kind: str, shown: str, relation: str) -> None:
    database = database_of(url)
    assert (database.kind, database.shown, database.relation) == (kind, shown, relation)


def test_sqlite_paths_are_relative_with_three_slashes_and_absolute_with_four() -> None:
    assert database_of("sqlite:///folder/file.db").address == "folder/file.db"
    assert database_of("sqlite:////folder/file.db").address == "/folder/file.db"


def test_table_and_query_may_stand_beside_the_url_but_are_said_once() -> None:
    url = "sqlite:///a.db"
    assert database_of(url, table="t") == database_of(url + "?table=t")
    assert database_of(url, query="SELECT 1").query == "SELECT 1"
    for more in ({"table": "t"}, {"query": "SELECT 1"}):
        with pytest.raises(InputError, match=r"given twice|not both"):
            database_of(url + "?table=u", **more)
    with pytest.raises(InputError, match="not both"):
        database_of(url, table="t", query="SELECT 1")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://h/d", "fedrec cannot read from mysql: URLs. Choose from: postgresql, sqlite"),
        ("postgresql+psycopg://h/d", "write postgresql://"),
        ("sqlit:///d", "Did you mean 'sqlite'"),
        ("postgresql:/h/d", "cannot be read"),
        ("postgresql://h:port/d", "cannot be read"),
        ("sqlite://a.db", "cannot be read"),
        ("sqlite:///?table=t", "cannot be read"),
        ("postgresql://h/d?tabel=t", "'tabel' is not an option .* Did you mean 'table'"),
        ("postgresql://h/d?table", "'table' of the database has no value"),
        ("postgresql://h/d?table=a&table=b", "'table' of the database is given twice"),
        ("postgresql://h/d?table=a.b.c", "write it as clicks or as schema.clicks"),
        ("postgresql://h/d?table=a.", "write it as clicks"),
        ("postgresql://h/d?query=%20;", "the query is empty"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout of the database must be a number of seconds"),
        ("sqlite:///d?statement_timeout=-1", "statement_timeout of the database must be a number"),
        ("sqlite:///d?sslmode=require", "'sslmode' is not an option of a sqlite source"),
        ("sqlite:///d%00?table=t", "cannot be read"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_used_says_why(url: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        database_of(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{SECRET}@db/shop?table=t",
        f"postgres://:{SECRET}@db/shop",
        f"postgresql://ann@db/shop?password={SECRET}",
        f"postgresql://ann@db/shop?sslpassword={SECRET}&table=t",
        f"postgresql:/ann:{SECRET}@db/shop",
        f"postgresql:ann:{SECRET}@db/shop",
        f"mysql://ann:{SECRET}@db/shop",
        f"sqlite://ann:{SECRET}@db/shop",
        f"POSTGRESQL://ann:{SECRET}@db/shop",
    ],
)
def test_a_password_is_refused_wherever_the_source_is_said_and_never_repeated(url: str, fedrec) -> None:
    def plan() -> object:
        return Plan.make({"data": {"source": url}, "model": {"name": "ease"}})

    def bare_plan() -> object:
        return Plan.make({"data": url, "model": {"name": "ease"}})

    def listed_plan() -> object:
        return Plan.make({"data": {"source": [url]}, "model": {"name": "ease"}})

    tries = (
        plan,
        bare_plan,
        listed_plan,
        lambda: DataPlan(source=url),
        lambda: load_source(url),
        lambda: read_interactions(url),
    )
    for attempt in (*tries, lambda: database_of(url), lambda: check_source(url, None, None)):
        with pytest.raises(InputError) as caught:
            attempt()
        assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r}"
    for arguments in (("data", "describe", url), ("train", "--data", url, "--model", "ease")):
        said = fedrec(*arguments)
        assert said.code == 2
        assert SECRET not in said.out + said.err


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=5, max_size=20), st.booleans())
def test_no_password_whatever_its_characters_gets_through(password: str, escaped: bool) -> None:
    """Refused, and not repeated; of a password that breaks the URL in two, no more than a host or port is taken."""
    assume(any(character.isalnum() for character in password))
    assume(password not in "postgresql://user@host:5432/database?table=clicks")
    written = quote(password, safe="") if escaped else password
    with pytest.raises(InputError) as caught:
        database_of(f"postgresql://reader:{written}@db.example/shop?table=clicks")
    assert password not in str(caught.value)


def test_what_is_kept_of_a_database_holds_nothing_of_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("PGPASSWORD", SECRET)
    database = database_of("postgresql://ann@db/shop?table=t")
    assert SECRET not in f"{database!r}{database.address}{database.where}{database.name}"


@pytest.mark.parametrize("source", ["clicks.csv", "./a/b.parquet", "ml-100k", "synthetic:users=10", "C:\\a.csv", "a:b"])
def test_names_and_paths_are_no_urls(source: str) -> None:
    assert not is_url(source)
    check_source(source, None, None)
    with pytest.raises(InputError, match="is not a database, so table does not apply"):
        check_source(source, "t", None)


def test_a_relative_sqlite_path_is_looked_for_where_training_was_started(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a b.db").touch()
    monkeypatch.chdir(tmp_path.parent)
    found = located("sqlite:///a b.db?table=t", tmp_path)
    assert database_of(found).address == str(tmp_path / "a b.db")
    assert database_of(found).table == ("t",)
    for same in ("sqlite:////a b.db", "sqlite:///no.db", "postgresql://h/a b.db"):
        assert located(same, tmp_path) == same
    monkeypatch.chdir(tmp_path)
    assert located("sqlite:///a b.db", tmp_path.parent) == "sqlite:///a b.db"


def test_plans_keep_table_and_query(tmp_path: Path) -> None:
    for key, text in (("table", 'web."a.b"'), ("query", "SELECT 'ü%' AS \"user\"\nFROM t")):
        data = {"source": "postgresql://ann@db/shop", key: text, "columns": {"user_id": "u"}}
        plan = Plan.make({"data": data, "model": {"name": "ease"}})
        (tmp_path / "plan.yaml").write_text(plan.to_yaml(), encoding="utf-8")
        assert Plan.read(tmp_path / "plan.yaml") == plan
        assert plan.data.reading() == {key: text, "columns": {"user_id": "u"}}

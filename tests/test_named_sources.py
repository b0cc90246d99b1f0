"""Databases that somebody else's plan names: nobody is asked by its wish, and no password reaches who it is not for."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import fedrec as fr
from fedrec.data.databases.passwords import guarded
from fedrec.data.databases.urls import database_of
from fedrec.data.sources import load_data, load_source
from fedrec.errors import InputError, UnnamedSourceError
from fedrec.federation.agreement import Agreement
from fedrec.federation.model_folder import load_shared, save_shared
from fedrec.federation.plan import Plan
from fedrec.runs.training import train_run

CLEAR, MD5 = 3, 5
SECRET = "correct-horse"
SYNTHETIC = "synthetic:users=60,items=40,interactions_per_user=10,seed=1"


class Listener:
    """A server that speaks just enough of PostgreSQL to ask for a password, and writes down what it gets."""

    def __init__(self, asks: int) -> None:
        self.asks, self.met, self.got = asks, 0, list[bytes]()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.url = f"postgresql://me@127.0.0.1:{self.port}/shop?table=clicks"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._server.accept()
            except OSError:
                return
            self.met += 1
            with link:
                self._ask(link)

    def _ask(self, link: socket.socket) -> None:
        while len(head := link.recv(8)) == 8:
            size, code = struct.unpack("!II", head)
            if code in (80877103, 80877104):  # encryption is asked for, and refused
                link.sendall(b"N")
                continue
            link.recv(size - 8)
            salt = b"salt" if self.asks == MD5 else b""
            link.sendall(b"R" + struct.pack("!II", 8 + len(salt), self.asks) + salt)
            if data := link.recv(1024):
                self.got.append(data)
            return


@pytest.fixture(params=[CLEAR, MD5], ids=["clear", "md5"])
def listener(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    pytest.importorskip("adbc_driver_postgresql")
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PGPASSWORD", SECRET)
    monkeypatch.setenv("PGPASSFILE", "/nowhere/pgpass")
    server = Listener(request.param)
    yield server
    server.close()


def run_of(source: str, folder: Path, keeps: bool = False) -> Path:
    """A whole run whose plan names a source that it was not trained on; runs of earlier versions keep none of it."""
    train_run(Plan.make({"data": {"source": SYNTHETIC}, "model": {"name": "popularity"}}), folder)
    plan = Plan.read(folder / "plan.yaml")
    other = plan.model_copy(update={"data": plan.data.model_copy(update={"source": source})})
    agreement, state, kept = load_shared(folder / "model", plan)
    (folder / "plan.yaml").write_text(other.to_yaml())
    save_shared(folder / "model", Agreement.of(other, agreement.catalog), state, kept)
    if not keeps:
        (folder / "private" / "interactions.parquet").unlink()
    return folder


# --- only who is named is asked -------------------------------------------------------------------------------------


def test_no_command_asks_the_server_that_a_run_names(
    listener: Listener, tmp_path: Path, fedrec: Callable[..., Any]
) -> None:
    run = run_of(listener.url, tmp_path / "a run")
    new = ("--model", "popularity", "--out", tmp_path / "new")
    (tmp_path / "plan.yaml").write_text(f"data: {{source: '{listener.url}'}}\nmodel: {{name: popularity}}\n")
    for words in (
        ("recommend", run, "--user", "1"),
        ("evaluate", run),
        ("audit", run),
        ("audit", tmp_path / "plan.yaml"),
        ("train", "--resume", "--out", run),
        ("train", "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "new"),
        ("train", "--data", SYNTHETIC, "--from", run, *new),
        ("tune", "--plan", tmp_path / "plan.yaml", "--grid", "reg=1", *new),
    ):
        said = fedrec(*words)
        assert said.code == 2, (words, said)
        assert f"names the database {listener.url}" in said.err, (words, said)
        named = f"--data '{listener.url}'\n" in said.err
        assert named == ("--data" not in words), "the command to type is said, where it is one"
    with pytest.raises(UnnamedSourceError, match=r"data=… in Python"):
        fr.load_model(run).recommend()
    with pytest.raises(UnnamedSourceError):
        fr.Popularity(plan={"warm_start": {"run": str(run)}}).fit(fr.load_data(SYNTHETIC))
    assert (listener.met, listener.got) == (0, [])
    assert (run / "plan.yaml").exists()


def test_a_server_that_is_named_is_asked_and_no_other(
    listener: Listener, tmp_path: Path, fedrec: Callable[..., Any]
) -> None:
    run = run_of(listener.url, tmp_path / "run")
    other = listener.url.replace("shop", "shop2")
    said = fedrec("recommend", run, "--user", "1", "--data", other)
    assert (said.code, "shop2" in said.err, "no connection" in said.err) == (2, True, True)
    assert fedrec("recommend", run, "--user", "1", "--data", SYNTHETIC).code == 0
    assert fedrec("train", "--resume", "--out", run, "--data", other).code == 2
    before = listener.met
    said = fedrec("recommend", run, "--user", "1", "--data", listener.url)
    assert said.code == 2
    assert "no connection" in said.err
    assert listener.met > before
    with pytest.raises(InputError, match="no connection"):
        fr.load_model(run, data=listener.url)
    assert listener.got == []


def test_a_run_that_keeps_its_interactions_needs_no_server(
    listener: Listener, tmp_path: Path, fedrec: Callable[..., Any]
) -> None:
    run = run_of(listener.url, tmp_path / "run", keeps=True)
    new = ("--model", "popularity", "--out", tmp_path / "new")
    for words in (
        ("recommend", run, "--user", "1"),
        ("evaluate", run),
        ("train", "--data", SYNTHETIC, "--split", "none", "--from", run, *new),
    ):
        said = fedrec(*words)
        assert said.code == 0, (words, said)
    assert listener.met == 0


def test_a_plan_keeps_how_it_reads_the_database_that_is_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Callable[..., Any]
) -> None:
    url = "postgresql://me@db/shop"
    (tmp_path / "plan.yaml").write_text(
        f"data: {{source: '{url}', query: SELECT 1, columns: {{user_id: who}}}}\nmodel: {{name: popularity}}\n"
    )
    seen: list[dict[str, Any]] = []

    def load(source: str, **options: Any) -> Any:
        seen.append({"source": source, **options})
        raise InputError("seen")

    monkeypatch.setattr("fedrec.runs.loading.load_source", load)
    fedrec("train", "--plan", tmp_path / "plan.yaml", "--data", url, "--out", tmp_path / "run")
    assert seen[0]["query"] == "SELECT 1"
    assert seen[0]["columns"] == {"user_id": "who"}


def test_a_run_of_files_needs_no_name(tmp_path: Path, fedrec: Callable[..., Any]) -> None:
    run = run_of(SYNTHETIC, tmp_path / "run")
    assert fedrec("recommend", run, "--user", "1").code == 0
    assert fedrec("recommend", run, "--user", "1", "--data", SYNTHETIC).code == 0
    shutil.rmtree(run)


# --- passwords ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [None, "db.example", "127.0.0.1"])
def test_no_password_is_sent_that_others_could_read(
    host: str | None, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    if host is not None:
        monkeypatch.setenv("PGHOST", host)
        monkeypatch.setenv("PGPORT", str(listener.port))
    with pytest.raises(InputError, match="no connection") as caught:
        load_data(listener.url)
    assert listener.met > 0
    assert listener.got == []
    assert SECRET not in str(caught.value)
    if host == "127.0.0.1":
        assert "asks for the password in clear text or as MD5" in str(caught.value)


def test_a_password_file_is_for_the_hosts_in_it_and_not_read_out_either(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{listener.port}:*:*:{SECRET}\n")
    passfile.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    with pytest.raises(InputError, match="clear text or as MD5"):
        load_data(listener.url)
    assert listener.got == []


def test_a_service_does_not_lend_its_password(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[prod]\nhost=db.example\npassword={SECRET}\n")
    monkeypatch.delenv("PGPASSWORD")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    for change in ("&service=prod", "&service=prod&hostaddr=127.0.0.1"):
        with pytest.raises(InputError, match="a service has its own host and password"):
            load_data(listener.url + change)
    monkeypatch.setenv("PGSERVICE", "prod")
    with pytest.raises(InputError, match="PGSERVICE is set"):
        load_data(listener.url)
    assert listener.met == 0


def told(url: str, **environment: str) -> dict[str, str]:
    """What libpq is told about a URL."""
    address = database_of(url).address
    found = parse_qs(urlsplit(guarded(address, url, environment)).query, keep_blank_values=True)
    return {name: values[0] for name, values in found.items()}


@pytest.mark.parametrize(
    ("url", "environment", "own"),
    [
        ("postgresql://db/shop", {}, False),
        ("postgresql://db/shop", {"PGHOST": "db"}, True),
        ("postgresql://DB/shop", {"PGHOST": "db"}, True),
        ("postgresql://db:5432/shop", {"PGHOST": "db"}, True),
        ("postgresql://db:5433/shop", {"PGHOST": "db"}, False),
        ("postgresql://db:5433/shop", {"PGHOST": "db", "PGPORT": "5433"}, True),
        ("postgresql://db/shop", {"PGHOST": "db", "PGPORT": "5433"}, False),
        ("postgresql://db/shop?port=1", {"PGHOST": "db"}, False),
        ("postgresql://db.evil/shop", {"PGHOST": "db"}, False),
        ("postgresql://db,evil/shop", {"PGHOST": "db"}, False),
        ("postgresql://db/shop?host=evil", {"PGHOST": "db"}, False),
        ("postgresql://db/shop?hostaddr=10.0.0.1", {"PGHOST": "db"}, False),
        ("postgresql:///shop?hostaddr=10.0.0.1", {"PGHOST": "db"}, False),
        ("postgresql:///shop?hostaddr=10.0.0.1", {"PGHOSTADDR": "10.0.0.1"}, True),
        ("postgresql://10.0.0.1/shop", {"PGHOSTADDR": "10.0.0.1"}, True),
        ("postgresql://[::1]:5432/shop", {"PGHOST": "::1"}, True),
        ("postgresql://[::1]/shop", {"PGHOST": "::1"}, True),
        ("postgresql:///shop", {}, True),
        ("postgresql:///shop", {"PGHOST": "db"}, True),
        ("postgresql:///shop?host=/run/pg", {"PGHOST": "db"}, False),
        ("postgresql:///shop?host=/run/pg", {"PGHOST": "/run/pg"}, True),
    ],
)
def test_the_password_of_the_environment_is_for_the_server_of_the_environment(
    url: str, environment: dict[str, str], own: bool
) -> None:
    assert ("password" not in told(url, PGPASSWORD=SECRET, **environment)) == own
    assert told(url, PGPASSWORD=SECRET, **environment).get("password", "") == ""


@pytest.mark.parametrize(
    ("url", "environment", "proved"),
    [
        ("postgresql://db/shop", {}, True),
        ("postgresql://127.0.0.1/shop", {}, True),
        ("postgresql://localhost/shop?sslmode=prefer", {}, True),
        ("postgresql://db/shop?sslmode=disable", {"PGSSLMODE": "require"}, True),
        ("postgresql://db/shop", {"PGSSLMODE": "require"}, False),
        ("postgresql://db/shop?sslmode=require", {}, False),
        ("postgresql://db/shop?sslmode=verify-full", {}, False),
        ("postgresql:///shop?host=/run/pg", {}, False),
        ("postgresql:///shop", {}, False),
        ("postgresql:///shop", {"PGHOST": "db"}, True),
        ("postgresql:///shop", {"PGHOSTADDR": "10.0.0.1"}, True),
        ("postgresql:///shop?host=/run/pg,db", {}, True),
        ("postgresql:///shop?service=prod", {}, True),
    ],
)
def test_without_encryption_a_password_is_proved_and_not_sent(
    url: str, environment: dict[str, str], proved: bool
) -> None:
    found = told(url, **environment)
    assert found.get("require_auth") == ("scram-sha-256,gss,sspi,none" if proved else None)
    if proved:
        assert told(url, PGREQUIREAUTH="scram-sha-256", **environment)["require_auth"] == "scram-sha-256"
        assert "password" not in told(url, PGREQUIREAUTH="password,md5", **environment)["require_auth"].split(",")


# --- files and SQLite -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source", ["/dev/zero", "/proc/self/environ", "/sys/kernel", "pipe", "zeros", "sqlite:////dev/zero?table=t"]
)
def test_a_plan_names_files_and_not_devices(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("zeros").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="is a pipe, a device or a system file"):
        load_source(f"./{source}" if source in ("pipe", "zeros") else source)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT load_extension('x') AS user_id, 1 AS item_id", "not authorized"),
        ("SELECT fts3_tokenizer('x') AS user_id, 1 AS item_id", "not authorized|no such function"),
        ("SELECT * FROM c) AS x; ATTACH 'other.db' AS y; SELECT * FROM (SELECT 1", "one statement"),
        ("ATTACH 'other.db' AS y", "syntax error"),
        ("SELECT readfile('plan.yaml') AS user_id, 1 AS item_id", "no such function"),
    ],
)
def test_a_query_of_sqlite_reads_one_file_and_runs_no_code(
    query: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlite3

    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("a.db") as database:
        database.execute("CREATE TABLE c (user_id, item_id)")
    database.close()
    with pytest.raises(InputError, match=says):
        load_source("sqlite:///a.db", query=query)
    assert [path.name for path in tmp_path.iterdir()] == ["a.db"]


def test_tables_that_sqlite_makes_of_others_are_read_as_before(tmp_path: Path) -> None:
    import sqlite3

    with sqlite3.connect(tmp_path / "a.db") as database:
        database.executescript(
            "CREATE VIRTUAL TABLE f USING fts5(user_id, item_id); INSERT INTO f VALUES ('ann', 'x');"
            "CREATE VIEW v AS SELECT * FROM f;"
            "CREATE TABLE j (x); INSERT INTO j VALUES ('[1, 2]');"
            "CREATE VIEW w AS SELECT j.rowid AS user_id, e.value AS item_id FROM j, json_each(j.x) e;"
        )
    database.close()
    assert load_data(f"sqlite:///{tmp_path}/a.db?table=v").to_frame().rows() == [("ann", "x")]
    assert sorted(load_data(f"sqlite:///{tmp_path}/a.db?table=w").to_frame().rows()) == [(1, 1), (1, 2)]

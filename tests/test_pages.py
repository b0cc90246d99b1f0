"""Pages show what is in a folder of runs, escaped, to who may see them, and no user at a coordinator."""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio.from_thread
import httpx
import polars as pl
import pytest

from conftest import Said
from federation_in_test import COORDINATOR, Federation
from fedrec.data.databases.logs import open_events
from fedrec.data.events import Event
from fedrec.deploy.folder import FederationFolder
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.network.post import LocalPost
from fedrec.network.waiting import Waiting
from fedrec.pictures.vector import Series, bars, curves
from fedrec.privacy.budget import Budget, Limits
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.training import train_run
from fedrec.serving.gate import PagesGate
from fedrec.serving.pages.homes import Home
from fedrec.serving.pages.records import Record
from fedrec.serving.pages.shown import Shown
from fedrec.serving.pages.views import create_pages
from fedrec.serving.tokens import Tokens, new_token
from serving_in_test import client

Fedrec = Callable[..., Said]
EVIL = "<img src=x onerror=alert(1)>&\"'"
SMALL = "synthetic:users=60,items=30,interactions_per_user=8"
VOID = {"meta", "link", "input", "br", "img"}


class Markup(HTMLParser):
    """A page as a browser reads it; `faults` has what a page must not have."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.faults: list[str] = []
        self.labels, self.fields, self.ids, self.open = set[str](), set[str](), set[str](), list[str]()
        self.feed(text)
        self.faults += [f"{one} is not closed" for one in self.open]
        self.faults += [f"{field} has no label" for field in self.fields - self.labels]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        given: Mapping[str, str | None] = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        wrong = [name for name in given if name.startswith("on") or name == "style"]
        if wrong or tag in ("script", "style", "iframe", "object", "img"):
            self.faults.append(f"{tag} {wrong}")
        for name in ("href", "src", "action"):
            if not (given.get(name) or "/").startswith(("/", "#")):
                self.faults.append(f"{name}={given[name]} asks another server")
        if tag == "th" and given.get("scope") not in ("col", "row"):
            self.faults.append("th without scope")
        if tag in ("input", "select", "textarea"):
            self.fields.add(given.get("id") or "")
        if tag == "label":
            self.labels.add(given.get("for") or "")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")


def whole(answer: httpx.Response, status: int = 200) -> str:
    """The text of a page, which is well formed and safe."""
    assert answer.status_code == status, answer.text
    page = Markup(answer.text)
    assert page.faults == []
    assert (page.count["h1"], page.count["main"], page.count["nav"]) == (1, 1, 1)
    assert '<html lang="en">' in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert (answer.headers["referrer-policy"], answer.headers["cache-control"]) == ("no-referrer", "no-store")
    return answer.text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several kinds: factors with validations, hostile names, a private one, a damaged one; and a budget."""
    folder = tmp_path_factory.mktemp("home")
    measured = {"every": 1, "metrics": ["ndcg@10"]}
    plan = {"data": {"source": SMALL}, "model": {"name": "mf", "rounds": 2}, "evaluation": measured}
    train_run(Plan.make(plan), folder / "mf")
    rows = [(f"{EVIL}{user}", f"{EVIL}{item}") for user in range(9) for item in (user, user + 1, user + 3)]
    pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_csv(folder / "evil.csv")
    names = pl.Series("item_id", sorted({item for _, item in rows}))
    pl.DataFrame([names, names.alias("title")]).write_parquet(folder / "items.parquet")
    evil = {"source": str(folder / "evil.csv"), "catalog": str(folder / "items.parquet")}
    train_run(Plan.make({"data": evil, "model": {"name": "ease"}, "split": "none"}), folder / EVIL)
    budget = Budget(folder / "budget.jsonl", Limits(8.0, 1e-5))
    private = {"data": {"source": SMALL}, "model": {"name": "popularity"}, "privacy": {"epsilon": 2, "delta": 1e-5}}
    train_run(Plan.make(private), folder / "deeper" / "private", budget=budget)
    shutil.copytree(folder / "mf", folder / "damaged")
    ledger = folder / "damaged" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"cohort":60', '"cohort":61', 1))
    (folder / "damaged" / "report.json").write_text('{"metrics": 3}')
    return folder


class Browser:
    """Asks for pages in this process."""

    def __init__(self, folder: Path, events: str | None, tokens: Tokens | None, portal: Any) -> None:
        app, self._portal = PagesGate(create_pages(Home(folder), events), tokens), portal
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self._portal.call(lambda: self._http.get(path, **options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self._portal.call(lambda: self._http.post(path, **options))


@contextmanager
def opened(folder: Path, events: str | None = None, tokens: Tokens | None = None) -> Iterator[Browser]:
    """The pages of a folder."""
    with anyio.from_thread.start_blocking_portal() as portal:
        yield Browser(folder, events, tokens, portal)


def logged(path: Path, model: str | None = None) -> str:
    """A log of events of two users."""
    log = open_events(str(path), False, False)
    seen = [(user, rank) for user in (1, 2) for rank in (1, 2)]
    shown = [Event(f"s{user}{rank}", user, 5 + rank, "impression", 1.0, None, model, rank=rank) for user, rank in seen]
    log.add([*shown, Event("c", 1, 6, "click", 2.0, rank=1), Event("d", 1, 9, "like", 2.0)])
    log.close()
    return str(path)


def test_every_page_of_every_run_is_whole(home: Path, tmp_path: Path) -> None:
    with opened(home, logged(tmp_path / "events.db")) as asked:
        runs = whole(asked.get("/"))
        assert EVIL not in runs
        names = [place.name for place in Home(home).runs()]
        assert sorted(names) == sorted(["mf", EVIL, "deeper/private", "damaged"])
        for name in names:
            for page in ("/run", "/verify", "/try"):
                assert EVIL not in whole(asked.get(page, params={"name": name}))
        for page in ("/budget", "/federation", "/events"):
            whole(asked.get(page))
        assert asked.get("/style.css").headers["content-type"].startswith("text/css")
        whole(asked.get("/run", params={"name": "../home"}), 404)
        whole(asked.get("/nothing"), 404)


def test_a_run_shows_what_its_report_and_ledger_say(home: Path) -> None:
    report = json.loads((home / "mf" / "report.json").read_bytes())
    with opened(home) as asked:
        page, runs = whole(asked.get("/run?name=mf")), whole(asked.get("/"))
        assert "All fits." in whole(asked.get("/verify?name=mf"))
    value, error = report["metrics"]["test"]["ndcg@10"], report["standard_error"]["test"]["ndcg@10"]
    for text in (page, runs):
        assert f"{value:.4f} ± {error:.4f}" in text
    assert page.count("<svg") == 2
    assert page.count('<th scope="row" class="number">') == 2
    assert "name: mf" in page


def test_a_damaged_run_says_so(home: Path) -> None:
    record = Record.read(Home(home).run("damaged"))
    assert record.state == "damaged"
    with opened(home) as asked:
        page = whole(asked.get("/run?name=damaged"))
        assert "does not match its root" in page
        assert "its report cannot be read" in page
        assert "line 2" in whole(asked.get("/verify?name=damaged"))
        assert "All fits." not in asked.get("/verify?name=damaged").text


def test_what_is_spent_of_a_budget_is_shown(home: Path) -> None:
    before = (home / "budget.jsonl").read_bytes()
    budget = Budget.open(home / "budget.jsonl")
    (node,) = budget.nodes()
    with opened(home) as asked:
        page = whole(asked.get("/budget"))
    assert f'<td class="number">{budget.epsilon(node):.4f}</td>' in page
    assert "deeper/private" in page
    assert (home / "budget.jsonl").read_bytes() == before


def test_lists_are_those_of_the_model_with_reasons(home: Path) -> None:
    user = f"{EVIL}3"
    with opened(home) as asked:
        listed = whole(asked.post("/try", data={"name": EVIL, "user": user, "n": "2"}))
        assert listed.count('<tr><th scope="row" class="number">') == 2
        assert "3 items before" in listed
        assert "the parts of all items add up" in listed
        new = whole(asked.post("/try", data={"name": EVIL, "items": f"{EVIL}1\nnobody\n", "n": "2"}))
        assert "somebody with 1 item" in new
        assert "does not know nobody" in new
        guess = whole(asked.post("/try", data={"name": "mf", "user": "1"}))
        assert "is a guess" in guess
        none = whole(asked.post("/try", data={"name": "deeper/private", "user": "1"}))
        assert "cannot tell what brings" in none


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"user": "nobody"}, "nobody"),
        ({"user": "99999"}, "nothing is known of user 99999"),
        ({"items": "x\ny"}, "the model knows none of these items"),
        ({"items": "\n".join(["1"] * 201)}, "200 at most"),
        ({"n": "5"}, "give a user, or items"),
        ({str(number): "x" for number in range(20)}, "the form cannot be read"),
    ],
)
def test_a_list_that_cannot_be_made_is_explained(fields: dict[str, str], says: str, home: Path) -> None:
    with opened(home) as asked:
        assert says in whole(asked.post("/try", data={"name": "mf", **fields}), 422)


def test_events_are_counted_by_rank(tmp_path: Path, home: Path) -> None:
    digest = json.loads((home / "mf" / "model" / "model.json").read_bytes())["shared"]
    log = logged(tmp_path / "events.db", digest)
    shown = Shown.of(log)
    assert shown.kinds == {"click": 1, "impression": 4, "like": 1}
    assert [(one.rank, one.shown, one.clicks) for one in shown.ranks] == [(1, 2, 1), (2, 2, 0)]
    assert (shown.items, shown.users, shown.rate) == (2, 2, 0.25)
    assert shown.model == Record.read(Home(home).run("mf")).digest
    with opened(home, log) as asked:
        page = whole(asked.get("/events"))
        assert "50.00 ± 35.36 %" in page
        assert "2, 6.7 % of 30" in page
    with opened(home, str(tmp_path / "none.db")) as asked:
        assert "Problem" in whole(asked.get("/events"))


def test_a_coordinator_shows_nodes_and_no_user(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": SMALL}, "model": {"name": "ease"}, "min_clients": 4})
    owners = Federation(tmp_path / "owners", plan, nodes=2, policy={"min_clients": 4})
    FederationFolder.create(tmp_path / "home" / "federation", "demo", "localhost", 8002, 60, owners.catalog)
    members = Members("demo", COORDINATOR, owners.public, owners.catalog, 1024)
    run = tmp_path / "home" / "runs" / "one"
    train_federated(owners.plan, run, members, LocalPost(owners.hosts()), waiting=Waiting(pause=0.0))
    with opened(tmp_path / "home") as asked:
        pages = [whole(asked.get(page)) for page in ("/", "/run?name=runs/one", "/federation", "/budget", "/events")]
        assert "node-0, node-1" in pages[1]
        assert "1 of 1" in pages[2]
        tried = whole(asked.post("/try", data={"name": "runs/one", "user": "7"}), 422)
        assert "their users are with them" in tried
        assert "<option value=" not in tried


def test_pages_of_a_server_show_its_run_behind_its_tokens(home: Path, tmp_path: Path) -> None:
    secret = new_token("me", ("read",), None, tmp_path / "tokens.toml")
    tokens = Tokens.read(tmp_path / "tokens.toml")
    basic = {"Authorization": "Basic " + b64encode(f"me:{secret}".encode()).decode()}
    with client(home / "mf", str(tmp_path / "events.db"), tokens) as asked:
        refused = asked.ask("GET", "/pages/")
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        assert asked.ask("GET", "/v1/recommend?user=1", headers=basic).status_code == 401
        page = whole(asked.ask("GET", "/pages/", headers=basic))
        assert 'href="/pages/run?name=mf"' in page
        fields = urlencode({"name": "mf", "user": "1", "n": "3"}).encode()
        listed = whole(asked.ask("POST", "/pages/try", headers=basic, content=fields))
        items = [entry["item"] for entry in asked.ask(
            "GET", "/v1/recommend?user=1&n=3", headers={"Authorization": f"Bearer {secret}"}
        ).json()["items"]]  # fmt: skip
        assert all(f"<td>{item}</td>" in listed for item in items)


def test_pages_alone_are_behind_tokens_too(home: Path, tmp_path: Path) -> None:
    secret = new_token("me", ("read",), None, tmp_path / "tokens.toml")
    with opened(home, tokens=Tokens.read(tmp_path / "tokens.toml")) as asked:
        assert asked.get("/").status_code == 401
        for name, password in (("me", "wrong"), ("", "")):
            assert asked.get("/", auth=(name, password)).status_code == 401
        assert asked.get("/", headers={"Authorization": "Basic %%%"}).status_code == 401
        whole(asked.get("/", auth=("anybody", secret)))
        assert asked.post("/try", auth=("me", secret), content=b"x" * (1 << 20 | 1)).status_code == 413


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere",), "is not a folder"),
        ((".", "--host", "0.0.0.0"), "--tokens"),
        ((".", "--tls-cert", "a.pem"), "--tls-key"),
        ((".", "--events", "postgresql://x/y?table=z"), "tables of their own"),
    ],
)
def test_a_command_that_cannot_be_followed_is_refused(words: tuple[str, ...], says: str, fedrec: Fedrec) -> None:
    said = fedrec("pages", *words)
    assert said.code == 2
    assert says in said.err


def test_a_home_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        Home(tmp_path / "none")
    (tmp_path / "link").symlink_to(tmp_path)
    assert Home(tmp_path).runs() == []
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run \xff"))
    (odd / "model").mkdir(parents=True)
    (odd / "plan.yaml").write_text("no plan")
    with opened(tmp_path) as asked:
        (place,) = Home(tmp_path).runs()
        whole(asked.get("/"))
        assert "Problem" in whole(asked.get("/run", params={"name": place.name}))


def test_drawings_say_what_they_show_and_escape_names() -> None:
    drawn = curves(EVIL, "round", EVIL, [Series(EVIL, [1, 2, 3], [0.1, float("nan"), 0.3])])
    assert Markup(drawn).faults == []
    assert EVIL not in drawn
    assert drawn.count("<circle") == 2
    assert curves("t", "x", "y", [Series("a", [1.0], [float("nan")])]) == ""
    assert "<circle" in curves("t", "x", "y", [Series("a", [1.0], [0.0])])
    assert bars("t", "x", "y", ["1", "2"], [0.5, 0.0], [0.1, 0.0]).count("<rect") == 2
    assert bars("t", "x", "y", [], [], []) == ""

"""Answers over HTTP: the same as the library's, following events at once, of one model each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from fedrec.serving.tokens import Tokens, new_token
from serving_in_test import DATA, Client, client, run_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(fr.EASE(), tmp_path_factory.mktemp("served") / "run")


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[Client]:
    with client(run, str(tmp_path / "events.db")) as asked:
        yield asked


def click(event_id: str, user: Any, item: Any, **more: Any) -> dict[str, Any]:
    return {"event_id": event_id, "user": user, "item": item, "kind": "click", **more}


def in_order(items: list[int]) -> dict[str, list[int]]:
    return {"user_id": [1] * len(items), "item_id": items, "timestamp": list(range(len(items)))}


@pytest.mark.parametrize("model", [fr.EASE(decay=0.8), fr.ItemKNN(), fr.IALS(rounds=2), fr.MF(rounds=2)])
def test_lists_are_those_of_the_library(model: Any, tmp_path: Path) -> None:
    run = run_of(model, tmp_path / "run")
    users = fr.load_data(DATA).users.series.to_list()[:7]
    library = fr.load_model(run).recommend(users, n=5)
    with client(run) as asked:
        for user in users:
            answer = asked.get("/v1/recommend", user=user, n=5)
            mine = library.filter(library["user_id"] == user)
            assert [entry["item"] for entry in answer["items"]] == mine["item_id"].to_list()
            assert [entry["score"] for entry in answer["items"]] == mine["score"].to_list()
        history = [int(item) for item in fr.load_data(DATA).to_frame().filter(user_id=users[0])["item_id"]]
        posted = asked.ask("POST", "/v1/recommend", json={"history": history, "n": 5}).json()
        folded = fr.load_model(run).recommend(history=in_order(history), n=5)
        assert [entry["item"] for entry in posted["items"]] == folded["item_id"].to_list()


def test_every_answer_names_the_model_whose_file_it_is(served: Client, run: Path) -> None:
    digest = json.loads((run / "model/model.json").read_text())["shared"]
    for method, path in (
        ("GET", "/v1/model"),
        ("GET", "/v1/recommend?user=1"),
        ("GET", "/v1/recommend?user=x"),
        ("GET", "/no"),
    ):
        answer = served.ask(method, path)
        assert answer.headers["fedrec-model"] == digest
        assert answer.json().get("model", digest) == digest


def test_only_block_and_seen_items_are_minded(served: Client) -> None:
    first, second, third = served.items(1, 3)
    assert served.get("/v1/recommend", user=1, only=[third, first])["items"][0]["item"] == first
    assert first not in [entry["item"] for entry in served.get("/v1/recommend", user=1, block=first)["items"]]
    everything = served.get("/v1/recommend", user=1, n=1000, include_seen=True)["items"]
    assert len(everything) == 40
    assert len(served.items(1, 1000)) < 40
    assert second in served.items(1)


def test_a_batch_has_the_list_of_each_known_user(served: Client) -> None:
    answer = served.ask("POST", "/v1/recommend/batch", json={"users": [2, "1", 999], "n": 4}).json()
    assert [entry["user"] for entry in answer["lists"]] == [2, 1]
    assert [[item["item"] for item in entry["items"]] for entry in answer["lists"]] == [
        served.items(2, 4),
        served.items(1, 4),
    ]
    assert answer["unknown"] == [999]


@pytest.mark.parametrize("model", [fr.EASE(), fr.EASE(decay=0.7), fr.EASE(rank=8), fr.ItemKNN(decay=0.9)])
def test_reasons_of_linear_models_add_up_to_the_score(model: Any, tmp_path: Path) -> None:
    with client(run_of(model, tmp_path / "run")) as asked:
        item = asked.items(3)[0]
        told = asked.get("/v1/explain", user=3, item=item, n=1000)
        served = asked.service.model
        profile = served.profiles.known(3, asked.service.recent)
        assert profile is not None
        parts = served.opened.model.reasons(served._given, profile.client, served._index.find(item))
        assert parts is not None
        assert float(parts.sum()) == pytest.approx(told["score"], rel=1e-5)
        assert told["exact"]
        assert sorted((part for part in parts.tolist() if part > 0), reverse=True) == pytest.approx(
            [entry["score"] for entry in told["because"]]
        )


def test_reasons_of_other_models_are_similar_items_and_say_so(tmp_path: Path) -> None:
    with client(run_of(fr.MF(rounds=2), tmp_path / "mf")) as asked:
        told = asked.get("/v1/explain", user=3, item=asked.items(3)[0])
        assert (told["exact"], told["how"]) == (False, "similarity")
    with client(run_of(fr.Popularity(), tmp_path / "popularity")) as asked:
        answer = asked.ask("GET", f"/v1/explain?user=3&item={asked.items(3)[0]}")
        assert answer.status_code == 422
        assert "cannot tell which items" in answer.json()["reason"]


def test_an_event_changes_the_next_answer_as_the_history_would(served: Client, run: Path) -> None:
    wanted = served.items(1)[0]
    assert served.send(click("a", 1, wanted)) == 1
    data = fr.load_data(DATA).to_frame().filter(user_id=1)
    history = in_order([*data["item_id"], wanted])
    expected = fr.load_model(run).recommend(history=history, n=10)["item_id"].to_list()
    assert served.items(1) == expected
    assert wanted not in expected


def test_a_stranger_is_known_after_the_first_event_and_impressions_change_nothing(served: Client) -> None:
    assert served.ask("GET", "/v1/recommend?user=5000").status_code == 404
    served.send({**click("a", 5000, 7), "kind": "impression"})
    assert served.ask("GET", "/v1/recommend?user=5000").status_code == 404
    served.send(click("b", 5000, 7))
    assert 7 not in served.items(5000, 40)


def test_an_event_sent_twice_counts_once_also_after_a_restart(run: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "events.db")
    with client(run, log) as asked:
        assert asked.send(click("a", 5000, 7), click("a", 5000, 7)) == 1
        assert asked.send(click("a", 5000, 7)) == 0
        before = asked.items(5000)
    with client(run, log) as asked:
        assert asked.items(5000) == before
        assert asked.send(click("a", 5000, 7)) == 0


def test_a_forgotten_user_is_gone_at_once_and_stays_gone(run: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "events.db")
    with client(run, log) as asked:
        asked.send(click("a", 1, 7, at=1000.0))
        asked.send(click("b", 5000, 7, at=1000.0))
        stranger, known = (asked.ask("DELETE", f"/v1/users/{user}").json() for user in (5000, 1))
        assert (stranger["events"], stranger["in_run"]) == (1, False)
        assert (known["events"], known["in_run"]) == (1, True)
        assert asked.ask("GET", "/v1/recommend?user=1").status_code == 404
        assert asked.ask("DELETE", "/v1/users/1").status_code == 404
    with client(run, log) as asked:
        assert asked.ask("GET", "/v1/recommend?user=1").status_code == 404
        assert asked.send(click("a", 1, 7, at=1000.0)) == 0  # what was before the wish does not come back
        assert asked.send(click("b", 1, 9)) == 1
        posted = asked.ask("POST", "/v1/recommend", json={"history": [9]}).json()["items"]
        assert asked.items(1) == [entry["item"] for entry in posted]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", "/v1/recommend", None, 422, "query.user: Field required"),
        ("GET", "/v1/recommend?user=1&n=0", None, 422, "query.n: Input should be greater than or equal to 1"),
        ("GET", "/v1/recommend?user=ann", None, 404, "not a whole number"),
        ("GET", "/v1/recommend?user=1&only=99999", None, 422, "item 99999 is not in the catalog"),
        ("GET", "/v1/similar?item=99999", None, 404, "does not know this item"),
        ("POST", "/v1/recommend", b"{", 422, "JSON decode error"),
        ("POST", "/v1/recommend", b"[" * 100_000, 400, "parsing the body"),
        ("POST", "/v1/recommend", b'{"history": [1], "wishes": 3}', 422, "body.wishes: Extra inputs"),
        ("POST", "/v1/events", b"[]", 422, "at least 1 item"),
        ("POST", "/v1/events", b'[{"event_id": "a", "user": 1, "item": 2, "kind": "buy"}]', 422, "'impression'"),
        ("POST", "/v1/events", b'[{"event_id": "a", "user": "x", "item": 2, "kind": "click"}]', 422, "user: id 'x'"),
        ("POST", "/v1/events", b'[{"event_id": "a", "user": 1, "item": 2, "kind": "click", "at": 9e9}]', 422, "a day"),
        ("POST", "/v1/events", b" " * (1 << 20) + b"[]", 413, "longer than 1,048,576 bytes"),
        ("DELETE", "/v1/users/9999", None, 404, "nothing is known of this user"),
        ("PUT", "/v1/recommend", None, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_has_a_status_and_a_reason(
    served: Client, method: str, path: str, body: bytes | None, status: int, reason: str
) -> None:
    answer = served.ask(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert reason in answer.json()["reason"]


def test_tokens_allow_what_their_scopes_say_and_no_more_than_their_rate(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    reader = new_token("shop", ("read",), None, path)
    admin = new_token("owner", ("admin",), None, path)
    slow = new_token("slow", ("read",), 1.0, path)
    assert reader not in path.read_text()
    with client(run, tokens=Tokens.read(path)) as asked:

        def status(token: str | None, method: str = "GET", url: str = "/v1/recommend?user=1") -> int:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            return asked.ask(method, url, headers=headers).status_code

        assert [status(None), status("wrong"), status(reader), status(admin)] == [401, 401, 200, 200]
        assert [status(reader, "DELETE", "/v1/users/1"), status(reader, "GET", "/metrics")] == [403, 403]
        assert [status(None, "GET", "/healthz"), status(None, "GET", "/readyz")] == [200, 200]
        assert [status(slow), status(slow)] == [200, 429]
        late = asked.ask("GET", "/v1/model", headers={"Authorization": f"Bearer {slow}"})
        assert late.headers["retry-after"] == "1"
    with pytest.raises(fr.InputError, match="has a token called 'shop' already"):
        new_token("shop", ("read",), None, path)


def test_a_newer_run_at_the_same_place_takes_over_and_a_broken_one_does_not(run: Path, tmp_path: Path) -> None:
    other = run_of(fr.EASE(reg=500.0), tmp_path / "other")
    latest = tmp_path / "latest"
    latest.symlink_to(run)
    with client(latest) as asked:
        first = asked.get("/v1/model")["model"]
        assert not asked.portal.call(asked.service.renew)
        latest.unlink()
        latest.symlink_to(other)
        assert asked.portal.call(asked.service.renew)
        second = asked.get("/v1/recommend", user=1)["model"]
        assert second != first
        broken = run_of(fr.EASE(reg=5.0), tmp_path / "broken")
        with (broken / "model/shared.safetensors").open("r+b") as file:
            file.seek(-4, 2)
            file.write(b"\1\2\3\4")
        latest.unlink()
        latest.symlink_to(broken)
        assert not asked.portal.call(asked.service.renew)
        assert asked.get("/v1/recommend", user=1)["model"] == second
        assert 'fedrec_models_loaded_total{outcome="refused"} 1.0' in asked.ask("GET", "/metrics").text


def test_who_waits_too_long_or_in_too_long_a_queue_is_told_to_come_again(run: Path) -> None:
    with client(run, most_waiting=2, deadline=0.5) as asked:

        async def crowd() -> list[int]:
            import asyncio

            async def one() -> int:
                return (await asked._http.get("/v1/recommend?user=1")).status_code

            return list(await asyncio.gather(*(one() for _ in range(40))))

        statuses = asked.portal.call(crowd)
        assert set(statuses) == {200, 503}
        assert asked.ask("GET", "/v1/recommend?user=1").status_code == 200


def test_the_openapi_document_names_all_paths_and_their_errors(served: Client) -> None:
    document = served.get("/openapi.json")
    assert set(document["paths"]) == {
        "/v1/recommend", "/v1/recommend/batch", "/v1/similar", "/v1/explain", "/v1/events", "/v1/users/{user}",
        "/v1/model", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    names = [parameter["name"] for parameter in document["paths"]["/v1/recommend"]["get"]["parameters"]]
    assert names == ["user", "n", "include_seen", "only", "block"]
    for path in document["paths"].values():
        for operation in path.values():
            assert {"401", "422", "429", "503"} <= set(operation["responses"])

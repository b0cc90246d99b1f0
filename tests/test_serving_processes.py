"""A server in a process of its own: kills, newer models, overload and broken clients; and what strangers may send."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from serving_in_test import client, run_of

TOP = Path(__file__).parent.parent
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.filterwarnings("ignore"),  # connections of servers that were killed are not closed in order
]


@pytest.fixture(scope="module")
def studies() -> Any:
    """`benchmarks/serving.py` as a module."""
    spec = importlib.util.spec_from_file_location("serving_studies", TOP / "benchmarks/serving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_acknowledged_event_is_lost_when_the_server_is_killed(studies: Any, tmp_path: Path) -> None:
    found = studies.kills(tmp_path, times=10)
    assert found["acknowledged"] > 100
    assert (found["lost"], found["double"]) == (0, 0)


def test_no_request_fails_while_models_are_replaced_and_no_answer_is_of_two(studies: Any, tmp_path: Path) -> None:
    found = studies.swaps(tmp_path, times=20)
    assert found["answered"] > 500
    assert (found["failed"], found["of two models"], found["models"]) == (0, 0, 2)


def test_overload_gets_503_in_time_and_passes(studies: Any, tmp_path: Path) -> None:
    found = studies.overload(tmp_path)
    assert set(found["answers per second"]) == {200, 503}
    assert found["answers per second"][200] > found["bears per second"] / 4
    assert max(found["slowest ms"].values()) < 5_000
    assert found["seconds to recover"] < 5.0


def test_broken_clients_harm_no_other_and_leave_nothing(studies: Any, tmp_path: Path) -> None:
    found = studies.faults(tmp_path)
    assert all(found[fault] == {200: 200} for fault in ("slow", "cut", "garbage", "black hole"))
    assert found["more open files"] <= 2
    assert found["more MiB"] < 50.0


def test_many_requests_leave_memory_as_it_is(studies: Any, tmp_path: Path) -> None:
    found = studies.memory(tmp_path, requests=100_000)
    assert found["statuses"] == {200: 100_000}
    assert found["MiB after"] - found["MiB before"] < 20.0


def broken(chance: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, left out or repeated."""
    odd = [None, True, -1, 0, 2**63, 2**70, 1e308, "", "\0", "é", "x" * 600, [], {}, [[]], {"item": None}, -0.0, "1"]
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        times = chance.choice([1, 1, 3])
        return [broken(chance, part) if here == place else part for here, part in enumerate(value)] * times
    if isinstance(value, dict) and value and chance.random() < 0.8:
        name = chance.choice(sorted(value))
        changed = {**value, name: broken(chance, value[name])}
        if chance.random() < 0.2:
            del changed[name]
        return changed
    return chance.choice(odd)


def test_fuzzed_bodies_get_a_status_that_the_document_names_and_nothing_of_others(tmp_path: Path) -> None:
    run = run_of(fr.EASE(), tmp_path / "run")
    wholes: dict[str, Any] = {
        "/v1/recommend": {"history": [1, {"item": 2, "at": 5, "rating": 3}], "n": 3, "only": [1, 2, 3], "block": [2]},
        "/v1/recommend/batch": {"users": [1, 2], "n": 3},
        "/v1/events": [
            {"event_id": "a", "user": 77777, "item": 2, "kind": "click", "at": "2026-01-01T00:00:00Z", "value": 3,
             "model": "m", "request_id": "r", "rank": 1, "propensity": 0.5}
        ],
    }  # fmt: skip
    chance = random.Random(5)
    with client(run, str(tmp_path / "events.db")) as asked:
        before = asked.items(3)
        paths = asked.get("/openapi.json")["paths"]
        allowed = {path: set(paths[path]["post"]["responses"]) for path in wholes}
        for _ in range(20_000):
            path = chance.choice(sorted(wholes))
            body = json.dumps(broken(chance, wholes[path])).encode()
            if chance.random() < 0.3:
                place = chance.randrange(len(body))
                body = body[:place] + chance.randbytes(chance.randrange(4)) + body[place + chance.randrange(4) :]
            answer = asked.ask("POST", path, content=body, headers={"Content-Type": "application/json"})
            assert str(answer.status_code) in allowed[path], (path, body, answer.text)
            assert answer.status_code < 500, (path, body, answer.text)
            if path != "/v1/recommend/batch":
                assert "user" not in answer.json() or answer.json()["user"] is None
        assert asked.items(3) == before


def test_the_server_does_what_its_openapi_document_says(tmp_path: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    from fedrec.serving.app import create_app
    from fedrec.serving.service import Service

    service = Service(run_of(fr.EASE(), tmp_path / "run"), str(tmp_path / "events.db"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(service))

    for operation in schema.get_all_operations():
        strategy = operation.ok().as_strategy()

        @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=strategy)
        def check(case: Any) -> None:
            response = case.call()
            assert response.status_code < 500 or response.status_code == 503, response.text
            case.validate_response(response, excluded_checks=[positive_data_acceptance])  # ids have a type of the data

        check()
    service.close()

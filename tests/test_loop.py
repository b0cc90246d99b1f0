"""The loop around a model: users click by what they like, events train the next model, and that model is served."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from conftest import Said
from fedrec.benchmarks import loop
from fedrec.data.databases.logs import read_events
from fedrec.errors import InputError
from fedrec.pictures.loop import draw_loop
from serving_in_test import client

Fedrec = Callable[..., Said]


@pytest.fixture(scope="module")
def crowd() -> loop.Crowd:
    return loop.Crowd.make(users=130, items=60, likes=15, seed=2)


@contextmanager
def in_this_process(latest: Path, events: Path, log: Path) -> Iterator[loop.Ask]:
    """The same server without a process of its own; it looks for a newer model when it is asked which one answers."""
    with client(latest, str(events)) as server:

        def ask(method: str, path: str, body: Any = None) -> Any:
            if path == "/v1/model":
                server.portal.call(server.service.renew)
            answer = server.ask(method, path, json=body)
            assert answer.status_code < 300, answer.text
            return answer.json()

        yield ask


def test_users_say_a_few_of_the_items_that_they_like(crowd: loop.Crowd) -> None:
    known = crowd.known
    assert np.diff(known.indptr).max() == 5
    assert crowd.likes[known.rows_of_users(), known.items].all()
    liked = fr.synthetic(130, 60, 15, 2)
    assert crowd.likes.sum() == len(liked)


def test_a_click_depends_on_the_truth_and_on_the_rank(crowd: loop.Crowd) -> None:
    liked, other = np.flatnonzero(crowd.likes[7])[:2], np.flatnonzero(~crowd.likes[7])[:2]
    assert crowd.chances(7, np.concatenate([liked, other])).tolist() == pytest.approx(
        [0.6, 0.6 * 0.9, 0.02 * 0.81, 0.02 * 0.729]
    )


def test_events_of_each_visit_train_the_next_model_which_is_served(
    crowd: loop.Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "served", in_this_process)
    told: list[str] = []
    answer = loop.play_loop(tmp_path / "loop", crowd, rounds=2, visitors=40, tell=told.append)
    visits = answer["visits"]
    assert len({visit["model"] for visit in visits}) == len(visits) == len(told) == 3
    assert [visit["impressions"] for visit in visits] == [400, 400, 400]
    sizes = np.diff(crowd.known.indptr)
    expected, seen = sizes[:10].sum(), 10
    for visit in visits:
        assert visit["trained_on"] == expected
        expected += sizes[seen : seen + 40].sum() + visit["clicks"]
        seen += 40
    assert len(read_events(answer["events"]).interactions) == expected - sizes[:10].sum()
    assert all(0 < visit["expected_before"] < 1 for visit in visits[1:])
    draw_loop("loop", visits, tmp_path / "loop.png")
    assert (tmp_path / "loop.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"rounds": 0}, "a round or more"), ({"visitors": 50}, "more users than"), ({"folder": Path()}, "exists already")],
)
def test_a_loop_that_cannot_be_played_is_refused(
    change: dict[str, Any], says: str, crowd: loop.Crowd, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"folder": tmp_path / "new", "crowd": crowd, "rounds": 2, "visitors": 40}
    with pytest.raises(InputError, match=says):
        loop.play_loop(**settings | change)
    assert not (tmp_path / "new").exists()


def test_a_plot_of_the_demo_is_one_of_the_loop(fedrec: Fedrec) -> None:
    said = fedrec("demo", "--plot", "loop.png")
    assert said.code == 2
    assert "--loop" in said.err


@pytest.mark.exhaustive
def test_the_click_rate_rises_with_each_model(tmp_path: Path) -> None:
    visits = loop.play_loop(tmp_path / "loop", loop.Crowd.make())["visits"]
    rates = [visit["click_rate"] for visit in visits]
    assert rates == sorted(rates)
    assert all(visit["expected_after"] > visit["expected_before"] for visit in visits[1:])

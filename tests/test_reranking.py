"""Lists in the order of a causal model of language, and what that does to metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from encoders_in_test import WORDS, token_vectors, transformer
from fedrec.data.reading.catalogs import with_items
from fedrec.errors import InputError
from fedrec.recommending.reranking import Rerank, Reranker
from fedrec.runs.reranked import measure_reranked

MADE = fr.synthetic(users=120, items=30, interactions_per_user=8, seed=2)
TITLES = [f"{WORDS[item % 10]} {item}" for item in range(30)]
DATA = with_items(MADE, fr.Catalog.of(pl.DataFrame({"item_id": MADE.catalog.items.series, "title": TITLES})))


class Likes:
    """A model of language that likes titles of one word, and knows every word after the words of the history."""

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, list[tuple[str, int]]()

    def log_likelihoods(self, prompt: str, texts: list[str]) -> np.ndarray:
        self.asked.append((prompt, len(texts)))
        told = "chose" in prompt
        return np.array([float(told and text.startswith(f" {self.word} ")) for text in texts])


def fitted() -> tuple[fr.Estimator, fr.Split]:
    split = fr.leave_last_out(DATA)
    return fr.EASE(plan={"split": "leave-last-out"}).fit(split), split


def test_candidates_are_those_of_the_recommender_in_another_order_and_nothing_else_moves() -> None:
    model, _ = fitted()
    shard, trained = model.opened.engine.shards[0], model.opened.trained
    users = np.arange(6)
    word = Likes("war")
    reranker = Reranker(Rerank("none", top=10, weight=1.0, history=3), DATA.catalog, word)
    ((positions, clients, before),) = shard.scores(trained.state.shared, trained.round, shard.known, users)
    ((_, _, after),) = reranker.reordered(iter([(positions, clients, before)]))
    for client in range(6):
        seen = clients.items[clients.indptr[client] : clients.indptr[client + 1]]
        unseen = np.setdiff1d(np.arange(30), seen)
        order = unseen[np.argsort(-before[client, unseen], kind="stable")]
        top, rest = order[:10], order[10:]
        np.testing.assert_array_equal(after[client, rest], before[client, rest])
        np.testing.assert_array_equal(np.sort(after[client, top]), np.sort(before[client, top]))
        likes = np.array([TITLES[item].startswith("war ") for item in top])
        expected = np.r_[top[likes], top[~likes]]
        np.testing.assert_array_equal(top[np.argsort(-after[client, top], kind="stable")], expected)
    (told,) = {prompt.count(";") for prompt, _ in word.asked if "chose" in prompt}
    assert told == 2, "three newest items of the history"


def test_a_weight_of_0_keeps_the_order_of_the_recommender() -> None:
    model, _ = fitted()
    shard, trained = model.opened.engine.shards[0], model.opened.trained
    reranker = Reranker(Rerank("none", weight=0.0), DATA.catalog, Likes("war"))
    scored = list(shard.scores(trained.state.shared, trained.round, shard.known, np.arange(6)))
    ((_, _, after),) = reranker.reordered(iter(scored))
    np.testing.assert_array_equal(after, scored[0][2])


def test_the_gain_is_that_of_the_same_users_before_and_after() -> None:
    model, _ = fitted()
    reranker = Reranker(Rerank("none", top=10, weight=1.0), DATA.catalog, Likes("war"))
    (row,) = measure_reranked(model.opened, reranker, ["ndcg@10"], "test", 1000)
    assert row.users == 120
    assert row.before == pytest.approx(fr.evaluate(model, metrics="ndcg@10")["value"][0], abs=1e-7)
    assert row.gain == pytest.approx(row.after - row.before)
    assert row.gain < 0 < row.standard_error
    same = measure_reranked(
        model.opened, Reranker(Rerank("none", weight=0.0), DATA.catalog, Likes("war")), ["hr@5"], "test", 40
    )
    assert (same[0].gain, same[0].standard_error, same[0].users) == (0.0, 0.0, 40)


def test_what_cannot_be_reranked_is_an_error_that_says_why(tmp_path: Path) -> None:
    model, _ = fitted()
    with pytest.raises(InputError, match=r"model 'none': there is no such folder"):
        model.recommend([7], rerank="none")
    with pytest.raises(InputError, match="rerank: top is 1; it must be from 2 to 100"):
        Rerank("none", top=1)
    with pytest.raises(InputError, match=r"rerank: weight is 1\.5; it must be from 0 to 1"):
        Rerank("none", weight=1.5)
    untitled = fr.EASE().fit(fr.interactions_from({"user_id": [1, 1, 2], "item_id": [7, 9, 7]}))
    with pytest.raises(InputError, match="rerank: the catalog has no column 'title'"):
        untitled.recommend([2], rerank="none")


@pytest.mark.text
def test_likelihoods_are_those_of_the_model_for_the_whole_text(tmp_path: Path) -> None:
    import torch
    import transformers

    from fedrec.language.causal import CausalModel

    folder = transformer(tmp_path / "causal", "LlamaForCausalLM", num_key_value_heads=2, bos_token_id=0, eos_token_id=0)
    told = CausalModel.read(str(folder)).log_likelihoods("the night of", [" war love", " day"])
    module = transformers.LlamaForCausalLM.from_pretrained(folder).eval()
    for text, value in zip((("war", "love"), ("day",)), told, strict=True):
        ids = torch.tensor([[0, *(1 + WORDS.index(word) for word in ("the", "night", "of", *text))]])
        with torch.no_grad():
            logits = torch.log_softmax(module(ids).logits[0], 1)
        parts = [float(logits[3 + place, 1 + WORDS.index(word)]) for place, word in enumerate(text)]
        assert value == pytest.approx(np.mean(parts), abs=1e-5)


@pytest.mark.text
def test_an_encoder_is_no_causal_model(tmp_path: Path) -> None:
    from fedrec.language.causal import CausalModel

    with pytest.raises(InputError, match="a table of token vectors encodes texts"):
        CausalModel.read(str(token_vectors(tmp_path / "table")))


@pytest.mark.text
def test_lists_are_reordered_by_a_model_in_a_folder(tmp_path: Path) -> None:
    model, _ = fitted()
    folder = transformer(tmp_path / "causal", "LlamaForCausalLM", num_key_value_heads=2, bos_token_id=0, eos_token_id=0)
    plain = model.recommend([7], n=20)
    told = model.recommend([7], n=20, rerank=fr.Rerank(str(folder), weight=1.0))
    assert sorted(plain["item_id"].to_list()) == sorted(told["item_id"].to_list())
    assert plain["item_id"].to_list() != told["item_id"].to_list()

"""`lora`: low-rank changes inside an encoder at the coordinator, learned from sums of gradients by item vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedrec as fr
from conftest import Said
from encoders_in_test import WORDS, token_vectors, transformer
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.data.reading.catalogs import with_items
from fedrec.errors import InputError, PlanError
from fedrec.language.folders import ModelFolder, model_folder
from fedrec.language.lora import LoraEncoder, Projection
from fedrec.models.base import Given, State
from fedrec.models.networks import lora
from fedrec.models.networks.lora import Lora
from fedrec.runs.saved import open_run

WIDTH, USERS, ITEMS = 8, 60, 40
TITLES = [f"{WORDS[item % 10]} {WORDS[item // 4]}" for item in range(ITEMS)]
SETTINGS: dict[str, Any] = {"rank": 2, "rounds": 4, "drawn": 16, "learning_rate": 0.05, "temperature": 0.3}


class Bag(nn.Module):
    """An encoder without a library: a table of words and one projection."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.table, self.query = nn.Embedding(len(WORDS) + 1, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        words = torch.tanh(self.query(self.table(input_ids)))
        return SimpleNamespace(last_hidden_state=words * attention_mask[:, :, None])


def words_of(text: str) -> list[int]:
    return [1 + WORDS.index(word) for word in text.split()]


class BagEncoder(LoraEncoder):
    def tokens(self, texts: Any) -> list[list[int]]:
        return [words_of(text) for text in texts]


def bag_encoder(rank: int = 2, alpha: float = 16.0) -> LoraEncoder:
    module = Bag().requires_grad_(False)
    module.query = Projection(module.query, rank, alpha / rank)  # type: ignore[assignment]
    return BagEncoder(ModelFolder("bag", Path(), ()), module, {"query": module.query}, rank, alpha)  # type: ignore[dict-item]


def titled() -> Interactions:
    made = fr.synthetic(users=USERS, items=ITEMS, interactions_per_user=9, seed=4)
    return with_items(made, Catalog.of(pl.DataFrame({"item_id": made.catalog.items.series, "title": TITLES})))


@pytest.fixture
def bag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Settings of a model whose encoder is a bag of words, on a machine without any library for texts."""
    encoder, folder = bag_encoder(), tmp_path / "bag"
    (folder).mkdir()
    (folder / "tokenizer.json").write_text("{}")
    (folder / "vectors.safetensors").write_bytes(b"bag")
    plain = np.zeros(encoder.size, np.float32)

    def encoded(_: ModelFolder, texts: list[str]) -> np.ndarray:
        return encoder.vectors(plain, encoder.tokens(texts), np.zeros(WIDTH))

    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lora, "_read_encoder", lambda *_: encoder)
    monkeypatch.setattr("fedrec.language.encoders.encoded", encoded)
    return {**SETTINGS, "item_features": {"title": f"text:{folder}"}}


class Pooled:
    """Training of the same model by plain torch, on all users at once: autograd from the loss of each user through the
    encoder to the factors, and torch's own Adam."""

    def __init__(self, model: Lora, start: State) -> None:
        self.model, self.encoder, self.kept = model, bag_encoder(), start.server
        self.encoder._fill(start.shared["factors"])
        self.table = torch.from_numpy(start.shared["vectors"].copy())
        self.rule = torch.optim.Adam(self.encoder._factors, lr=model.learning_rate)

    def rows(self, items: np.ndarray) -> Tensor:
        """Vectors of items, one text at a time."""
        rows = []
        for item in items:
            ids = torch.tensor([words_of(TITLES[item])])
            states = self.encoder.module(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            unit = functional.normalize(states.mean(1), dim=1)
            rows.append(functional.normalize(unit - torch.from_numpy(self.kept["centre"]), dim=1))
        return torch.cat(rows)

    def step(self, data: Interactions, drawn: np.ndarray, next_drawn: np.ndarray) -> None:
        """One round with some drawn items."""
        table = dict(zip(drawn.tolist(), self.rows(drawn), strict=True))
        losses = []
        for user in range(data.n_users):
            history = data.items[data.indptr[user] : data.indptr[user + 1]]
            own, others = np.intersect1d(history, drawn).tolist(), np.setdiff1d(drawn, history).tolist()
            if len(own) < 2:
                continue
            parts = []
            for item in own:
                vector = functional.normalize(sum(table[other] for other in own if other != item), dim=0)
                scores = torch.stack([table[other] for other in (item, *others)]) @ vector / self.model.temperature
                parts.append(torch.logsumexp(scores, 0) - scores[0])
            losses.append(torch.stack(parts).mean())
        self.rule.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        self.rule.step()
        with torch.no_grad():
            self.table[next_drawn] = self.rows(next_drawn)


def started(model: Lora, data: Interactions) -> State:
    return model.start(data.catalog, model.public(data.catalog), KeyedSource.from_seed(1))


def stepped(model: Lora, state: State, data: Interactions, round: int, nodes: int = 1) -> State:
    """The state after a round of all users, who live at some nodes."""
    spec = model.spec(state.shared, round)
    assert spec is not None
    clients = Clients.of(data, np.arange(data.n_users, dtype=np.uint64) * 7919)
    total = Sum.zeros(spec.fit(1000))
    for places in np.array_split(np.arange(data.n_users), nodes):
        given = Given(round, state.shared, {}, KeyedSource.from_seed(3))
        added, _ = model.contribute(given, clients.take(places), None)
        assert total.add(added) is not None
    return model.step(state, total, round)


@pytest.mark.parametrize("granularity", ["node", "client"])
def test_rounds_of_three_nodes_are_training_of_the_encoder_on_pooled_data(
    bag: dict[str, Any], granularity: Any
) -> None:
    model, data = Lora(**bag | {"targets": 20, "granularity": granularity, "rounds": 9}), titled()
    state = stepped(model, started(model, data), data, 0)
    alike = Pooled(model, state)
    for round in (1, 2, 3):
        drawn = state.shared["drawn"]
        state = stepped(model, state, data, round, nodes=3)
        alike.step(data, drawn, state.shared["drawn"])
        factors = torch.cat([factor.detach().ravel() for factor in alike.encoder._factors]).numpy()
        np.testing.assert_allclose(state.shared["factors"], factors, atol=1e-4)
        np.testing.assert_allclose(state.shared["vectors"], alike.table.numpy(), atol=1e-4)
    assert np.abs(factors - started(model, data).shared["factors"]).max() > 0.1


def test_every_node_sends_as_many_vectors_as_items_are_drawn_and_all_are_new_after_the_last_round(
    bag: dict[str, Any],
) -> None:
    model, data = Lora(**bag), titled()
    state = stepped(model, started(model, data), data, 0)
    before = state.shared["vectors"]
    spec = model.spec(state.shared, 1)
    assert spec is not None
    assert spec.names == ("rows", "terms")
    assert spec["rows"].shape == (16, WIDTH)
    state = stepped(model, state, data, 1)
    changed = np.flatnonzero(np.any(state.shared["vectors"] != before, axis=1))
    np.testing.assert_array_equal(changed, state.shared["drawn"])
    for round in (2, 3):
        state = stepped(model, state, data, round)
    encoder, factors = bag_encoder(), state.shared["factors"]
    anew = encoder.vectors(factors, encoder.tokens(TITLES), state.server["centre"])
    np.testing.assert_allclose(state.shared["vectors"], anew, atol=1e-6)
    assert model.spec(state.shared, 4) is None


def test_a_node_asks_for_no_encoder(bag: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = Lora(**bag), titled()
    state = stepped(model, started(model, data), data, 0)

    def nowhere(*_: Any) -> LoraEncoder:
        raise InputError("there is no encoder here")

    monkeypatch.setattr(lora, "_read_encoder", nowhere)
    clients = Clients.of(data, np.arange(data.n_users, dtype=np.uint64))
    assert model.public(data.catalog) == {}
    added, _ = model.contribute(Given(1, state.shared, {}, KeyedSource.from_seed(3)), clients, None)
    assert added.arrays["rows"].values.shape == (16, WIDTH)
    scores = model.score(Given.to_score(state.shared, {}), clients.take(np.arange(2)), None)
    histories = np.stack(
        [state.shared["vectors"][data.items[slice(*data.indptr[user : user + 2])]].sum(0) for user in (0, 1)]
    )
    histories /= np.linalg.norm(histories, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, histories @ state.shared["vectors"].T, atol=1e-5)
    with pytest.raises(InputError, match="no encoder here"):
        stepped(model, state, data, 1)


def test_masked_and_resumed_trainings_give_the_same_bytes_and_their_record_verifies(
    bag: dict[str, Any], tmp_path: Path, fedrec: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = titled()
    data.to_frame().write_csv(tmp_path / "clicks.csv")
    pl.DataFrame({"item_id": data.catalog.items.series, "title": TITLES}).write_csv(tmp_path / "items.csv")
    settings = [f"--set={key}={value}" for key, value in bag.items() if key != "item_features"]
    settings += [f"--set=item_features.title={bag['item_features']['title']}", "--split", "none", "--nodes", 3]

    def trained(name: str, *more: str) -> Said:
        where = ("--data", tmp_path / "clicks.csv", "--catalog", tmp_path / "items.csv", "--out", tmp_path / name)
        return fedrec("train", "--model", "lora", *where, *settings, *more)

    assert trained("plain").code == 0
    step, broken = Lora._stepped, []

    def breaking(self: Lora, state: State, total: Sum, divisor: float, round: int, number: int) -> State:
        if round == 2 and not broken:
            broken.append(round)
            raise InputError("the coordinator breaks off")
        return step(self, state, total, divisor, round, number)

    monkeypatch.setattr(Lora, "_stepped", breaking)
    assert "the coordinator breaks off" in trained("masked", "--secure").err
    assert fedrec("train", "--out", tmp_path / "masked", "--resume").code == 0
    plain, masked = (open_run(tmp_path / name).trained.state.shared for name in ("plain", "masked"))
    for name, array in plain.items():
        assert masked[name].tobytes() == array.tobytes(), name
    assert fedrec("verify", tmp_path / "masked").code == 0


def test_a_training_goes_on_from_where_another_ended_with_texts_of_new_items(
    bag: dict[str, Any], tmp_path: Path
) -> None:
    whole = titled()
    few = whole.take_users(np.arange(USERS)).to_frame().filter(pl.col("item_id") < ITEMS - 5)
    catalog = Catalog.of(pl.DataFrame({"item_id": range(ITEMS - 5), "title": TITLES[:-5]}))
    first = fr.Lora(**bag).fit(with_items(fr.interactions_from(few), catalog))
    first.save(tmp_path / "run")
    loaded = fr.load_model(tmp_path / "run")
    assert loaded.recommend([7], n=3).equals(first.recommend([7], n=3))
    assert loaded.similar([3], n=2).height == 2
    again = fr.Lora(**bag).fit(whole, warm_start=loaded)
    assert 0 < np.abs(again.shared["factors"] - first.shared["factors"]).max() < 0.3
    encoder, centre = bag_encoder(), again.opened.trained.state.server["centre"]
    anew = encoder.vectors(again.shared["factors"], encoder.tokens(TITLES), centre)
    np.testing.assert_allclose(again.shared["vectors"], anew, atol=1e-6)


def test_it_trains_under_differential_privacy_with_clipped_gradients_by_vectors(bag: dict[str, Any]) -> None:
    plan = {"privacy": {"epsilon": 50.0, "delta": 1e-4}, "split": "none"}
    model = fr.Lora(**bag | {"rounds": 3, "drawn": 6}, plan=plan).fit(titled())
    assert np.isfinite(model.shared["vectors"]).all()
    assert "counts" not in model.shared


def test_an_item_without_text_keeps_zeros(bag: dict[str, Any]) -> None:
    data = titled()
    titles = pl.Series("title", [None, *TITLES[1:]])
    catalog = Catalog.of(pl.DataFrame({"item_id": data.catalog.items.series, "title": titles}))
    model = fr.Lora(**bag).fit(with_items(data, catalog))
    assert not model.shared["vectors"][0].any()
    assert model.shared["vectors"][1:].any(axis=1).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"item_features": "auto"},
            "item_features must name one column, or several with \\+ between them, and an encoder",
        ),
        ({"item_features": {"title": "text"}}, "item_features must name one column"),
        ({"item_features": {"title": ["year", "text:/models/m"]}}, "item_features must name one column"),
        ({"method": "fedavg"}, "model lora: method: fedavg trains parameters at nodes"),
        ({"projections": []}, "model lora: projections names no projection"),
    ],
)
def test_settings_that_cannot_be_are_errors_that_say_what_to_do(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((PlanError, InputError), match=words):
        fr.Lora(**settings).fit(titled())


def test_a_catalog_without_the_texts_is_an_error_that_names_the_column(bag: dict[str, Any]) -> None:
    (encoder,) = bag["item_features"].values()
    with pytest.raises(InputError, match="model lora: the catalog has no column 'name'"):
        fr.Lora(**bag | {"item_features": {"name": encoder}}).fit(titled())


def test_a_coordinator_without_the_encoder_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder, and no installed package of this name; give the path"):
        fr.Lora(item_features={"title": f"text:{tmp_path / 'none'}"}).fit(titled())


def test_only_a_run_that_trained_an_encoder_can_write_one(
    bag: dict[str, Any], tmp_path: Path, fedrec: Callable[..., Said]
) -> None:
    fr.Lora(**bag).fit(titled()).save(tmp_path / "run")
    fr.Popularity().fit(titled()).save(tmp_path / "other")
    said = fedrec("data", "encoder", tmp_path / "other", "--to", tmp_path / "peft")
    assert said.code == 2
    assert "a run of 'popularity' trains no encoder; a run of 'lora' does" in said.err
    assert fedrec("data", "encoder", tmp_path / "run", "--to", tmp_path / "peft").code == 0
    assert sorted(path.name for path in (tmp_path / "peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert "exists already" in fedrec("data", "encoder", tmp_path / "run", "--to", tmp_path / "peft").err


@pytest.mark.text
@pytest.mark.filterwarnings("ignore:.*is deprecated and will be removed in v6:FutureWarning")  # peft asks for it
def test_what_a_run_learned_is_read_by_peft_and_as_a_whole_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    from fedrec.data.encoded import encode_texts
    from fedrec.runs.trained_encoders import save_encoder

    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    base = transformer(tmp_path / "bert")
    settings = {**SETTINGS, "item_features": {"title": f"text:{base}"}}
    model = fr.Lora(**settings).fit(titled())
    save_encoder(model.opened, tmp_path / "peft")
    save_encoder(model.opened, tmp_path / "whole", merged=True)
    adapted = PeftModel.from_pretrained(AutoModel.from_pretrained(base), str(tmp_path / "peft")).eval()
    text = "night heat"
    with torch.no_grad():
        ids = torch.tensor([words_of(text)])
        raw = adapted(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0).numpy()
    unit = raw / np.linalg.norm(raw)
    np.testing.assert_allclose(encode_texts([text], str(tmp_path / "whole"))[0], unit, atol=1e-5)
    assert np.abs(encode_texts([text], str(base))[0] - unit).max() > 1e-3
    with pytest.raises(InputError, match=r"exists already; name a folder that does not"):
        save_encoder(model.opened, tmp_path / "peft")


@pytest.mark.text
def test_layers_that_are_worked_out_again_give_the_same_gradients(tmp_path: Path) -> None:
    folder = model_folder(str(transformer(tmp_path / "bert")))
    plain, again = (LoraEncoder.read(folder, 2, 4.0, checkpointing=kept) for kept in (False, True))
    rng = np.random.default_rng(0)
    factors = rng.normal(0, 0.2, plain.size).astype(np.float32)
    tokens, pulls = plain.tokens(TITLES), rng.normal(size=(ITEMS, 16))
    made = [encoder.gradient(factors, tokens, np.zeros(16), pulls) for encoder in (plain, again)]
    np.testing.assert_allclose(made[0], made[1], atol=1e-4)
    place, step = int(np.argmax(np.abs(made[0]))), 1e-2
    told = []
    for sign in (1, -1):
        moved = factors.copy()
        moved[place] += sign * step
        told.append(float((plain.vectors(moved, tokens, np.zeros(16)) * pulls).sum()))
    assert made[0][place] == pytest.approx((told[0] - told[1]) / (2 * step), rel=1e-2)


@pytest.mark.text
def test_an_encoder_of_another_kind_is_refused(tmp_path: Path) -> None:
    folder = model_folder(str(transformer(tmp_path / "bert")))
    with pytest.raises(InputError, match=r"'bert' has no projections 'q_proj'; its projections are dense, key, query"):
        LoraEncoder.read(folder, 2, 4.0, ("query", "q_proj"))
    gpt2 = model_folder(str(transformer(tmp_path / "gpt2", "GPT2Model")))
    with pytest.raises(InputError, match=r"'gpt2' has none of the usual queries and values; its projections are of an"):
        LoraEncoder.read(gpt2, 2, 4.0)
    with pytest.raises(InputError, match=r"LoRA changes the projections of a transformer"):
        LoraEncoder.read(model_folder(str(token_vectors(tmp_path / "table"))), 2, 4.0)

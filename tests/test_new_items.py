"""Items that enter the catalog of a finished run, without training."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.clients import Clients
from fedrec.data.reading.catalogs import with_items
from fedrec.errors import InputError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.models.base import Arrays, Given
from fedrec.record.durable import arrays_digest
from fedrec.runs.new_items import add_items, extended
from fedrec.runs.saved import FEDERATED, open_model

DATA = fr.synthetic(users=200, items=80, interactions_per_user=10, seed=3)
TABLE = pl.read_ndjson(DATA.catalog.to_json_lines())
KNOWN = fr.Catalog.of(TABLE.filter(pl.col("item_id") <= 70))
CLICKS = DATA.to_frame().filter(pl.col("item_id") <= 70)
FEW = with_items(fr.interactions_from(CLICKS), KNOWN)
GENRES = {"genres": "categories"}
MODELS = {
    "ease": partial(fr.EASE, reg=20.0, item_features=GENRES),
    "ease of a rank": partial(fr.EASE, rank=30, item_features=GENRES),
    "spectral": partial(fr.Spectral, rank=30, item_features=GENRES),
    "ials": partial(fr.IALS, embedding_size=8, rounds=3, item_features=GENRES),
    "ials by cg": partial(fr.IALS, embedding_size=8, rounds=9, solver="cg", item_features=GENRES),
    "autoencoder": partial(fr.Autoencoder, embedding_size=8, rounds=8, item_features=GENRES),
    "mf": partial(fr.MF, embedding_size=8, rounds=3, item_features=GENRES),
    "content": partial(fr.Content, item_features=GENRES),
}


def scores(agreement: Agreement, shared: Arrays, data: fr.Interactions) -> np.ndarray:
    """Scores of all users [users, items]: from their histories, or from factors that are the same for all catalogs."""
    clients = Clients.of(data, np.arange(data.n_users, dtype=np.uint64))
    factors = np.random.default_rng(0).normal(size=(data.n_users, 8)).astype(np.float32)
    return agreement.model.score(Given.to_score(shared, agreement.public), clients, {"users": factors})


@pytest.mark.parametrize("kind", MODELS.values(), ids=MODELS)
def test_new_items_are_scored_by_their_features_and_old_ones_as_before(kind: Callable[..., fr.EASE]) -> None:
    """A new item whose genres are those of an old one goes to whom that goes to, if nobody has either."""
    model = kind().fit(FEW)
    made = extended(model.opened, fr.Catalog.of(TABLE))
    assert (len(made.added), made.known) == (len(TABLE) - len(KNOWN), len(KNOWN))
    before = scores(model.opened.agreement, model.shared, FEW)
    after = scores(made.run.agreement, made.run.trained.state.shared, with_items(FEW, made.run.catalog))
    places = made.run.catalog.items.find(KNOWN.items.series)
    np.testing.assert_array_equal(after[:, places], before)
    new = np.setdiff1d(np.arange(len(TABLE)), places)
    alike = TABLE["genres"].list.sort().list.join("|").to_numpy()
    one, other = next((i, j) for i in new for j in new if i < j and alike[i] == alike[j])
    np.testing.assert_array_equal(after[:, one], after[:, other])
    assert np.ptp(after[:, new], axis=1).max() > 1e-3
    assert made.record["to"]["model"] == arrays_digest(made.run.trained.state.shared)


def test_the_model_is_the_one_that_training_anew_would_make() -> None:
    made = extended(MODELS["ease"]().fit(FEW).opened, fr.Catalog.of(TABLE))
    anew = MODELS["ease"]().fit(with_items(FEW, fr.Catalog.of(TABLE)))
    for name, array in made.run.trained.state.shared.items():
        np.testing.assert_allclose(array, anew.shared[name], atol=1e-6)


def test_a_run_with_new_items_recommends_them_and_keeps_its_users_and_their_parts(
    fedrec: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    CLICKS.write_csv("clicks.csv")
    TABLE.filter(pl.col("item_id") <= 70).write_parquet("items.parquet")
    TABLE.filter(pl.col("item_id") >= 70).with_columns(shelf=pl.lit("A")).write_parquet("new.parquet")
    train = ("train", "--data", "clicks.csv", "--catalog", "items.parquet", "--model", "ease", "--nodes", "2")
    assert fedrec(*train, "--set", "item_features=auto", "--out", "monday").code == 0
    said = json.loads(fedrec("catalog", "add", "monday", "new.parquet", "--out", "tuesday", "--json").out)
    assert (said["added"], said["known"], said["left_out_columns"]) == (len(TABLE) - 70, 1, ["shelf"])
    assert json.loads((tmp_path / "tuesday" / "catalog_added.json").read_text()) == said["record"]
    listed = json.loads(fedrec("recommend", "tuesday", "--user", "1", "--only", "75", "--json").out)
    assert listed["recommendations"][0]["score"] > 0
    figures = [
        json.loads(fedrec("evaluate", run, "--protocol", "sampled:30", "--json").out) for run in ("monday", "tuesday")
    ]
    assert figures[0]["users"] == figures[1]["users"]
    assert fedrec("verify", "tuesday").code == 0
    again = ("catalog", "add", "monday", "new.parquet", "--agreed", "tuesday/catalog_added.json", "--out")
    assert fedrec(*again, "again").code == 0
    files = [(tmp_path / run / "model" / "shared.safetensors").read_bytes() for run in ("tuesday", "again")]
    assert files[0] == files[1]
    TABLE.filter(pl.col("item_id") >= 75).write_parquet("new.parquet")
    other = fedrec(*again, "other")
    assert other.code == 2
    assert "take the same run and the same file of items" in other.err


def test_of_a_run_over_a_federation_the_model_gets_new_items_and_users_stay_with_the_nodes(tmp_path: Path) -> None:
    MODELS["ials"]().fit(FEW).save(tmp_path / "run")
    (tmp_path / "run" / FEDERATED).write_text("{}")
    made = add_items(tmp_path / "run", fr.Catalog.of(TABLE), tmp_path / "more")
    saved = open_model(tmp_path / "more")
    assert saved.catalog.digest == made.run.catalog.digest
    assert arrays_digest(saved.trained.state.shared) == made.record["to"]["model"]
    with pytest.raises(RunError, match="their users are with them"):
        assert saved.data


@pytest.mark.parametrize(
    ("kind", "items", "message"),
    [
        (fr.EASE, TABLE, "says nothing of items that it was not trained with; train again with them, or take content"),
        (MODELS["ease"], TABLE.head(3), "all 3 items of the file are in the catalog of the run already"),
        (MODELS["ease"], TABLE.with_columns(pl.format("x{}", "item_id").alias("item_id")), "write both alike"),
        (MODELS["ease"], TABLE.with_columns(genres=pl.lit("War")), "column 'genres' is String in the file and List"),
        (
            MODELS["content"],
            TABLE.with_columns(genres=pl.lit(["unheard of"], dtype=pl.List(pl.String))),
            "the new items change what the features of all others are",
        ),
        (
            partial(MODELS["ease"], plan={"items": {"least": 2}}),
            TABLE,
            "serves items that 2 users have, and nobody has a new one",
        ),
    ],
)
def test_new_items_that_cannot_be_added_are_refused(
    kind: Callable[..., fr.EASE], items: pl.DataFrame, message: str
) -> None:
    model = kind().fit(FEW)
    with pytest.raises(InputError, match=message):
        extended(model.opened, fr.Catalog.of(items))

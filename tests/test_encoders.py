"""Folders with models of language: what is refused, and texts of the catalog as vectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

import fedrec as fr
from conftest import Said
from encoders_in_test import TOKENIZER, WORDS, token_vectors, transformer
from fedrec.data.catalog import Catalog
from fedrec.data.encoded import encode_texts, pinned_encoders
from fedrec.data.features import feature_blocks, feature_matrix
from fedrec.data.reading.catalogs import with_items
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.language.folders import model_folder

Call = Callable[..., Said]
ITEMS = Catalog.of(
    pl.DataFrame(
        {"item_id": [1, 2, 3, 4], "title": ["Heat", "Ran", None, "Heat"], "genres": [["Crime"], ["War"], [], ["Crime"]]}
    )
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "text-vectors"


def whole(folder: Path, config: Any = None, **files: Any) -> Path:
    """A folder that looks like a transformer's."""
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "bert", "max_position_embeddings": 64} | (config or {}))
    )
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    save_file({"weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_a_folder_is_refused_that_lacks_files_or_is_pickled_or_brings_code(tmp_path: Path) -> None:
    def problem(folder: Path | str) -> str:
        with pytest.raises(InputError) as refused:
            model_folder(str(folder))
        return str(refused.value)

    assert "no such folder, and no installed package" in problem(tmp_path / "none")
    assert "no such folder, and no installed package" in problem("no_such_package")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "has no weights; a folder needs config.json, model.safetensors" in problem(empty)
    (empty / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert "pytorch_model.bin are pickled, and reading them can run code" in problem(empty)
    assert "no tokenizer.json" in problem(_without(whole(tmp_path / "bare"), "tokenizer.json"))
    assert "run code that the folder brings (auto_map)" in problem(
        whole(tmp_path / "code", {"auto_map": {"AutoModel": "x.Y"}})
    )
    coded = whole(tmp_path / "coded", tokenizer_config={"auto_map": {"AutoTokenizer": ["x.Y", None]}})
    assert "tokenizer_config.json asks to run code" in problem(coded)
    steps = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    assert "has a step 'Dense'" in problem(whole(tmp_path / "dense", modules=steps))
    assert "an encoder with a decoder" in problem(
        whole(tmp_path / "t5", {"model_type": "t5", "is_encoder_decoder": True})
    )
    broken = whole(tmp_path / "broken")
    (broken / "config.json").write_text("[1")
    assert "config.json cannot be read" in problem(broken)


def test_the_digest_of_a_folder_is_that_of_what_it_computes_wherever_it_lies(tmp_path: Path) -> None:
    here, there = whole(tmp_path / "here"), whole(tmp_path / "there")
    (there / "README.md").write_text("words")
    assert model_folder(str(here)).digest == model_folder(str(there)).digest
    save_file({"weight": np.ones((2, 2), np.float32)}, there / "model.safetensors")
    assert model_folder(str(here)).digest != model_folder(str(there)).digest


def test_texts_are_encoded_once_and_said_nothing_of_where_there_is_none(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def encoded(folder: Any, texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.eye(3, dtype=np.float32)[: len(texts)]

    monkeypatch.setattr("fedrec.language.encoders.encoded", encoded)
    kind = f"text:{whole(tmp_path / 'model')}"
    (block,) = feature_blocks(ITEMS, {"title": kind})
    assert asked == [["Heat", "Ran"]]
    assert block.missing == 1
    np.testing.assert_array_equal(block.rows[0], block.rows[3])
    np.testing.assert_allclose(block.rows[[0, 1, 3]].sum(axis=1), 0.0, atol=1e-12)
    again = feature_matrix(ITEMS, {"title": kind})
    assert asked == [["Heat", "Ran"]], "the cache had them"
    np.testing.assert_array_equal(again, np.rint(again * 2**16) / 2**16)
    feature_matrix(ITEMS, {"title+genres": kind})
    assert asked[1:] == [["Heat; Crime", "Ran; War"]]
    for file in cache.iterdir():
        file.write_bytes(b"damaged")
    feature_matrix(ITEMS, {"title": kind})
    assert asked[2:] == [["Heat", "Ran"]], "what is damaged is made anew"
    with pytest.raises(InputError, match=r"the catalog has no column 'title\+price'"):
        feature_matrix(ITEMS, {"title+price": kind})


def test_a_plan_pins_the_encoder_and_another_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = whole(tmp_path / "model")
    digest = model_folder(str(folder)).digest
    plan = Plan.make(
        {
            "data": {"source": "memory"},
            "model": {
                "name": "blend",
                "models": [{"name": "content", "item_features": {"title": f"text:{folder}"}}, "ease"],
            },
            "n_max": 10,
        }
    ).agree(ITEMS, 10)
    assert plan.model["models"][0]["item_features"] == {"title": {f"text:{folder}@{digest}": 1.0}}
    assert pinned_encoders(plan.model) == plan.model
    monkeypatch.setattr("fedrec.language.encoders.encoded", lambda folder, texts: np.ones((len(texts), 2), np.float32))
    encode_texts(["Heat"], str(folder), digest)
    save_file({"weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors")
    kept = encode_texts(["Heat"], str(folder), digest)
    assert kept.shape == (1, 2), "what was encoded with the encoder of the plan needs it no more"
    with pytest.raises(InputError, match=rf"its digest is \w{{12}}…, but the plan expects {digest[:12]}…"):
        encode_texts(["Ran"], str(folder), digest)


@pytest.mark.text
def test_a_table_of_token_vectors_gives_the_mean_of_the_tokens_of_a_text(tmp_path: Path) -> None:
    folder = token_vectors(tmp_path / "table")
    vectors = encode_texts(["the heat of war", "heat", ""], str(folder))
    from safetensors.numpy import load_file

    table = load_file(folder / "vectors.safetensors")["embedding.weight"].astype(np.float64)
    mean = table[[1 + WORDS.index(word) for word in ("the", "heat", "of", "war")]].mean(axis=0)
    np.testing.assert_allclose(vectors[0], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(vectors[2], np.zeros(8))
    save_file({"table": np.zeros((3, 2), np.float32)}, folder / "vectors.safetensors")
    with pytest.raises(InputError, match="tokenizer knows token 4, but there are 3 token vectors"):
        encode_texts(["heat"], str(folder))


@pytest.mark.text
def test_a_transformer_gives_the_mean_of_its_last_layer_whatever_else_is_encoded(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = transformer(tmp_path / "bert")
    texts = ["heat", "the night of love", "war of the day"]
    vectors = encode_texts(texts, str(folder))
    model = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(torch.tensor([[1 + WORDS.index(word) for word in texts[1].split()]])).last_hidden_state[0]
    mean = states.mean(0).numpy()
    np.testing.assert_allclose(vectors[1], mean / np.linalg.norm(mean), atol=1e-5)
    first = states[0].numpy()
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    np.testing.assert_allclose(encode_texts(texts, str(folder))[1], first / np.linalg.norm(first), atol=1e-5)


@pytest.mark.text
def test_an_architecture_that_does_not_exist_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the transformer in .* cannot be made: ValueError: "):
        encode_texts(["heat"], str(whole(tmp_path / "odd", {"model_type": "no-such-architecture"})))


def test_a_run_goes_on_with_the_encoder_that_its_plan_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call
) -> None:
    """The command that began the run names the encoder without its digest."""
    monkeypatch.setattr("fedrec.language.encoders.encoded", lambda folder, texts: np.eye(len(texts), dtype=np.float32))
    folder, data, items = whole(tmp_path / "model"), tmp_path / "data.csv", tmp_path / "items.csv"
    data.write_text("user_id,item_id\n" + "".join(f"{row // 2},{row % 3}\n" for row in range(120)))
    items.write_text("item_id,title\n0,Heat\n1,Ran\n2,Alien\n")
    words = [
        "train",
        "--data",
        data,
        "--split",
        "none",
        "--catalog",
        items,
        "--model",
        "content",
        "--out",
        tmp_path / "run",
    ]
    words += ["--set", f"item_features.title=text:{folder}"]
    assert fedrec(*words).code == 0
    assert fedrec(*words, "--resume").code == 0
    save_file({"weight": np.full((2, 2), 7, np.float32)}, folder / "model.safetensors")
    assert "these options differ from them: --set" in fedrec(*words, "--resume").err


@pytest.mark.text
def test_an_adapter_learns_from_texts_of_an_encoder(tmp_path: Path) -> None:
    made = fr.synthetic(users=300, items=60, interactions_per_user=12, seed=4)
    titles = [f"{WORDS[item % 10]} {WORDS[item // 6]}" for item in range(60)]
    data = with_items(made, Catalog.of(pl.DataFrame({"item_id": made.catalog.items.series, "title": titles})))
    title = f"text:{token_vectors(tmp_path / 'table')}"
    model = fr.Adapter(item_features={"title": title}, rounds=4, rank=2).fit(data)
    assert model.recommend([7], n=3).height == 3


def _without(folder: Path, name: str) -> Path:
    (folder / name).unlink()
    return folder

"""Every key can be looked up, with its default, bounds and meaning, and a plan of all of them is a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import fedrec as fr
from conftest import Said
from fedrec.documents import parse_yaml
from fedrec.errors import PlanError
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.evaluation_plan import EvaluationPlan
from fedrec.federation.plan import Plan
from fedrec.federation.settings import commented_plan, plan_schema, settings_of, summary_of
from fedrec.models.registry import MODELS, model_class
from fedrec.privacy.terms import Privacy

Call = Callable[..., Said]
KINDS: list[type[BaseModel]] = [Plan, DataPlan, EvaluationPlan, Privacy, *(model_class(name) for name in MODELS)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_key_has_a_meaning_and_its_own_default(kind: type[BaseModel]) -> None:
    settings = settings_of(kind)
    assert [setting.name for setting in settings] == list(kind.model_fields)
    assert [setting.name for setting in settings if not setting.meaning and setting.name != "version"] == []
    for setting in settings:
        field = kind.model_fields[setting.name]
        assert setting.required == field.is_required()
        if not setting.required and isinstance(field.default, int | float | str | bool):
            assert setting.default == field.default
    assert len(summary_of(kind)) > 20


@pytest.mark.parametrize("name", sorted(MODELS))
def test_bounds_are_those_that_are_enforced(name: str) -> None:
    for setting in settings_of(model_class(name)):
        if "> 0" in setting.bounds.split(", ") and setting.kind in ("number", "whole number"):
            with pytest.raises(PlanError, match=setting.name):
                Plan.make({"data": {"source": "x"}, "model": {"name": name, setting.name: 0}})


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_commented_plan_is_the_plan_of_all_defaults(name: str, tmp_path: Path) -> None:
    text = commented_plan(name, "my clicks: a#b.csv")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    plain = Plan.make({"data": {"source": "my clicks: a#b.csv"}, "model": {"name": name}})
    assert Plan.read(tmp_path / "plan.yaml") == plain
    settings = parse_yaml(text)
    assert set(settings) == set(Plan.model_fields)
    assert set(settings["data"]) == set(DataPlan.model_fields)
    for setting in settings_of(model_class(name)):
        assert f"  # {setting.name}: " in text
    uncommented = text
    for setting in settings_of(model_class(name)):
        uncommented = uncommented.replace(f"  # {setting.name}: ", f"  {setting.name}: ")
    full = Plan.make(parse_yaml(uncommented))
    assert full.build_model() == plain.build_model()
    assert max(map(len, text.splitlines())) <= 125


def test_the_schema_has_every_key_of_every_model() -> None:
    schema = plan_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Plan.model_fields)
    assert schema["required"] == ["data", "model"]
    models = {choice["properties"]["name"]["const"]: choice for choice in schema["properties"]["model"]["oneOf"]}
    assert set(models) == set(MODELS)
    for name, choice in models.items():
        assert set(choice["properties"]) == {"name", *model_class(name).model_fields}
        assert choice["additionalProperties"] is False
    assert models["mf"]["properties"]["embedding_size"]["description"].startswith("length d of the factors.")
    assert "n_max" in schema["properties"]
    assert "ratings" in json.dumps(schema["$defs"]["Cleaning"])


@pytest.mark.parametrize(
    ("model", "wrong", "right"),
    [("mf", "factors", "embedding_size"), ("mf", "n_factors", "embedding_size"), ("mf", "lr", "learning_rate"),
     ("mf", "lambda", "reg"), ("mf", "n_epochs", "rounds"), ("ease", "lambda_", "reg"), ("itemknn", "k", "neighbours"),
     ("spectral", "k", "rank"), ("ials", "k", "embedding_size"), ("ials", "iterations", "rounds"),
     ("mf", "num_negatives", "negatives"), ("mf", "random_state", "seed"), ("ease", "epochs", "")],
)  # fmt: skip
def test_names_of_other_libraries_are_understood_in_errors(model: str, wrong: str, right: str, fedrec: Call) -> None:
    said = fedrec("train", "--data", "synthetic:users=50", "--model", model, "--set", f"{wrong}=8", "--out", "never")
    assert said.code == 2
    assert f"{wrong!r} is not a setting of {model} or of a plan" in said.err
    assert f"Did you mean {right!r}?" in said.err or not right
    assert f"'fedrec models {model}' lists all" in said.err
    if right not in ("seed", ""):
        with pytest.raises(PlanError, match=rf"Did you mean '{right}'\? \('fedrec models {model}' lists all"):
            Plan.make({"data": {"source": "x"}, "model": {"name": model, wrong: 8}})


def test_an_estimator_suggests_too() -> None:
    with pytest.raises(PlanError, match="Did you mean 'embedding_size'"):
        fr.MF(factors=8)
    with pytest.raises(PlanError, match="Did you mean 'embedding_size'"):
        fr.tune(fr.MF, fr.synthetic(users=50, items=100), {"factors": [8]})


def answer(said: Said) -> Any:
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_the_commands_list_models_and_settings(fedrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {row["name"] for row in answer(fedrec("models", "--json"))["models"]} == set(MODELS)
    listed = fedrec("models").out
    assert all(name in listed for name in MODELS)
    shown = fedrec("models", "mf").out
    assert all(name in shown for name in model_class("mf").model_fields)
    assert "0.005" in shown
    keys = [row["name"] for row in answer(fedrec("models", "ease", "--json"))["settings"]]
    assert keys == list(model_class("ease").model_fields)
    assert fedrec("models", "popularity").code == 0
    unknown = fedrec("models", "eese")
    assert (unknown.code, "Did you mean 'ease'" in unknown.err) == (2, True)
    Path("plan.yaml").write_text(fedrec("plan", "ease", "--data", "synthetic:users=60,items=100").out, encoding="utf-8")
    assert fedrec("train", "--plan", "plan.yaml", "--out", "run", "-q").code == 0
    assert answer(fedrec("plan", "--schema")) == plan_schema()

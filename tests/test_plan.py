"""Plans: written as read, equal digests for equal plans, and errors that name the key."""

import re

import hypothesis.strategies as st
import numpy as np
import pytest
import yaml
from hypothesis import given, settings

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from models_in_test import PooledPopularity, registered

BASE = {"data": {"source": "ml-100k"}, "model": {"name": "ease"}}
FULL = {
    "version": 1,
    "data": {
        "source": "clicks.csv",
        "format": "csv",
        "columns": {"user_id": "Benutzer", "item_id": "Ding"},
        "encoding": "latin-1",
        "cleaning": {"k_core": 5, "rating_at_least": 3.5},
    },
    "split": "ratio:0.8",
    "model": {"name": "mf", "embedding_size": 8, "learning_rate": 1e-05, "loss": "bpr"},
    "cohort": 0.25,
    "negatives": "paper-leaky",
    "release": [{"step": "cap", "items": 20, "choose": "random"}, {"step": "weight", "by": "interactions"}],
    "evaluation": {"protocol": "sampled:99", "metrics": ["hr@10"], "every": 5, "patience": 3, "keep": "best"},
    "seed": 2**63 - 1,
    "n_max": 2000,
    "min_clients": 1,
}


def log(users=40, items=12, times=True):
    indptr = np.arange(users + 1) * 3
    positions = np.tile(np.arange(3, dtype=np.int32), users)
    catalog = Catalog(Identifiers.of(range(items)))
    seconds = np.arange(3.0 * users) if times else None
    return Interactions(Identifiers.of(range(users)), catalog, indptr, positions, times=seconds)


@pytest.mark.parametrize("settings_", [BASE, FULL])
def test_a_plan_is_read_as_it_was_written(tmp_path, settings_):
    plan = Plan.make(settings_)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml(), encoding="utf-8")
    again = Plan.read(tmp_path / "plan.yaml")
    assert again == plan
    assert (again.digest, again.to_yaml()) == (plan.digest, plan.to_yaml())
    for key, value in settings_.items():
        if key not in ("data", "release"):
            assert plan.model_dump(mode="json")[key] == value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": [{"step": "weight", "by": "interactions"}]}, "release: weight needs each client's contribution"),
        ({"release": [{"step": "clip", "norm": 1.0}]}, "release: clip needs each client's contribution"),
        ({"release": [{"step": "clip", "row": 1.0}]}, "release: clip needs each client's contribution"),
        ({"privacy": {"epsilon": 4.0, "delta": 1e-6}}, "pools counts of clients; single clients cannot be clipped"),
    ],
)
def test_what_needs_clients_apart_is_refused_with_a_model_that_pools_them(changes, words, monkeypatch):
    model = registered(PooledPopularity, monkeypatch)
    Plan.make({**BASE, "model": model, "release": [{"step": "cap", "items": 3}]})
    with pytest.raises(PlanError, match=words):
        Plan.make({**BASE, "model": model, **changes})


@settings(deadline=None, max_examples=50)
@given(
    st.floats(1e-12, 1e6),
    st.floats(1e-9, 1.0),
    st.floats(0.01, 0.49),
    st.integers(0, 2**63 - 1),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter("-".__ne__),
)
def test_any_numbers_and_names_survive_yaml(reg, cohort, share, seed, source):
    plan = Plan.make(
        {"data": {"source": source}, "model": {"name": "ease", "reg": reg}, "cohort": cohort, "seed": seed,
         "split": f"new-users:{share!r}"}
    )  # fmt: skip
    again = Plan.make(yaml.safe_load(plan.to_yaml()))
    assert again == plan
    assert again.digest == plan.digest
    assert plan.resolve(log(), "d").split == f"new-users:{share!r}"


def test_standard_input_is_no_source_of_a_plan():
    with pytest.raises(PlanError, match="standard input can be read only once; save the data to a file first"):
        Plan.make({**BASE, "data": {"source": "-"}})


def reordered(value):
    if isinstance(value, dict):
        return {key: reordered(value[key]) for key in reversed(value)}
    return [reordered(entry) for entry in value] if isinstance(value, list) else value


def test_digest_does_not_depend_on_the_order_of_keys_but_on_everything_else():
    plan = Plan.make(FULL)
    assert Plan.make(reordered(FULL)).digest == plan.digest
    changes = [
        {"split": "ratio:0.7"},
        {"seed": 1},
        {"cohort": 0.5},
        {"negatives": "clean"},
        {"release": FULL["release"][:1]},
        {"release": []},
        {"model": FULL["model"] | {"loss": "bce"}},
        {"data": FULL["data"] | {"source": "other.csv"}},
        {"data": FULL["data"] | {"cleaning": {"k_core": 6}}},
        {"evaluation": FULL["evaluation"] | {"every": 4}},
        {"n_max": 2001},
        {"min_clients": 2},
    ]
    digests = {Plan.make(FULL | change).digest for change in changes}
    assert len(digests | {plan.digest}) == len(changes) + 1


def with_(path, value):
    """BASE with one key changed, at a dotted path."""
    out = {key: dict(part) for key, part in BASE.items()}
    *parents, last = path.split(".")
    place = out
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return out


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        (with_("sed", 3), "'sed' is not a setting. Did you mean 'seed'"),
        (with_("data.sorce", "x"), "'data.sorce' is not a setting. Did you mean 'source'"),
        (with_("data.cleaning", {"kcore": 5}), "cleaning: 'kcore' is not a setting. Did you mean 'k_core'"),
        (with_("evaluation", {"metrcs": []}), "'evaluation.metrcs' is not a setting. Did you mean 'metrics'"),
        (with_("release", [{"step": "cap", "items": 3, "chose": 1}]), "chose' is not a setting. Did you mean 'choose'"),
        (with_("release", [{"step": "cap", "items": 0}]), "release.0.cap.items: .*greater than or equal to 1, not 0"),
        (with_("release", [{"step": "cap"}]), "release.0.cap.items: field required"),
        (with_("release", [{"step": "squash"}]), "release.0: .*'squash'.*'cap', 'weight', 'clip'"),
        (with_("release", [{"step": "clip"}]), "clip needs norm, row, or both"),
        (with_("release", [{"step": "weight"}, {"step": "cap", "items": 3}]), "the order must be cap, weight, clip"),
        (with_("model", {"name": "eese"}), "model 'eese' is not known. Did you mean 'ease'"),
        (with_("model", {"reg": 3}), "model needs a name"),
        (with_("model", {"name": "ease", "regg": 3}), "'regg' is not a setting. Did you mean 'reg'"),
        (with_("model", {"name": "mf", "rounds": 0}), "model mf: rounds: .*not 0"),
        (with_("model", "ease"), "model: .*dictionary, not 'ease'"),
        (with_("split", "ratoi:0.8"), "plan.yaml: split 'ratoi:0.8' is not known. Did you mean 'ratio'"),
        (with_("split", 3), "split: .*string, not 3"),
        (with_("evaluation", {"metrics": ["ndgc@10"]}), "plan.yaml: .*'ndgc'. Did you mean 'ndcg'"),
        (with_("evaluation", {"protocol": "sampled"}), "sampled"),
        (with_("evaluation", {"protocol": "sampled:9", "metrics": ["coverage@10"]}), "coverage.*protocol: full"),
        (with_("evaluation", {"keep": "best"}), "set evaluation.every"),
        (with_("evaluation", {"patience": 3}), "set evaluation.every"),
        (with_("evaluation", {"every": -1}), "evaluation.every: .*not -1"),
        (with_("refit", True) | {"evaluation": {"every": 1}}, "refit"),
        (with_("cohort", 0), "cohort: .*greater than 0, not 0"),
        (with_("cohort", 1.5), "cohort: .*whole number of clients, not 1.5"),
        (with_("cohort", "many"), "cohort: .*not 'many'"),
        (with_("seed", -1), "seed: .*not -1"),
        (with_("seed", 2**63), "seed: "),
        (with_("negatives", "leaky"), "negatives: .*'clean' or 'paper-leaky', not 'leaky'"),
        (with_("version", 2), "version: .*not 2"),
        (with_("min_clients", 0), "min_clients: "),
        (with_("n_max", 2**48), "n_max: "),
        ({"data": {"source": "x"}}, "model: field required"),
        ({"model": {"name": "ease"}}, "data: field required"),
        ({"data": {}, "model": {"name": "ease"}}, "data.source: field required"),
        (BASE | {1: 2}, "1: .*string"),
        (with_("privacy", {"epsilon": 4}), "delta is missing: add --delta, .*or less: 1e-06 for 100,000 users"),
        (with_("privacy", {"epsilon": 4, "users": 200}), "delta is missing: .*or less: 0.0005 for 200 users"),
        (with_("privacy", {"delta": 1e-6}), "epsilon is missing: add --epsilon"),
        ([1], "a plan must be a mapping"),
        (None, "a plan must be a mapping"),
    ],
)  # fmt: skip
def test_every_wrong_key_is_a_plan_error_that_names_it(settings_, message):
    with pytest.raises(PlanError) as caught:
        Plan.make(settings_, "plan.yaml")
    assert re.search(message, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("text", ["data: [", "\tx: 1", "a: !!python/object:os.system x", "\0"])
def test_files_that_are_not_yaml_are_plan_errors_with_a_place(tmp_path, text):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=r"plan\.yaml cannot be read"):
        Plan.read(path)


def test_missing_files_folders_and_other_encodings_are_plan_errors(tmp_path):
    with pytest.raises(PlanError, match="does not exist"):
        Plan.read(tmp_path / "plan.yaml")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.read(tmp_path)
    (tmp_path / "plan.yaml").write_bytes(b"split: \xff\xfe")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.read(tmp_path / "plan.yaml")


def test_resolving_fills_in_what_depends_on_the_data_and_is_done_once():
    data = log()
    plan = Plan.make(BASE | {"split": "temporal:0.8", "cohort": 10}).resolve(data, "abc")
    assert (plan.data.digest, plan.catalog, plan.n_max) == ("abc", data.catalog.digest, 1024)
    assert plan.split == "temporal@96.0,108.0"
    assert plan.cohort == plan.share() == 10 / 40
    assert plan.resolve(data, "abc") == plan
    assert Plan.make(yaml.safe_load(plan.to_yaml())) == plan


def test_max_clients_is_another_name_of_n_max_and_changes_neither_bytes_nor_digest():
    plan, named = (Plan.make(BASE | {key: 4096}) for key in ("n_max", "max_clients"))
    assert (named.n_max, named.digest, named.to_yaml()) == (4096, plan.digest, plan.to_yaml())
    with pytest.raises(PlanError, match="plan: n_max: the old name of this key, max_clients, is set too"):
        Plan.make(BASE | {"n_max": 4096, "max_clients": 4096})


@pytest.mark.parametrize(("users", "n_max"), [(1, 1024), (1024, 1024), (1025, 2048), (5000, 8192)])
def test_n_max_is_a_power_of_two_that_hides_the_exact_number(users, n_max):
    assert Plan.make(BASE).resolve(log(users), "d").n_max == n_max


def test_other_data_another_catalog_and_too_many_users_are_refused():
    plan = Plan.make(BASE).resolve(log(), "abc")
    with pytest.raises(PlanError, match="the digest of the data is abd…, but the plan expects abc"):
        plan.resolve(log(), "abd")
    with pytest.raises(PlanError, match="the digest of the catalog is"):
        plan.resolve(log(items=13), "abc")
    with pytest.raises(PlanError, match="40 users, more than n_max = 39"):
        Plan.make(BASE | {"n_max": 39}).resolve(log(), "abc")
    with pytest.raises(PlanError, match="'ml-100k' has no interactions left"):
        Plan.make(BASE).resolve(log(0), "abc")


@pytest.mark.parametrize(
    ("cohort", "share"), [(1, 1.0), (1.0, 1.0), (0.5, 0.5), (20, 0.5), (40, 1.0), (41, 1.0), (2.0, 0.05)]
)
def test_a_cohort_is_a_share_or_a_number_of_clients(cohort, share):
    assert Plan.make(BASE | {"cohort": cohort}).resolve(log(), "d").share() == share


def test_only_leaky_negatives_make_a_plan_leaky():
    assert Plan.make(FULL).leaky
    assert not Plan.make(BASE).leaky


def test_a_key_that_appears_twice_is_an_error(tmp_path):
    (tmp_path / "plan.yaml").write_text("data: {source: x}\nmodel: {name: ease}\nmodel: {name: mf}\n")
    with pytest.raises(PlanError, match="line 1: key 'model' appears more than once"):
        Plan.read(tmp_path / "plan.yaml")


def test_an_unknown_key_is_named_before_a_missing_one():
    with pytest.raises(PlanError, match=r"itms.*Did you mean 'items'"):
        Plan.make({"data": {"source": "x"}, "model": {"name": "ease"}, "release": [{"step": "cap", "itms": 3}]})

"""`fedrec node init` and `fedrec node check`: an owner reads in words what would be allowed, and nothing secret."""

from __future__ import annotations

import json
import os
import sqlite3
import tomllib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Said
from fedrec.owner.config import NodeConfig
from fedrec.privacy.accounting import epsilon_of
from fedrec.record.keys import PublicKey, SigningKey
from owners_in_test import KEYS

Call = Callable[..., Said]
CLICKS = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user + step) % 23},{1_600_000_000 + 60 * user + step}\n"
    for user in range(1, 61)
    for step in range(1, 8)
)
PLAN: dict[str, Any] = {"data": {"source": "elsewhere.csv"}, "model": {"name": "ease"}, "n_max": 4096}


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Call) -> Path:
    """A folder with clicks.csv and the node.toml of shop-a, which knows its coordinator and two other shops."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clicks.csv").write_text(CLICKS)
    said = fedrec("node", "init", "shop-a", "--data", "clicks.csv", "--coordinator", KEYS["coordinator"],
                  "--party", KEYS["shop-b"], "--party", KEYS["shop-c"], "--allow-without-privacy")  # fmt: skip
    assert said.code == 0, said.err
    return tmp_path


def wrote(folder: Path, **changes: Any) -> str:
    (folder / "plan.yaml").write_text(yaml.safe_dump({**PLAN, **changes}))
    return "plan.yaml"


def edited(folder: Path, *pairs: tuple[str, str]) -> None:
    path = folder / "node.toml"
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def answer(said: Said) -> dict[str, Any]:
    assert said.out.count("\n") == 1
    value = json.loads(said.out)
    assert isinstance(value, dict)
    return value


def flat(said: Said) -> str:
    return " ".join(said.out.split())


def test_a_new_node_is_told_what_to_send_and_how(tmp_path, monkeypatch, fedrec):
    monkeypatch.chdir(tmp_path)
    said = fedrec(
        "node", "init", "shop-a", "--data", "clicks.csv", "--columns", "user_id=customer", "--on-error", "skip"
    )
    assert said.code == 0
    public = SigningKey.load("shop-a", tmp_path / "shop-a-home" / "identity.key").public()
    assert str(public) in said.out
    assert "not through the coordinator" in flat(said)
    config = NodeConfig.read(tmp_path / "node.toml")
    assert config.data.reading() == {"columns": {"user_id": "customer"}, "on_error": "skip"}
    again = fedrec("node", "init", "shop-a", "--data", "clicks.csv")
    assert (again.code, again.out) == (2, "")
    assert "node.toml exists already" in again.err


def test_a_new_node_takes_part_in_private_plans_only_unless_its_owner_says_otherwise(tmp_path, monkeypatch, fedrec):
    monkeypatch.chdir(tmp_path)
    said = fedrec("node", "init", "a", "--data", "clicks.csv", "--config", "a.toml")
    assert NodeConfig.read(tmp_path / "a.toml").privacy.required
    assert "Only plans with differential privacy are allowed" in flat(said)
    assert "privacy.required" not in flat(fedrec("node", "check", "--config", "a.toml", "--no-data")).lower()
    said = fedrec("node", "init", "b", "--data", "clicks.csv", "--config", "b.toml", "--allow-without-privacy")
    assert not NodeConfig.read(tmp_path / "b.toml").privacy.required
    assert "Plans without differential privacy are allowed: their sums are exact" in flat(said)
    assert "privacy.required is false" in flat(fedrec("node", "check", "--config", "b.toml", "--no-data")).lower()


def test_an_owner_hears_that_own_numbers_do_not_fit_the_data(owner, fedrec):
    edited(owner, ("# vouch = 20 ", "vouch = 61 "), ("# most_clients = 100000", "most_clients = 59"))
    care = answer(fedrec("node", "check", "--json"))["cautions"]
    assert "the data has 60 users, and in private secure sums the node vouches for 61" in " ".join(care)
    assert "policy.most_clients: the data has 60 users" in " ".join(care)
    edited(owner, ("vouch = 61 ", "vouch = 60 "), ("most_clients = 59", "most_clients = 60"))
    care = answer(fedrec("node", "check", "--json"))["cautions"]
    assert "the data has 60 users" not in " ".join(care)


def test_an_owners_cleaning_across_users_is_told_and_private_plans_are_refused_for_it(owner, fedrec):
    edited(owner, ('source = "clicks.csv"', 'source = "clicks.csv"\ncleaning = { k_core = 2 }'))
    private = {"epsilon": 2.0, "delta": 1e-6, "users": 4000, "noise": "distributed"}
    said = fedrec("node", "check", "--plan", wrote(owner, privacy=private))
    assert said.code == 2
    assert "Data.cleaning (k_core) looks across users, so every plan with privacy is refused" in flat(said)
    assert (
        "this node's own cleaning (k_core) looks across users, so that one user's absence would change other"
        in flat(said)
    )
    assert fedrec("node", "check", "--plan", wrote(owner)).code == 0


def test_init_answers_one_json_object(tmp_path, monkeypatch, fedrec):
    monkeypatch.chdir(tmp_path)
    said = fedrec("node", "init", "n", "--data", "ml-100k", "--home", "h", "--config", "c.toml", "--json")
    found = answer(said)
    assert PublicKey.parse(found["public_key"]).name == found["node"] == "n"
    assert (found["config"], found["home"]) == ("c.toml", "h")


def test_an_owner_reads_whose_orders_what_leaves_and_what_is_left(owner, fedrec):
    said = fedrec("node", "check")
    assert (said.code, said.err) == (0, "")
    text = flat(said)
    hashes = {name: PublicKey.parse(key).hash.hex() for name, key in KEYS.items()}
    for words in (
        f"Whose orders: those of coordinator (key {hashes['coordinator']}) and of nobody else",
        f"In whose company: shop-b (key {hashes['shop-b']}), shop-c (key {hashes['shop-c']}) may be",
        f"What is read: {owner}/clicks.csv, and nothing else",
        "covers 32 users or more. They leave masked only",
        "What never leaves it: interactions, the ids of users",
        "users lose epsilon 8 at most, but for a chance of delta = 1e-06. No private run took place so far",
        "users 60", "interactions 420", "malformed rows 0",
        "Privacy.required is false: plans that promise users nothing are allowed, and from exact sums one can",
        "and such runs cost nothing of the budget",
        "The coordinator may open 100 runs a day",
    ):  # fmt: skip
        assert words in text, words
    assert SigningKey.load("shop-a", owner / "shop-a-home" / "identity.key").secret.hex() not in text


def test_checking_changes_nothing(owner, fedrec):
    before = {path: path.stat().st_mtime_ns for path in sorted(owner.rglob("*"))}
    assert fedrec("node", "check").code == 0
    assert {path: path.stat().st_mtime_ns for path in sorted(owner.rglob("*"))} == before


def test_a_plan_is_allowed_or_refused_with_every_reason(owner, fedrec):
    said = fedrec("node", "check", "--plan", wrote(owner))
    assert said.code == 0
    assert "plan.yaml, with secure aggregation, digest " in said.out
    assert "This node would accept exactly this plan" in said.out
    said = fedrec("node", "check", "--plan", wrote(owner, min_clients=8, negatives="paper-leaky"))
    assert said.code == 2
    assert "This node would refuse the plan, for 2 reasons:\n- policy.allow_leaky: " in said.out
    assert "- policy.min_clients: the plan lets out sums over 8 clients; the floor is 32." in flat(said)
    said = fedrec("node", "check", "--plan", wrote(owner), "--plain")
    assert said.code == 2
    assert "plan.yaml, with plain sums" in said.out
    assert "for 1 reason:\n- policy.secure: " in said.out


def test_json_says_the_same(owner, fedrec):
    said = fedrec("node", "check", "--plan", wrote(owner, split="temporal:0.8"), "--json")
    assert (said.code, said.err) == (2, "")
    found = answer(said)
    assert (found["node"], found["data"]["users"], found["data"]["interactions"]) == ("shop-a", 60, 420)
    assert PublicKey.parse(found["public_key"]).name == "shop-a"
    assert [text.partition(":")[0] for text in found["plan"]["refusals"]] == ["split"]
    assert (found["plan"]["allowed"], found["plan"]["secure"]) == (False, True)
    assert len(found["words"]) == 9
    assert found["budget"] == {
        "limits": {"epsilon": 8.0, "delta": 1e-6, "min_noise_multiplier": None, "max_clip": None}, "spent": 0.0,
        "runs": [],
    }  # fmt: skip
    allowed = answer(fedrec("node", "check", "--plan", wrote(owner), "--json"))["plan"]
    assert (allowed["allowed"], allowed["refusals"]) == (True, [])
    edited(owner, ("plans = []", f'plans = ["{allowed["digest"]}"]'))
    assert fedrec("node", "check", "--plan", wrote(owner), "--no-data").code == 0
    assert fedrec("node", "check", "--plan", wrote(owner, seed=1), "--no-data").code == 2


def test_what_a_plan_leaves_open_is_said(owner, fedrec):
    found = answer(fedrec("node", "check", "--plan", wrote(owner, n_max=None, catalog="ab" * 32), "--json"))
    assert [text.partition(",")[0] for text in found["plan"]["open"]] == ["n_max"]
    private = {"epsilon": 2.0, "delta": 1e-6, "noise": "distributed"}
    found = answer(fedrec("node", "check", "--plan", wrote(owner, privacy=private), "--json"))
    heads = [text.partition(",")[0] for text in found["plan"]["open"]]
    assert heads == ["catalog", "privacy.users", "privacy.noise_multiplier"]


def test_the_size_of_the_data_counts_where_sums_leave_in_the_clear(owner, fedrec):
    edited(owner, ("secure = true", "secure = false"))
    plan = wrote(owner, cohort=0.5)
    said = fedrec("node", "check", "--plan", plan)
    assert said.code == 2
    assert "draws fewer than 32 of this node's users" in flat(said)
    assert fedrec("node", "check", "--plan", plan, "--no-data").code == 0
    assert fedrec("node", "check", "--plan", plan, "--secure").code == 0


def test_a_database_is_described_wherever_the_check_is_started(tmp_path, monkeypatch, fedrec):
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("shop.db")) as database:
        database.execute("create table clicks (user_id text, item_id text, timestamp integer)")
        rows = [(f"u{user}", f"i{(user + step) % 23}", 60 * user + step) for user in range(60) for step in range(7)]
        database.executemany("insert into clicks values (?, ?, ?)", [*rows, ("u1", None, 3)])
        database.commit()
    (tmp_path / "etc").mkdir()
    source = "sqlite:///shop.db?table=clicks"
    assert fedrec("node", "init", "shop-a", "--data", source, "--config", "etc/node.toml").code == 0
    monkeypatch.chdir(tmp_path / "etc")
    said = fedrec("node", "check", "--json")
    found = answer(said)["data"]
    assert (found["users"], found["interactions"], found["malformed_rows"]) == (60, 420, 1)
    assert found["left_out"] == {"item_id is missing": 1}
    assert said.code == 2
    edited(tmp_path / "etc", ("?table=clicks", ""), ("[data] ", '[data]\ntable = "clicks"\non_error = "skip"'))
    said = fedrec("node", "check")
    assert said.code == 0, said.out
    assert f"What is read: table clicks of sqlite:///{tmp_path}/shop.db, and nothing else" in flat(said)


def test_without_data_none_is_read(owner, fedrec):
    (owner / "clicks.csv").unlink()
    said = fedrec("node", "check", "--no-data", "--json")
    assert said.code == 0
    assert answer(said)["data"] is None
    said = fedrec("node", "check", "--json")
    assert said.code == 2
    assert "no such file" in answer(said)["data"]["cannot_be_read"]


def test_malformed_rows_are_counted_and_what_training_would_do_is_said(owner, fedrec):
    (owner / "clicks.csv").write_text(CLICKS + "u1,i1,yesterday\n,i2,1600000000\n")
    said = fedrec("node", "check", "--json")
    found = answer(said)["data"]
    assert (said.code, found["interactions"], found["malformed_rows"]) == (2, 420, 2)
    assert sum(found["left_out"].values()) == 2
    assert "stop at the first malformed row" in found["training"]
    edited(owner, ('source = "clicks.csv"', 'source = "clicks.csv"\non_error = "skip"'))
    said = fedrec("node", "check", "--json")
    assert (said.code, answer(said)["data"]["malformed_rows"]) == (0, 2)
    assert "training" not in answer(said)["data"]


def test_the_digest_is_said_and_held_to_the_one_that_the_owner_named(owner, fedrec):
    digest = answer(fedrec("node", "check", "--json"))["data"]["digest"]
    assert digest == answer(fedrec("data", "describe", "clicks.csv", "--json"))["digest"]
    edited(owner, ('source = "clicks.csv"', f'source = "clicks.csv"\ndigest = "{digest}"'))
    said = fedrec("node", "check", "--json")
    assert (said.code, "training" in answer(said)["data"]) == (0, False)
    (owner / "clicks.csv").write_text(CLICKS + "u1,i22,1600000000\n,i2,1600000000\n")
    said = fedrec("node", "check", "--json")
    found = answer(said)["data"]
    assert said.code == 2
    assert f"data.digest in node.toml is {digest}" in found["training"]
    assert "stop at the first malformed row" in found["training"]
    assert "not the digest of this data" in flat(fedrec("node", "check"))


def test_private_runs_and_what_they_cost_are_listed(owner, fedrec):
    budget = NodeConfig.read(owner / "node.toml").open_budget()
    for number, noise in enumerate((4.0, 3.0)):
        run = f"{number}" * 32
        budget.begin(run, "shop-a", {"rounds": 2}, [noise, noise], None, None)
        budget.charge(run, "shop-a", 0, noise, "call")
    budget.charge("1" * 32, "shop-a", 1, 3.0, "call")
    said = fedrec("node", "check", "--json")
    runs = answer(said)["budget"]["runs"]
    assert [(run["answered"], run["rounds"]) for run in runs] == [(1, 2), (2, 2)]
    for run, noise in zip(runs, (4.0, 3.0), strict=True):
        assert run["epsilon"] == pytest.approx(epsilon_of(noise / 2**0.5, 1e-6, 1), rel=1e-3)
    whole = epsilon_of((2 / 16 + 2 / 9) ** -0.5, 1e-6, 1)
    assert answer(said)["budget"]["spent"] == pytest.approx(whole, rel=1e-3)
    shown = flat(fedrec("node", "check", "--no-data"))
    assert f"2 private runs took place so far; epsilon {whole:.4g} is spent and {8 - whole:.4g} is left" in shown
    assert "1 of 2" in shown
    assert "2 of 2" in shown


def test_other_limits_than_the_budget_began_with_stop_the_check(owner, fedrec):
    NodeConfig.read(owner / "node.toml").open_budget()
    edited(owner, ("epsilon = 8.0 ", "epsilon = 80.0 "))
    said = fedrec("node", "check")
    assert (said.code, said.out) == (2, "")
    assert "epsilon 8.0, now 80.0" in said.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("secure = true ", "secure = false ", "policy.secure is false"),
        ("distributed = true ", "distributed = false ", "the one who adds the noise"),
        (f'    "{KEYS["shop-b"]}",\n', "", "policy.parties has 2"),
    ],
)
def test_what_an_owner_may_not_have_meant_is_pointed_out(owner, fedrec, old, new, says):
    edited(owner, (old, new))
    care = answer(fedrec("node", "check", "--no-data", "--json"))["cautions"]
    assert any(says in text for text in care), care


def test_open_folders_and_missing_keys_are_pointed_out(owner, fedrec):
    os.chmod(owner / "shop-a-home", 0o755)
    identity = owner / "shop-a-home" / "identity.key"
    public = str(SigningKey.load("shop-a", identity).public())
    identity.unlink()
    care = answer(fedrec("node", "check", "--no-data", "--json"))["cautions"]
    assert any("identity.key is not there" in text for text in care)
    assert any("shop-a-home may be read by others; chmod 700" in text for text in care)
    other = SigningKey.make("shop-a", identity).public()
    care = answer(fedrec("node", "check", "--no-data", "--json"))["cautions"]
    assert any(f"lacks this node's own key, {other}" in text for text in care)
    assert public != str(other)


def test_a_node_that_pins_nobody_says_that_it_obeys_nobody(tmp_path, monkeypatch, fedrec):
    monkeypatch.chdir(tmp_path)
    fedrec("node", "init", "shop-a", "--data", "synthetic:users=90")
    said = fedrec("node", "check", "--plan", wrote(tmp_path), "--no-data")
    assert said.code == 2
    text = flat(said)
    assert "Whose orders: nobody's." in text
    assert "In whose company: nobody's." in text
    assert "policy.coordinator: none is pinned, so nobody's orders are taken." in text


def test_no_password_is_printed_anywhere(owner, fedrec):
    url = "postgresql://reader:pike/tr@out@127.0.0.1:1/shop?table=clicks"
    edited(owner, ('source = "clicks.csv"', f'source = "{url}"'))
    os.chmod(owner / "node.toml", 0o644)
    for options in ((), ("--json",), ("--no-data",), ("--no-data", "--json")):
        said = fedrec("node", "check", *options)
        assert "pike" not in said.out + said.err
        assert "out@" not in said.out + said.err
    assert tomllib.loads((owner / "node.toml").read_text())["data"]["source"] == url


def test_a_wrong_file_ends_with_two_and_names_the_key(owner, fedrec):
    edited(owner, ("min_clients = 32 ", "min_cleints = 32 "))
    said = fedrec("node", "check")
    assert (said.code, said.out) == (2, "")
    assert "node.toml: 'policy.min_cleints' is not a setting. Did you mean 'min_clients'?" in said.err
    said = fedrec("node", "check", "--config", "nothing.toml")
    assert said.code == 2
    assert "fedrec node init" in said.err
    said = fedrec("node", "check", "--config", "clicks.csv")
    assert said.code == 2
    assert "clicks.csv is not TOML" in said.err


def test_rows_outside_the_agreed_catalog_are_counted(owner: Path, fedrec: Call) -> None:
    (owner / "items.csv").write_text("item_id\n" + "".join(f"i{item}\n" for item in range(20)))
    found = answer(fedrec("node", "check", "--catalog", "items.csv", "--json"))["data"]["outside_the_catalog"]
    outside = [line for line in CLICKS.splitlines()[1:] if line.split(",")[1] in ("i20", "i21", "i22")]
    assert (found["rows"], found["of"], found["items"]) == (len(outside), 420, 3)
    assert sorted(found["such_as"]) == ["i20", "i21", "i22"]
    said = " ".join(fedrec("node", "check", "--catalog", "items.csv").out.split())
    assert f"outside the catalog rows {len(outside)}, of 420, items 3" in said
    unasked = answer(fedrec("node", "check", "--json"))["data"]["outside_the_catalog"]
    assert unasked == "not counted; give the agreed catalog with --catalog"


def test_a_pinned_catalog_is_asked_for_and_another_one_is_named(owner: Path, fedrec: Call) -> None:
    (owner / "items.csv").write_text("item_id\n" + "".join(f"i{item}\n" for item in range(23)))
    (owner / "others.csv").write_text("item_id\ni1\n")
    (owner / "node.toml").unlink()
    assert fedrec("node", "init", "shop-a", "--data", "clicks.csv", "--catalog", "items.csv", "--coordinator",
                  KEYS["coordinator"], "--home", "another").code == 0  # fmt: skip
    found = answer(fedrec("node", "check", "--json"))["data"]
    assert found["outside_the_catalog"] == "not counted; give the agreed catalog with --catalog"
    whole = answer(fedrec("node", "check", "--catalog", "items.csv", "--json"))
    assert whole["data"]["outside_the_catalog"]["rows"] == 0
    assert not any("policy.catalogs" in text for text in whole["cautions"])
    other = answer(fedrec("node", "check", "--catalog", "others.csv", "--json"))
    assert any("policy.catalogs in node.toml does not allow" in text for text in other["cautions"])

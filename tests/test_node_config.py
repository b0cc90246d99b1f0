"""`node.toml`: read as it was written, wrong keys named, nothing secret shown; threads, memory and the budget."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings
from threadpoolctl import threadpool_info

from fedrec.data.reading.catalogs import read_catalog
from fedrec.errors import DamagedError, InputError, PlanError
from fedrec.federation.data_plan import DataPlan
from fedrec.kernels.threads import thread_count
from fedrec.owner.config import NodeConfig, redacted
from fedrec.owner.limits import ResourceLimits
from fedrec.owner.new_node import first_config, make_node
from fedrec.privacy.budget import Budget, Limits
from fedrec.record.keys import COSIGNATURE, SigningKey
from owners_in_test import KEYS, PARTIES, SECRETS, owned

WHOLE = f"""
name = "shop-a"
home = "shop-a-home"
[data]
source = "clicks.parquet"
on_error = "skip"
columns = {{ user_id = "customer", item_id = "sku" }}
[data.cleaning]
rating_at_least = 4
[policy]
coordinator = "{KEYS["coordinator"]}"
parties = ["{KEYS["shop-a"]}", "{KEYS["shop-b"]}", "{KEYS["shop-c"]}"]
plans = ["{"ab" * 32}"]
models = ["ease", "mf"]
min_clients = 64
secure = true
min_item_clients = 5
[privacy]
required = true
distributed = true
epsilon = 8.0
delta = 1e-6
max_run_epsilon = 4.0
min_noise_multiplier = 0.5
max_clip = 2.0
min_cohort = 100
[limits]
threads = 2
memory_gb = 4
"""


def read(folder: Path, text: str) -> NodeConfig:
    (folder / "node.toml").write_text(text, encoding="utf-8")
    return NodeConfig.read(folder / "node.toml")


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    config = read(tmp_path, WHOLE)
    assert (config.name, config.home) == ("shop-a", tmp_path / "shop-a-home")
    assert config.data.source == str(tmp_path / "clicks.parquet")
    assert config.data.reading() == {"on_error": "skip", "columns": {"user_id": "customer", "item_id": "sku"}}
    assert config.data.cleaning.rating_at_least == 4
    assert config.policy.coordinator == KEYS["coordinator"]
    assert config.policy.parties == PARTIES
    assert (config.policy.plans, config.policy.models) == (("ab" * 32,), ("ease", "mf"))
    assert (config.policy.min_clients, config.policy.secure, config.policy.min_item_clients) == (64, True, 5)
    assert config.privacy.limits == Limits(8.0, 1e-6, 0.5, 2.0)
    assert config.limits == ResourceLimits(threads=2, memory_gb=4)
    assert config.identity_path.parent == config.budget_path.parent == config.home
    assert config.pinned == {SECRETS[name].public().key for name in ("shop-a", "shop-b", "shop-c")}


def test_old_names_of_keys_are_read_and_a_key_under_both_names_is_an_error():
    policy = owned(policy={"most_clients": 500, "vouch": 12}).policy
    assert (policy.max_clients, policy.declared_min_users) == (500, 12)
    assert policy == owned(policy={"max_clients": 500, "declared_min_users": 12}).policy
    for old, new in (("most_clients", "max_clients"), ("vouch", "declared_min_users")):
        with pytest.raises(PlanError, match=rf"policy\.{new}: the old name of this key, {old}, is set too"):
            owned(policy={old: 500, new: 500})


def test_what_is_not_said_is_safe():
    config = owned(policy={})
    assert config.policy.coordinator is None
    assert (config.policy.min_clients, config.policy.allow_leaky, config.policy.allow_updates) == (32, False, False)
    assert config.privacy.limits is None


@pytest.mark.parametrize(
    ("source", "becomes"),
    [
        ("clicks.csv", "/srv/shop/clicks.csv"),
        ("../data/day.parquet", "/srv/data/day.parquet"),
        ("/mnt/clicks", "/mnt/clicks"),
        ("./ml-100k", "/srv/shop/ml-100k"),
        ("ml-100k", "ml-100k"),
        ("amazon-kg/books", "amazon-kg/books"),
        ("synthetic:users=40", "synthetic:users=40"),
        ("postgresql://ann@db.example/shop?table=clicks", "postgresql://ann@db.example/shop?table=clicks"),
        ("sqlite:///shop.db?table=a/b", "sqlite:////srv/shop/shop.db?table=a/b"),
        ("sqlite:////var/shop.db?table=clicks", "sqlite:////var/shop.db?table=clicks"),
    ],
)
def test_paths_are_relative_to_the_file_and_nothing_else_is_a_path(source, becomes):
    assert owned(data={"source": source}).data.source == becomes


WRONG = [
    ('name = "shop a"', "name: node 'shop a': use at most 63 lower-case letters, digits and hyphens"),
    ('name = "Shop_B"', "name: node 'Shop_B': use at most 63 lower-case letters"),
    (f'name = "{"a" * 64}"', "use at most 63"),
    ('name = "server"', "name: node 'server': this name is reserved for the coordinator; choose another name"),
    ('naem = "shop-a"', "'naem' is not a setting. Did you mean 'name'?"),
    ("home = 3", "home: input is not a valid path"),
    ('home = "a\\u0000b"', "home: a path cannot contain a zero byte"),
    ('[data]\nsource = "memory"', "data.source: 'memory' cannot be read; name a file"),
    ('[data]\nsource = "a.csv"\ncatalog = "i.csv"', "data.catalog: the items of a federation come with its plan"),
    ('[data]\nsource = "x"\nsorce = "y"', "'data.sorce' is not a setting. Did you mean 'source'?"),
    ('data = "clicks.csv"', "node.toml: data: "),
    ('[policy]\ncoordinator = "coordinator"', "policy.coordinator: not a public key"),
    (f'[policy]\nparties = ["{KEYS["eve"]}x"]', "policy.parties, number 1: not a public key"),
    (f'[policy]\nparties = ["{KEYS["eve"]}", "{KEYS["eve"]}"]', "have the same key; list each node once"),
    ("[policy]\nparties = 7", "policy.parties: input should be a valid tuple"),
    ('[policy]\nplans = ["AB"]', "policy.plans, number 1: a digest has 64 hexadecimal digits"),
    ('[policy]\nmodels = ["eese"]', "policy.models: there is no model 'eese'. Did you mean 'ease'?"),
    ("[policy]\nmin_clients = 1", "policy.min_clients: input should be greater than or equal"),
    ("[policy]\nmin_clinets = 8", "'policy.min_clinets' is not a setting. Did you mean"),
    ('[policy]\nsecure = "maybe"', "policy.secure: input should be a valid boolean"),
    ("[privacy]\nepsilon = 3.0", "privacy.delta: epsilon needs a delta"),
    ("[privacy]\nepsilon = 3.0\ndelta = 1.0", "privacy.delta: input should be less than 1"),
    ("[privacy]\nepsilon = inf\ndelta = 1e-6", "privacy.epsilon: input should be a finite number"),
    ("[privacy]\nrequired = true", "privacy.required: without a maximum epsilon"),
    ("[privacy]\nmax_clip = 1.0", "privacy.max_clip: this key is part of the privacy budget"),
    (
        "[privacy]\nepsilon = 3.0\nmax_run_epsilon = 4.0\ndelta = 1e-6",
        "privacy.max_run_epsilon: 4 for one run is more than privacy.epsilon, 3 for all runs",
    ),
    ("[privacy]\nnoise = 3", "'privacy.noise' is not a setting"),
    ("[limits]\nthreads = 0", "limits.threads: input should be greater than or equal to 1"),
    ("[limits]\nmemory_gb = nan", "limits.memory_gb: input should be"),
    ("[limits]\nmemory = 4", "'limits.memory' is not a setting. Did you mean 'memory_gb'?"),
]


def file_with(text: str) -> str:
    """A small configuration in which some lines, or a table, are `text`."""
    parts = {"name": 'name = "shop-a"', "home": 'home = "home"', "data": '[data]\nsource = "clicks.csv"'}
    kept = [part for name, part in parts.items() if not text.startswith((f"{name} =", f"[{name}]"))]
    return "\n".join([*kept, text] if text.startswith("[") else [text, *kept])


@pytest.mark.parametrize(("text", "says"), WRONG)
def test_an_error_names_file_table_and_key(tmp_path, text, says):
    with pytest.raises(PlanError) as raised:
        read(tmp_path, file_with(text))
    assert str(raised.value).startswith(f"{tmp_path / 'node.toml'}: ")
    assert says in str(raised.value)


def test_a_coordinator_is_no_party_and_a_name_stands_for_one_key():
    with pytest.raises(PlanError, match="contains the coordinator's key"):
        owned(policy__parties=[*PARTIES, KEYS["coordinator"]])
    other = str(SigningKey("shop-b", b"?" * 32).public())
    with pytest.raises(PlanError, match="shop-b and shop-b have the same name"):
        owned(policy__parties=[*PARTIES, other])
    witness = str(SECRETS["shop-b"].public(COSIGNATURE))
    with pytest.raises(PlanError, match="have the same key"):
        owned(policy__parties=[*PARTIES, witness])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"name = ", "is not TOML"),
        (b'name = "a"\nname = "b"\n', "is not TOML"),
        (b"\xff\xfe", "is not TOML"),
        (b"x = " + b"[" * 20_000, "is not TOML"),
        (b"#" * (2 << 20), "longer than the allowed 1,048,576 bytes"),
    ],
)
def test_what_is_no_toml_is_said_to_be_none(tmp_path, data, says):
    (tmp_path / "node.toml").write_bytes(data)
    with pytest.raises(PlanError, match=says):
        NodeConfig.read(tmp_path / "node.toml")


def test_a_missing_file_says_how_to_make_one(tmp_path):
    for path in (tmp_path / "node.toml", tmp_path):
        with pytest.raises(PlanError, match="fedrec node init NAME"):
            NodeConfig.read(path)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_damaged_file_is_a_configuration_or_a_plan_error_and_nothing_else(tmp_path_factory, data):
    text = bytearray(WHOLE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        piece = data.draw(st.binary(max_size=4) | st.sampled_from([b"\n", b'"', b"[", b"= {", b"1e999", b"\\u0000"]))
        text[place : place + data.draw(st.integers(0, 40))] = piece
    path = tmp_path_factory.getbasetemp() / "damaged.toml"
    path.write_bytes(bytes(text))
    said = str(path)
    try:
        assert NodeConfig.read(path).home.is_absolute()
    except PlanError as error:
        said = str(error)
    assert said.startswith(str(path))


SECRET = SECRETS["shop-a"].secret.hex()


@pytest.mark.parametrize(
    "text",
    [
        f'[policy]\ncoordinator = "{SECRET}"',
        f'[policy]\nparties = ["{SECRET}"]',
        f'[policy]\nplans = ["x{SECRET}"]',
        f'[policy]\nmodels = ["{SECRET}"]',
        'data = "postgresql://ann:swordfish@db.example/shop"',
        'data = "postgresql://ann:sword/fish@pike@db.example/shop"',
        '[data]\nsource = 3\nquery2 = "x"\nformat = ["postgresql://ann:swordfish@db"]',
        'data = "host=db.example password=swordfish"',
        "data = \"host=db password='sword fish'\"",
        f'name = "{SECRET}+"',
    ],
)
def test_errors_show_no_secret(tmp_path, text):
    with pytest.raises(PlanError) as raised:
        read(tmp_path, file_with(text))
    for secret in (SECRET, "swordfish", "sword/fish", "sword fish", "pike"):
        assert secret not in str(raised.value)


@given(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text("abcXYZ:@/%#'\"!ü", min_size=1, max_size=12))
def test_no_password_of_a_url_is_left(user, password):
    shown = redacted(f"cannot open postgresql://{user}:{password}@db.example:5432/shop now")
    assert shown == f"cannot open postgresql://{user}:…@db.example:5432/shop now"


# --- a new node -------------------------------------------------------------------------------------------------------

_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=9
)


@settings(deadline=None)
@given(_TEXT, _TEXT, st.dictionaries(_TEXT, _TEXT, max_size=2))
@example('a"b\\', "\x7f\t\n", {'"': "'"})
def test_any_path_and_column_survive_the_first_configuration(home, source, columns):
    text = first_config("shop-a", home, {"source": source, "columns": columns}, KEYS["coordinator"], PARTIES)
    read_back = tomllib.loads(text)
    assert (read_back["home"], read_back["data"]) == (home, {"source": source, "columns": columns})
    assert read_back["policy"]["parties"] == list(PARTIES)


def test_a_new_node_pins_itself_obeys_nobody_and_lets_nothing_out_unmasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    public = make_node("shop-a", Path("etc/node.toml"), Path("etc/home"), DataPlan(source="clicks.csv"))
    config = NodeConfig.read(Path("etc/node.toml"))
    assert config.data.source == str(tmp_path / "clicks.csv")
    assert config.home == tmp_path / "etc" / "home"
    assert 'home = "home"' in Path("etc/node.toml").read_text(encoding="utf-8"), "it may be moved with its folder"
    assert SigningKey.load("shop-a", config.identity_path).public() == public
    assert config.policy.parties == (str(public),)
    assert config.policy.coordinator is None
    assert config.policy.secure
    assert config.privacy.distributed
    for path in (Path("etc/node.toml"), config.identity_path, config.home):
        assert path.stat().st_mode & 0o077 == 0


def test_what_was_agreed_on_is_in_the_first_configuration(tmp_path, fedrec):
    (tmp_path / "items.csv").write_text("item_id\n1\n2\n3\n")
    place = tmp_path / "node.toml"
    fedrec("node", "init", "shop-a", "--data", "ml-100k", "--config", str(place), "--home", str(tmp_path / "home"),
           "--catalog", str(tmp_path / "items.csv"), "--max-clients", "500")  # fmt: skip
    policy = NodeConfig.read(place).policy
    assert policy.catalogs == (read_catalog(tmp_path / "items.csv").digest,)
    (tmp_path / "named.csv").write_text("item_id,title\n1,One\n2,Two\n")
    fedrec("node", "init", "shop-b", "--data", "ml-100k", "--config", str(tmp_path / "b.toml"), "--home",
           str(tmp_path / "b"), "--catalog", str(tmp_path / "named.csv"))  # fmt: skip
    named = read_catalog(tmp_path / "named.csv")
    assert NodeConfig.read(tmp_path / "b.toml").policy.catalogs == (named.digest, named.features_digest)
    assert policy.max_clients == 500
    assert policy.declared_min_users is None
    said = fedrec("node", "check", "--config", str(place), "--no-data").out
    assert "The plan must use the agreed catalog" in " ".join(said.split())
    assert "at least 500 users of all nodes together" in " ".join(said.split())


def test_the_old_name_of_an_option_is_accepted_and_not_shown(tmp_path, fedrec):
    place = tmp_path / "node.toml"
    fedrec("node", "init", "shop-a", "--data", "ml-100k", "--config", str(place), "--home", str(tmp_path / "home"),
           "--most-clients", "500")  # fmt: skip
    assert NodeConfig.read(place).policy.max_clients == 500
    assert "most-clients" not in fedrec("node", "init", "--help").out


def test_a_node_keeps_its_key_and_its_configuration(tmp_path):
    place, home, data = tmp_path / "node.toml", tmp_path / "home", DataPlan(source="ml-100k")
    first = make_node("shop-a", place, home, data, KEYS["coordinator"], [KEYS["shop-b"]])
    assert NodeConfig.read(place).policy.parties == (str(first), KEYS["shop-b"])
    with pytest.raises(InputError, match="exists already and is not overwritten"):
        make_node("shop-a", place, home, data)
    place.unlink()
    assert make_node("shop-a", place, home, data, parties=[str(first)]) == first
    assert NodeConfig.read(place).policy.parties == (str(first),)


@pytest.mark.parametrize(
    ("name", "coordinator", "parties"),
    [
        ("shop a", None, []),
        ("Shop_B", None, []),
        ("shop-a", "nobody", []),
        ("shop-a", None, ["x"]),
        ("shop-a", KEYS["eve"], [KEYS["eve"]]),
    ],
)
def test_a_wrong_word_makes_nothing(tmp_path, name, coordinator, parties):
    with pytest.raises(PlanError):
        make_node(name, tmp_path / "node.toml", tmp_path / "home", DataPlan(source="x"), coordinator, parties)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be created"):
        make_node("shop-a", tmp_path / "node.toml", tmp_path / "file" / "home", DataPlan(source="x"))
    with pytest.raises(InputError, match="cannot be created"):
        make_node("shop-a", tmp_path / "no" / "node.toml", tmp_path / "home", DataPlan(source="x"))


# --- the budget -------------------------------------------------------------------------------------------------------

BUDGET = {"epsilon": 8.0, "delta": 1e-6, "max_clip": 2.0}


def test_the_budget_keeps_the_owners_limits_over_restarts(tmp_path):
    config = owned(tmp_path, privacy=BUDGET)
    assert config.read_budget().limits == Limits(8.0, 1e-6, None, 2.0)
    assert list(tmp_path.iterdir()) == [], "looking makes nothing"
    config.open_budget().begin("run", "shop-a", {}, [2.0], None, None)
    assert config.home.stat().st_mode & 0o077 == 0
    for again in (config.open_budget(), config.read_budget()):
        assert again.limits == config.privacy.limits
        assert again.spent("shop-a") == 0.25


def test_other_limits_than_the_journal_began_with_are_refused(tmp_path):
    owned(tmp_path, privacy=BUDGET).open_budget()
    for privacy in ({**BUDGET, "epsilon": 9.0}, {}):
        for opened in (owned(tmp_path, privacy=privacy).open_budget, owned(tmp_path, privacy=privacy).read_budget):
            with pytest.raises(PlanError, match=r"the limits in node\.toml differ .*: epsilon 8\.0, now"):
                opened()


def test_limits_that_come_later_count_what_was_spent_before(tmp_path):
    owned(tmp_path).open_budget().begin("run", "shop-a", {}, [0.5], None, None)
    config = owned(tmp_path, privacy=BUDGET)
    before = config.budget_path.read_bytes()
    assert config.read_budget().epsilon("shop-a") == config.read_budget().epsilon("shop-a", 0.0) > 8.0
    assert config.budget_path.read_bytes() == before, "looking writes nothing"
    with pytest.raises(PlanError, match="over all runs is 8"):
        config.open_budget().begin("next", "shop-a", {}, [5.0], None, None)
    assert Budget(config.budget_path).limits == config.privacy.limits


def test_a_node_that_is_renamed_has_spent_what_it_has_spent(tmp_path):
    owned(tmp_path, privacy=BUDGET).open_budget().begin("run", "shop-a", {}, [2.0], None, None)
    renamed = owned(tmp_path, name="shop-b", privacy=BUDGET)
    assert (
        renamed.read_budget().epsilon("shop-b") == owned(tmp_path, privacy=BUDGET).read_budget().epsilon("shop-a") > 1
    )
    with pytest.raises(PlanError, match="over all runs is 8"):
        renamed.open_budget().begin("next", "shop-b", {}, [0.6], None, None)


def test_a_changed_journal_is_named_by_its_own_place(tmp_path):
    config = owned(tmp_path, privacy=BUDGET)
    config.home.mkdir()
    config.budget_path.write_text('{"kind":"open","run":3}\n')
    for opened in (config.open_budget, config.read_budget):
        with pytest.raises(DamagedError, match=str(config.budget_path)):
            opened()


# --- threads and memory -----------------------------------------------------------------------------------------------


def test_threads_are_held_inside_the_block_and_given_back():
    before = thread_count()
    with ResourceLimits(threads=1).held():
        assert thread_count() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
    assert thread_count() == before
    with ResourceLimits().held():
        assert thread_count() == before
    assert ResourceLimits().environment() == {}


def test_a_process_is_started_with_as_many_threads(tmp_path):
    script = "import numba, polars; print(numba.config.NUMBA_NUM_THREADS, polars.thread_pool_size())"
    said = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **ResourceLimits(threads=1).environment()},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["1", "1"]


_HUNGRY = """
import mmap, sys
import numpy as np
from pathlib import Path
from fedrec.owner.limits import ResourceLimits
assert ResourceLimits(memory_gb=0.75).limit_memory()
file = Path(sys.argv[1])
with file.open("wb") as made:
    made.truncate(4 << 30)
mapped = np.memmap(file, dtype=np.uint8, mode="r")
print(int(mapped[-1]), len(mapped) >> 30)
print(len(np.zeros(1 << 20)))
try:
    np.zeros(2 << 30, dtype=np.uint8)
except MemoryError:
    print("no more")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux holds a process to a limit of its data")
def test_memory_is_limited_and_mapped_files_do_not_count(tmp_path):
    said = subprocess.run(
        [sys.executable, "-c", _HUNGRY, str(tmp_path / "mapped")], capture_output=True, text=True, check=True
    )
    assert said.stdout.split("\n") == ["0 4", str(1 << 20), "no more", ""]
    assert not ResourceLimits().limit_memory()

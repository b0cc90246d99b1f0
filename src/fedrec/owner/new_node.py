"""A new node: its key and its first `node.toml`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.documents import parse_toml
from fedrec.errors import InputError
from fedrec.federation.data_plan import DataPlan
from fedrec.owner.config import NodeConfig
from fedrec.owner.paths import is_path, place_from, source_at
from fedrec.record.keys import PublicKey, SigningKey

__all__ = ["first_config", "make_node"]


def make_node(
    name: str,
    config: Path,
    home: Path,
    data: DataPlan,
    coordinator: str | None = None,
    parties: Sequence[str] = (),
    catalogs: Sequence[str] = (),
    max_clients: int | None = None,
    required: bool = True,
) -> PublicKey:
    """Make a node's key in `home`, or keep the key that `home` has, and write its `node.toml`.

    Args:
        name: name of the node.
        config: the file to write. Only its owner may read it, as it may contain the password of a database.
        home: the owner's folder; created if there is none.
        data: the data that the node reads; a path is relative to the working folder.
        coordinator: public key of the coordinator; `None` if it is not known yet.
        parties: public keys of other nodes.
        catalogs: digests of the agreed items, and of what is known of them; empty if nothing was agreed.
        max_clients: agreed maximum number of users of all nodes together; `None` if nothing was agreed.
        required: allow plans with privacy only.

    Returns:
        The node's public key.

    Raises:
        InputError: if `config` exists, or a name, key or path is wrong. No file is written then.
    """
    if config.exists():
        raise InputError(f"{config} exists already and is not overwritten; choose another file with --config")
    folder = config.absolute().parent
    if is_path(data.source):
        source = place_from(folder, Path(data.source))
    else:
        source = data.source if folder == Path.cwd() else source_at(Path.cwd(), data.source)
    settings = {"source": source, **data.reading()}
    place = place_from(folder, home)

    def text(keys: Sequence[str]) -> str:
        return first_config(name, place, settings, coordinator, keys, catalogs, max_clients, required)

    made = NodeConfig.make(parse_toml(text(parties)), folder, str(config))
    try:
        made.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        has_key = made.identity_path.exists()
        key = (SigningKey.load if has_key else SigningKey.make)(name, made.identity_path).public()
        others = [other for other in made.policy.parties if PublicKey.parse(other).key != key.key]
        whole = text([str(key), *others])
        NodeConfig.make(parse_toml(whole), folder, str(config))
        handle = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be created ({error.strerror}); choose another folder") from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(whole)
        file.flush()
        os.fsync(file.fileno())
    return key


def first_config(
    name: str,
    home: str,
    data: Mapping[str, Any],
    coordinator: str | None = None,
    parties: Sequence[str] = (),
    catalogs: Sequence[str] = (),
    max_clients: int | None = None,
    required: bool = True,
) -> str:
    """The text of a `node.toml`.

    Args:
        name: name of the node.
        home: the owner's folder.
        data: table `data`: `source`, and how to read it.
        coordinator: public key of the coordinator; with `None` the text has a comment in its place.
        parties: public keys of the nodes of secure aggregation, the node's own first.
        catalogs: digests of the agreed items, and of what is known of them; without any, every catalog is allowed.
        max_clients: agreed maximum number of users of all nodes together; with `None` any number is allowed.
        required: allow plans with privacy only.

    Example:
        >>> print(first_config("shop-a", "home", {"source": "clicks.csv"}).splitlines()[10])
        name = "shop-a"
    """
    pinned = f"coordinator = {_toml(coordinator)}" if coordinator else '# coordinator = "name+hash+base64"'
    digests = ", ".join(map(_toml, catalogs))
    items = f"catalogs = [{digests}]" if catalogs else '# catalogs = ["64 hexadecimal digits"]'
    most = f"max_clients = {max_clients}" if max_clients else "# max_clients = 100000"
    listed = "".join(f"\n    {_toml(text)}," for text in parties)
    source = "\n".join(f"{key} = {_toml(value)}" for key, value in data.items())
    return f"""# The rules of this node. They hold whatever a coordinator requests. Only the owner edits this file.
#
# A coordinator trains a model with several nodes. A node, such as this one, holds the data of its users. These data
# never leave the node; only sums over many users do. A plan describes a training, and the coordinator sends it to the
# nodes. A run is one training by a plan. It has one or more rounds, and in each round every node sends a sum.
# "Clients" in the name of a key are users.
#
# After every change run 'fedrec node check --config FILE', which explains in plain English what this file allows.

# Name of this node, as the coordinator and the other nodes know it.
name = {_toml(name)}
# Folder for the node's secret key, its runs and its privacy budget. Only the owner may read this folder.
home = {_toml(home)}

[data]
# The data that this node reads. A plan cannot choose other data.
{source}

[policy]
# Public key of the only coordinator that this node obeys. Without this key the node refuses every plan.
# Get the key from the coordinator in person or by telephone, not over the network that it protects.
{pinned}

# Public keys of the nodes that may take part in secure aggregation with this node, including its own key.
# In secure aggregation at least three nodes mask their sums, and the coordinator can read their total only.
# Get each key from the owner of that node, not from the coordinator.
parties = [{listed}
]

# Digests of the agreed list of items (the catalog) and of their titles and other features, as 'fedrec node init
# --catalog FILE' writes them. Without the second one, plans whose model learns from features are refused.
# Plans with other items are refused.
# Without this key the coordinator chooses the items, and so chooses what the sums are about.
{items}

# Agreed maximum number of users of all nodes together. Plans with a smaller number are refused.
# Without this key the coordinator can try several numbers, and find out how many users this node has.
{most}

# Digests of the allowed plans, as 'fedrec node check --plan FILE' prints them.
# Empty: every plan that meets the other rules is allowed.
plans = []

# Names of the allowed models, such as ["ease", "mf"]. Empty: all models are allowed.
models = []

# Minimum number of users of a sum that the coordinator can read.
min_clients = 32

# A number that this node tells the others in secure aggregation instead of its true number of users; min_clients by
# default. The node must always have at least so many users. Set this key if it has fewer users than min_clients.
# declared_min_users = 20

# The data cleaning that plans may request, exactly as it is written here. Without this key, plans with privacy may
# request no cleaning.
# cleaning = {{ rating_at_least = 4 }}

# Maximum number of runs that the coordinator may start within 24 hours.
openings_per_day = 100

# true: sums leave this node masked only, through secure aggregation.
# false: sums may also leave unmasked, and the coordinator can then read the sums of this node alone.
secure = true

# Minimum number of users of an item, in plans without privacy: items with fewer users are left out of the sums.
# Without this key, a sum can show that a single user had a rare item.
# min_item_clients = 5

# true: allow plans that let the training see the interactions held out for testing. The metrics of such plans are
# too good; researchers use them to reproduce published figures.
allow_leaky = false

# true: allow plans that store exact sums at the coordinator, and plans that add only what changed since an earlier run.
# The coordinator can then subtract sums of different days from each other.
allow_updates = false

[privacy]
# true: allow only plans with differential privacy: random noise in the sums hides what any single user did.
# false: also allow exact sums, from which the data of single users can sometimes be worked out.
required = {_toml(required)}

# true: in plans with privacy the nodes themselves add the noise, so the coordinator never sees an exact sum.
# false: the coordinator may add the noise, and sees the exact sums before.
distributed = true

# Privacy budget: how much all runs together may reveal about a user. A smaller epsilon reveals less.
epsilon = 8.0
# Accepted probability that a user loses more than epsilon. Choose a number well below 1 / (number of users).
delta = 1e-6
# Maximum epsilon of a single run.
max_run_epsilon = 4.0

# Minimum noise of a round, as a multiple of the clip. The clip is the most that one user can change a sum.
# min_noise_multiplier = 0.5

# Maximum clip that a plan may set.
# max_clip = 2.0

# Refuse a plan, with or without privacy, that expects fewer users than this in a round, summed over all nodes.
# min_cohort = 100

[limits]
# Maximum number of threads. Without this key the node uses all processor cores.
# threads = 2

# Maximum memory in GiB. Without this key the node may use all memory.
# memory_gb = 4

# Device for networks: cpu, cuda or cuda:1. Without this key networks run on the processor.
# device = "cuda"

# Maximum number of rounds in a plan.
# rounds = 10000
"""


def _toml(value: Any) -> str:
    """A text, a Boolean, a number, or a table of them, as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

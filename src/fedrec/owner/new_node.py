"""A new node: its key, and the first `node.toml` of its owner."""

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
    catalog: str | None = None,
    most_clients: int | None = None,
    required: bool = True,
) -> PublicKey:
    """Make a node's key in `home`, or take the one that is there, and write its `node.toml`.

    Args:
        name: of the node.
        config: the file to write, which only its owner may read: it may hold the password of a database.
        home: folder of the owner's, made where it is not there.
        data: what is read; a path is relative to the working folder.
        coordinator, parties: public keys, where they are known.
        catalog, most_clients: what was agreed on: the digest of the items, and users of all nodes together.
        required: only plans with privacy are allowed.

    Returns:
        The node's public key.

    Raises:
        InputError: if there is such a file already, or a name, a key or a place is wrong. Nothing is made then.
    """
    if config.exists():
        raise InputError(f"{config} exists already; a configuration is never written over")
    folder = config.absolute().parent
    if is_path(data.source):
        source = place_from(folder, Path(data.source))
    else:
        source = data.source if folder == Path.cwd() else source_at(Path.cwd(), data.source)
    settings = {"source": source, **data.reading()}
    place = place_from(folder, home)

    def text(keys: Sequence[str]) -> str:
        return first_config(name, place, settings, coordinator, keys, catalog, most_clients, required)

    made = NodeConfig.make(parse_toml(text(parties)), folder, str(config))
    try:
        made.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = made.identity_path.exists()
        key = (SigningKey.load if there else SigningKey.make)(name, made.identity_path).public()
        others = [other for other in made.policy.parties if PublicKey.parse(other).key != key.key]
        whole = text([str(key), *others])
        NodeConfig.make(parse_toml(whole), folder, str(config))
        handle = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise InputError(f"{error.filename} cannot be made ({error.strerror}); choose another place") from None
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
    catalog: str | None = None,
    most_clients: int | None = None,
    required: bool = True,
) -> str:
    """The text of a `node.toml`.

    Args:
        name: of the node.
        home: folder of the owner's.
        data: table `data`: `source`, and how to read it.
        coordinator: its public key; a place to put it where it is not known yet.
        parties: public keys of the nodes of secure sums, the node's own first.
        catalog: digest of the agreed items; without it any are taken.
        most_clients: agreed users of all nodes together; without it any number is taken.
        required: only plans with privacy are allowed.

    Example:
        >>> print(first_config("shop-a", "home", {"source": "clicks.csv"}).splitlines()[3])
        name = "shop-a"
    """
    pinned = f"coordinator = {_toml(coordinator)}" if coordinator else '# coordinator = "name+hash+base64"'
    items = f"catalogs = [{_toml(catalog)}]" if catalog else '# catalogs = ["64 hexadecimal digits"]'
    most = f"most_clients = {most_clients}" if most_clients else "# most_clients = 100000"
    listed = "".join(f"\n    {_toml(text)}," for text in parties)
    source = "\n".join(f"{key} = {_toml(value)}" for key, value in data.items())
    return f"""# What this node may do, whatever a coordinator asks. Only its owner writes this file.
# 'fedrec node check --config FILE' says in plain words what it allows.

name = {_toml(name)}
home = {_toml(home)}    # identity, runs, journal and budget; for its owner's eyes only

[data]    # what is read; a plan never says where
{source}

[policy]
# Whose orders are taken: one coordinator's public key, compared with its owner by another way than the network.
{pinned}
# The nodes that may be in a secure sum with this one, its own key included; keys come from their owners themselves.
parties = [{listed}
]
# What all owners agreed on. Whoever chooses the items chooses what sums are about, so take no others.
{items}
{most}    # users of all nodes together are never more; a coordinator could find out how many this one has without it
plans = []                # digests of the plans that are allowed; empty: every plan that meets the rest
models = []               # such as ["ease", "mf"]; empty: all
min_clients = 32          # fewest users of a sum that may be read
# vouch = 20              # a node with fewer users than that vouches for so many in secure sums
# cleaning = {{ rating_at_least = 4 }}    # what plans may name as data.cleaning; without it private plans name none
openings_per_day = 100    # runs that the coordinator may open in a day
secure = true             # sums leave masked only
# min_item_clients = 5    # without noise, items of fewer users stay out of sums
allow_leaky = false       # plans that tell training about held-out interactions, to reproduce published figures
allow_updates = false     # plans that keep exact sums, or go on from an earlier run by the sum of what changed

[privacy]
required = {_toml(required).ljust(5)}          # only plans with user-level differential privacy; false: exact sums too
distributed = true        # in private plans the nodes add the noise, so that the coordinator sees no exact sum
epsilon = 8.0             # the most that users may lose over all private runs,
delta = 1e-6              # but for this chance; well below 1 / users
max_run_epsilon = 4.0     # the most in one run
# min_noise_multiplier = 0.5    # least noise of a round, per unit of clip
# max_clip = 2.0          # largest bound on what one user adds
# min_cohort = 100        # fewest clients of a round, by what a plan says

[limits]
# threads = 2             # all cores without it
# memory_gb = 4
# rounds = 10000          # most rounds of a plan
"""


def _toml(value: Any) -> str:
    """A text, a truth value, a number, or a table of them, as TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_toml(str(key))} = {_toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

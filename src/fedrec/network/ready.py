"""Nodes that are ready to mask their parts of a sum, and which of them can be in one sum.

Claims of a node are compared with those of the others, so that no single node decides which others are in a sum.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedrec.errors import DamagedError
from fedrec.federation.messages import Reply
from fedrec.record.keys import PublicKey
from fedrec.secagg.policy import FEWEST_PARTIES

__all__ = ["Ready", "commitments_in", "companies", "of_one_call"]


_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Ready:
    """A node that has its part of a sum and is ready to mask it.

    Args:
        name: name of the node.
        key: its public key.
        call: digest of the transcript of the request.
        commitments: commitments to its receipt.
        among: keys of the nodes with which the part was opened before, and with which alone it may be opened again;
            `None` if the part was not opened.
    """

    name: str
    key: bytes
    call: str
    commitments: tuple[str, ...] = ()
    among: frozenset[bytes] | None = None

    @classmethod
    def of(cls, name: str, reply: Reply, nodes: Mapping[str, PublicKey]) -> Ready:
        """From the reply of a node.

        Raises:
            DamagedError: if no honest node sends such a reply.
        """
        own, claimed, among = nodes[name].key, reply.fields.get("among"), None
        call = reply.fields.get("call")
        if not isinstance(call, str) or not _DIGEST.fullmatch(call):
            raise DamagedError("its reply has no digest of the transcript, which has 64 hexadecimal digits")
        if claimed is not None:
            members = {public.key.hex(): public.key for public in nodes.values()}
            keys = claimed if isinstance(claimed, list) else []
            among = frozenset(members[text] for text in keys if isinstance(text, str) and text in members)
            if len(among) != len(keys) or len(among) < FEWEST_PARTIES or own not in among:
                raise DamagedError("it claims that its part was opened among nodes that cannot have been in one sum")
        return cls(name, own, call, commitments_in(reply), among)


def of_one_call(ready: Sequence[Ready]) -> tuple[list[Ready], list[Ready]]:
    """The nodes whose part belongs to the call of most nodes (among equals, that of the first node by name), and the
    other nodes."""
    ordered = sorted(ready, key=lambda one: one.name)
    most = [call for call, _ in Counter(one.call for one in ordered).most_common(1)]
    return [one for one in ordered if one.call in most], [one for one in ordered if one.call not in most]


def companies(ready: Sequence[Ready], groups: int, names: Mapping[bytes, str]) -> tuple[list[list[Ready]], list[str]]:
    """The nodes of each group, every n-th node by name, and the reasons why other nodes are in no group.

    An earlier attempt may have failed after nodes opened their parts. Such a part may be summed again with the same
    nodes only, as the difference of two sums would reveal single parts; nodes that opened their parts refuse any other
    nodes. A node that was disconnected before does not know of the opening, and a lying node may claim any nodes. So a
    claimed set of nodes is summed again if all its nodes are ready and half of them claim it, or if it is all ready
    nodes; unless more nodes can be summed without any node that claims an opening, which is always safe.

    Args:
        ready: nodes that are ready for one call.
        groups: number of groups.
        names: names of all nodes by key.

    Returns:
        The groups, empty if there are too few nodes; and a reason for each ready node that is in no group.
    """
    ordered = sorted(ready, key=lambda one: one.name)
    present = frozenset(one.key for one in ordered)
    free = [one for one in ordered if one.among is None]
    again: list[frozenset[bytes]] = []
    claims = Counter(one.among for one in ordered if one.among is not None)
    for among in sorted(claims, key=lambda among: (-claims[among], sorted(among))):
        confirmed = 2 * claims[among] >= len(among) or (groups == 1 and among == present)
        if confirmed and among <= present and len(again) < groups and not any(among & other for other in again):
            again.append(among)
    bound = [[one for one in ordered if one.key in among] for among in again]
    others = [one for one in free if not any(one.key in among for among in again)]
    ways = [_dealt(free, groups), bound + _dealt(others, groups - len(again))]
    possible = [way for way in ways if way and all(len(group) >= FEWEST_PARTIES for group in way)]
    best = max(possible, key=lambda way: sum(map(len, way)), default=[])
    summed = {one.name for group in best for one in group}
    return best, [f"{one.name}: {_why(one, present, names)}" for one in ordered if one.name not in summed]


def _dealt(ready: Sequence[Ready], groups: int) -> list[list[Ready]]:
    return [list(ready[group::groups]) for group in range(groups)]


def _why(one: Ready, present: frozenset[bytes], names: Mapping[bytes, str]) -> str:
    if one.among is None:
        return "other nodes opened their parts of this sum without this node, and must be summed again without it"
    if missing := sorted(names[key] for key in one.among - present):
        return f"its part of this sum was opened together with {', '.join(missing)}, and these nodes are missing now"
    company = ", ".join(sorted(names[key] for key in one.among))
    return f"it claims that its part was opened among {company}; more nodes can be summed without this node"


def commitments_in(reply: Reply) -> tuple[str, ...]:
    """The commitment to a node's receipt of a sum; empty for sums without receipts.

    Raises:
        DamagedError: if the field is not a list of at most one commitment.
    """
    field = reply.fields.get("commitments", [])
    texts = field if isinstance(field, list) else [None]
    if len(texts) > 1 or not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in texts):
        raise DamagedError("its commitment to the sum does not have 64 hexadecimal digits")
    return tuple(texts)

"""Nodes that wait to mask their parts of a sum, and who of them can be summed with whom.

What a node says of itself is held against what the others say, so that none alone decides who else is in a sum.
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
    """A node that holds its part of a sum and waits to mask it.

    Args:
        name: of the node.
        key: its public key.
        call: digest of the transcript of what was asked.
        commitments: to its receipt.
        among: keys of those among whom the part was opened before, and only may be again; `None` where it was not.
    """

    name: str
    key: bytes
    call: str
    commitments: tuple[str, ...] = ()
    among: frozenset[bytes] | None = None

    @classmethod
    def of(cls, name: str, reply: Reply, nodes: Mapping[str, PublicKey]) -> Ready:
        """From what a node said.

        Raises:
            DamagedError: if no honest node says that.
        """
        own, said, among = nodes[name].key, reply.fields.get("among"), None
        call = reply.fields.get("call")
        if not isinstance(call, str) or not _DIGEST.fullmatch(call):
            raise DamagedError("it does not say which transcript it answers, in 64 hexadecimal digits")
        if said is not None:
            known = {public.key.hex(): public.key for public in nodes.values()}
            keys = said if isinstance(said, list) else []
            among = frozenset(known[text] for text in keys if isinstance(text, str) and text in known)
            if len(among) != len(keys) or len(among) < FEWEST_PARTIES or own not in among:
                raise DamagedError("it says that its part was opened among nodes that no secure sum can have been over")
        return cls(name, own, call, commitments_in(reply), among)


def of_one_call(ready: Sequence[Ready]) -> tuple[list[Ready], list[Ready]]:
    """Those who hold a part of the call that most hold one of (of several such calls, the first node's by name), and
    the others."""
    ordered = sorted(ready, key=lambda one: one.name)
    most = [call for call, _ in Counter(one.call for one in ordered).most_common(1)]
    return [one for one in ordered if one.call in most], [one for one in ordered if one.call not in most]


def companies(ready: Sequence[Ready], groups: int, names: Mapping[bytes, str]) -> tuple[list[list[Ready]], list[str]]:
    """Who is summed with whom in so many groups, every n-th node by name; and why others are in none.

    An attempt may have come so far that nodes opened their parts, and then have failed. Such a part may be summed again
    among the very same nodes only, as the difference of two sums would show single parts; those who opened theirs
    refuse any others. Who was cut off before knows nothing of it, and who lies may name whom it likes. So nodes that
    are all there are summed again if half of them say so, or if they are everybody; unless more nodes can be summed
    when all who say that they opened their parts are left out, which is always safe.

    Args:
        ready: of one call.
        groups: how many.
        names: of all nodes by key.

    Returns:
        The groups; none where there are too few nodes. Then, in words, why nodes that are ready are not in them.
    """
    ordered = sorted(ready, key=lambda one: one.name)
    there = frozenset(one.key for one in ordered)
    free = [one for one in ordered if one.among is None]
    again: list[frozenset[bytes]] = []
    said = Counter(one.among for one in ordered if one.among is not None)
    for among in sorted(said, key=lambda among: (-said[among], sorted(among))):
        borne_out = 2 * said[among] >= len(among) or (groups == 1 and among == there)
        if borne_out and among <= there and len(again) < groups and not any(among & other for other in again):
            again.append(among)
    bound = [[one for one in ordered if one.key in among] for among in again]
    others = [one for one in free if not any(one.key in among for among in again)]
    ways = [_dealt(free, groups), bound + _dealt(others, groups - len(again))]
    possible = [way for way in ways if way and all(len(group) >= FEWEST_PARTIES for group in way)]
    best = max(possible, key=lambda way: sum(map(len, way)), default=[])
    summed = {one.name for group in best for one in group}
    return best, [f"{one.name}: {_why(one, there, names)}" for one in ordered if one.name not in summed]


def _dealt(ready: Sequence[Ready], groups: int) -> list[list[Ready]]:
    return [list(ready[group::groups]) for group in range(groups)]


def _why(one: Ready, there: frozenset[bytes], names: Mapping[bytes, str]) -> str:
    if one.among is None:
        return "parts of this sum were opened without it, and are summed again among the same nodes"
    if missing := sorted(names[key] for key in one.among - there):
        return f"its part of this sum was opened together with {', '.join(missing)}; it takes the same nodes again"
    company = ", ".join(sorted(names[key] for key in one.among))
    return f"it says that its part of this sum was opened among {company}; more nodes can be summed without it"


def commitments_in(reply: Reply) -> tuple[str, ...]:
    """What a node commits to in its receipt of a sum; of some sums it keeps none.

    Raises:
        DamagedError: if it is anything but a list of one commitment, or of none.
    """
    said = reply.fields.get("commitments", [])
    texts = said if isinstance(said, list) else [None]
    if len(texts) > 1 or not all(isinstance(text, str) and _DIGEST.fullmatch(text) for text in texts):
        raise DamagedError("its commitment to the sum is not one of 64 hexadecimal digits")
    return tuple(texts)

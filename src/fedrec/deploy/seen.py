"""What a coordinator could read in a training over nodes, counted from the lines of its ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["seen_by_coordinator", "seen_in_words"]


def seen_by_coordinator(rounds: Sequence[Mapping[str, Any]], nodes: int, secure: bool, noised: bool) -> dict[str, Any]:
    """What the coordinator saw of users' data in the rounds of a training.

    Args:
        rounds: lines of rounds of the ledger.
        nodes: how many there are.
        secure: whether they masked their sums.
        noised: whether they added noise before that.

    Returns:
        `totals`: sums over all nodes of a round; `of_single_nodes`: sums of one node that it could read; `clients`: the
        fewest and the most in a total; `nodes`: the fewest and the most whose parts were in one; `bytes_up`: what a
        node sent in all rounds, `of_it_masking` besides the sums themselves; `noised`.
    """
    taking_part = [len(line.get("parts", line.get("nodes", range(nodes)))) for line in rounds]
    sent = [line["bytes"]["secure_per_party" if secure else "plain_per_node"]["up"] for line in rounds]
    plain = [line["bytes"]["plain_per_node"]["up"] for line in rounds]
    cohorts = [int(line["cohort"]) for line in rounds]
    return {
        "totals": len(rounds),
        "of_single_nodes": 0 if secure else sum(taking_part),
        "clients": [min(cohorts), max(cohorts)],
        "nodes": [min(taking_part), max(taking_part)],
        "bytes_up": sum(sent),
        "of_it_masking": sum(sent) - sum(plain) if secure else 0,
        "noised": noised,
    }


def seen_in_words(seen: Mapping[str, Any]) -> str:
    """The same for people.

    >>> lines = [{"cohort": 180, "bytes": {"plain_per_node": {"up": 900}, "secure_per_party": {"up": 1000}}}] * 2
    >>> print(seen_in_words(seen_by_coordinator(lines, 3, secure=True, noised=False)))
    The coordinator read 2 sums, each a total over 3 nodes and 180 clients, and no sum of a single node: every node
    masked its part, 2,000 bytes in all, of which 200 are for masking. The totals are exact: they had no noise.
    >>> print(seen_in_words(seen_by_coordinator(lines, 3, secure=False, noised=False)))
    The coordinator could read 6 sums of single nodes in 2 rounds: nothing was masked. Give --secure to let it read
    totals only.
    """
    few, most = seen["clients"]
    clients = f"{few:,}" if few == most else f"{few:,} to {most:,}"
    low, high = seen["nodes"]
    nodes = f"{low}" if low == high else f"{low} to {high}"
    if seen["of_single_nodes"]:
        return (
            f"The coordinator could read {seen['of_single_nodes']:,} sums of single nodes in {seen['totals']:,} rounds:"
            " nothing was masked. Give --secure to let it read totals only."
        )
    sums = "1 sum" if seen["totals"] == 1 else f"{seen['totals']:,} sums"
    masked = f"{seen['bytes_up']:,} bytes in all, of which {seen['of_it_masking']:,} are for masking"
    noise = "Noise of the nodes was in every total." if seen["noised"] else "The totals are exact: they had no noise."
    return (
        f"The coordinator read {sums}, each a total over {nodes} nodes and {clients} clients, and no sum of a single "
        f"node: every node masked its part, {masked}. {noise}"
    )

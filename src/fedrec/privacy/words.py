"""The privacy of a run, in sentences that can be part of a contract."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrec.privacy.accounting import Charge, Epsilons
from fedrec.privacy.terms import Privacy

__all__ = ["explain", "number"]


def explain(terms: Privacy, cost: Epsilons, charges: Sequence[Charge], share: float, secret: bool) -> list[str]:
    """Sentences: what is promised, to whom, on which assumptions, and what is not promised.

    Args:
        terms: privacy terms of the plan, resolved.
        cost: the epsilons of the rounds so far.
        charges: charges of those rounds.
        share: probability of a client to be drawn for a round.
        secret: whether noise and draws came from the operating system's random generator.
    """
    noise = [charge.noise_multiplier for charge in charges]
    rounds = f"{len(charges)} round{'s' if len(charges) != 1 else ''}"
    drawn = (
        f" Each user was drawn for a round with probability {share:.4g}; the draws are secrets of the nodes."
        if share < 1
        else ""
    )
    capped = (
        f" No user takes part in more than {terms.participations} rounds; the nodes enforce that."
        if terms.participations is not None
        else ""
    )
    users = f" ({terms.users:,})" if terms.users else ""
    against = (
        f", {_factor(cost.server)}. Each node adds a share of the noise before it masks its sum, and the shares of the "
        "honest nodes in a sum add up to at least the whole noise. Assumptions: the cryptography of secure aggregation "
        "holds, and no more nodes collude with the coordinator than the manifest allows."
        if terms.distributed
        else ". The coordinator adds the noise itself, so it sees exact sums and must be trusted with them."
    )
    least = " or more" if terms.distributed else ""
    texts = {
        "What is protected": "all interactions of any single user. Adding or removing the whole history of a user "
        "changes the probability of any released result by at most a factor of e^epsilon, except with probability "
        f"delta = {cost.delta:g}.",
        "Against somebody who sees the released model": f"epsilon_release = {number(cost.release)}, "
        f"{_factor(cost.release)}."
        + (" Assumption: nobody learns which users were drawn." if cost.release < cost.cohort else ""),
        "Against somebody who also sees every sum with noise and who took part": "epsilon_cohort = "
        f"{number(cost.cohort)}, {_factor(cost.cohort)}.",
        "Against the coordinator": f"epsilon_server = {number(cost.server)}{against}",
        "How": f"{rounds} of sums over users. The contribution of one user is clipped to a fixed length, and Gaussian "
        f"noise of {min(noise):.4g} to {max(noise):.4g} times that length{least} is added to every coordinate before "
        f"a sum is used.{drawn}{capped} Neighbouring data differ by one user, added or removed. Divisors are fixed; "
        "nothing is divided by the exact size of a cohort.",
        "Assumed to be public": f"the catalog of items, the settings of the plan and the number of users{users}.",
        "Covered": "this run: its model/ folder and its ledger. A user with data at two nodes counts as two users, and "
        "the two losses add up. Every further run on the same users adds to their loss; the budget file of a node "
        "counts all runs.",
        "Not covered": "choosing settings by trying them on the same data; metrics and counts in report.json, which "
        "are exact; when a node answered and how long it took; recommendations to a user from its own history.",
        "Random numbers": "noise and draws came from the operating system's random generator; noise is rounded to the "
        "grid of the sums."
        if secret
        else "THE NOISE CAME FROM A SEED. This run is a rehearsal without protection: anybody who knows the seed can "
        "subtract the noise.",
    }
    return [f"{head}: {text}" for head, text in texts.items()]


def number(epsilon: float) -> str:
    """Epsilon with four digits, or the word `infinite`.

    >>> number(1.23456), number(math.inf)
    ('1.235', 'infinite')
    """
    return "infinite" if math.isinf(epsilon) else f"{epsilon:.4g}"


def _factor(epsilon: float) -> str:
    return "no promise" if math.isinf(epsilon) else f"so odds change by at most a factor of {math.exp(epsilon):,.3g}"

"""A private run in words that can stand in a contract."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedrec.privacy.accounting import Charge, Epsilons
from fedrec.privacy.terms import Privacy

__all__ = ["explain", "number"]


def explain(terms: Privacy, cost: Epsilons, charges: Sequence[Charge], share: float, secret: bool) -> list[str]:
    """Sentences: what is promised, to whom, on what assumptions, and what is not promised.

    Args:
        terms: of the plan, resolved.
        cost: of the rounds so far.
        charges: of those rounds.
        share: probability of a client to be drawn for a round.
        secret: whether noise and coins came from the operating system.
    """
    noise = [charge.noise_multiplier for charge in charges]
    rounds = f"{len(charges)} round{'s' if len(charges) != 1 else ''}"
    drawn = (
        f" Each user was drawn for a round with probability {share:.4g}, by a coin that its node keeps secret."
        if share < 1
        else ""
    )
    capped = (
        f" No user takes part in more than {terms.participations} rounds; its node sees to that."
        if terms.participations is not None
        else ""
    )
    users = f" ({terms.users:,})" if terms.users else ""
    against = (
        f", {_factor(cost.server)}. Each node adds a share of the noise before it masks its sum; shares are so wide "
        "that those of the honest nodes left in a sum make up the whole. This counts on the secure sum: on its "
        "cryptography, and on no more nodes being in league with the coordinator than its manifest says."
        if terms.distributed
        else ". It adds the noise itself, so it sees exact sums and must be trusted with them."
    )
    least = " or more" if terms.distributed else ""
    texts = {
        "What is protected": "all interactions of any one user. Whether a user's whole history is in the data or not "
        "changes the probability of anything that was released by at most a factor of e^epsilon, but for a chance of "
        f"delta = {cost.delta:g}.",
        "Against who sees the released model": f"epsilon_release = {number(cost.release)}, {_factor(cost.release)}."
        + (" This counts on it that nobody learns who was drawn." if cost.release < cost.cohort else ""),
        "Against who also sees every noised sum and who took part": f"epsilon_cohort = {number(cost.cohort)}, "
        f"{_factor(cost.cohort)}.",
        "Against the coordinator": f"epsilon_server = {number(cost.server)}{against}",
        "How": f"{rounds} of sums over users. What one user adds is cut to a fixed length, and Gaussian noise of "
        f"{min(noise):.4g} to {max(noise):.4g} times that length{least} is added to every coordinate before anything "
        f"else is done with a sum.{drawn}{capped} Neighbours: adding or removing one user. Divisors are fixed; nothing "
        "is divided by the true size of a cohort.",
        "Taken to be public": f"the catalog of items, the settings of the plan and the number of users{users}.",
        "Covered": "this run: its model/ folder and its ledger. A user with data at two nodes is two users here, and "
        "its losses add up. Every further run on the same users adds to their loss; a node's budget file keeps count.",
        "Not covered": "choosing settings by trying them on the same data; metrics and counts in report.json, which "
        "are exact; when a node answered and how long it took; what a user is recommended from its own history.",
        "Chance": "noise and coins came from the operating system's random generator; noise is rounded to the grid of "
        "the sums."
        if secret
        else "NOISE CAME FROM A SEED. This run is a rehearsal: who knows the seed subtracts the noise, and nothing is "
        "protected.",
    }
    return [f"{head}: {text}" for head, text in texts.items()]


def number(epsilon: float) -> str:
    """Four digits, or the word.

    >>> number(1.23456), number(math.inf)
    ('1.235', 'infinite')
    """
    return "infinite" if math.isinf(epsilon) else f"{epsilon:.4g}"


def _factor(epsilon: float) -> str:
    return "no promise" if math.isinf(epsilon) else f"odds change by a factor of {math.exp(epsilon):,.3g} at most"

"""What a run costs: privacy-loss distributions through dp-accounting, exact composition where nothing is sampled.

Neighbours are data sets that differ by all interactions of one user (add or remove one).
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fedrec.errors import DamagedError, InputError, PlanError

if TYPE_CHECKING:
    from dp_accounting import DpEvent

__all__ = ["Charge", "Epsilons", "cohort_epsilon", "epsilon_of", "epsilon_of_event", "epsilons", "noise_for"]

Relation = Literal["add-remove", "replace", "zero-out"]

_STEP = 1e-4
_COARSE = 1e-3
_LARGEST = 1e6


@dataclass(frozen=True)
class Charge:
    """What one round costs: one Gaussian over all that the round releases.

    Args:
        round: its number.
        noise_multiplier: deviation of the noise per unit of what one client can add.
        sampling: probability of a draw that nobody learns of; `None` where no such claim is made.
        truncated: (users, largest cohort) of a truncated Poisson cohort.
    """

    round: int
    noise_multiplier: float
    sampling: float | None = None
    truncated: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """For the ledger."""
        return {
            "mechanism": "gaussian",
            "round": self.round,
            "noise_multiplier": self.noise_multiplier,
            "sampling": self.sampling,
            "truncated": None if self.truncated is None else list(self.truncated),
        }

    @classmethod
    def from_json(cls, line: Any) -> Charge:
        """From the ledger.

        Raises:
            DamagedError: naming the field that is missing or wrong.
        """
        if not isinstance(line, dict) or line.get("mechanism") != "gaussian":
            raise DamagedError("a private round has no charge for a Gaussian; the ledger was changed")
        round, noise, sampling, truncated = (
            line.get(key) for key in ("round", "noise_multiplier", "sampling", "truncated")
        )
        wrong = {
            "round": type(round) is not int or round < 0,
            "noise_multiplier": not _positive(noise),
            "sampling": sampling is not None and not (_positive(sampling) and sampling <= 1),
            "truncated": truncated is not None and not _two_counts(truncated),
        }
        for field, bad in wrong.items():
            if bad:
                raise DamagedError(f"charge: {field} is {line.get(field)!r}; the ledger was changed")
        assert isinstance(round, int)
        assert noise is not None
        return cls(round, float(noise), sampling, None if truncated is None else (truncated[0], truncated[1]))

    @property
    def effective(self) -> float:
        """Noise multiplier as far as it protects: half of it in a truncated cohort, where a user who is drawn may push
        another one out, and so move the sum by twice the clip."""
        return self.noise_multiplier / (1.0 if self.truncated is None else 2.0)

    def event(self) -> DpEvent:
        """What dp-accounting composes."""
        dpa = _library()
        gaussian = dpa.GaussianDpEvent(self.effective)
        if self.sampling is None or self.sampling >= 1:
            return gaussian
        return dpa.PoissonSampledDpEvent(self.sampling, gaussian)


@dataclass(frozen=True)
class Epsilons:
    """ε at δ, by who looks.

    Args:
        release: who sees released models only.
        cohort: who also knows the cohorts and sees every noised sum.
        server: the coordinator; infinite where it adds the noise itself, that of `cohort` where nodes do.
        delta: δ.
    """

    release: float
    cohort: float
    server: float
    delta: float

    def to_json(self) -> dict[str, float | str]:
        """Infinity as the word "infinite"."""
        return {key: "infinite" if math.isinf(value) else value for key, value in vars(self).items()}


def epsilons(
    charges: Sequence[Charge], delta: float, participations: int | None = None, distributed: bool = False
) -> Epsilons:
    """The three epsilons of some rounds.

    Amplification by sampling is counted for `release` only, and only where no cap on participations ties the draws of a
    client's rounds together.

    Args:
        charges: of the rounds.
        delta: δ.
        participations: most rounds that one client takes part in; `None` for all.
        distributed: nodes add the noise, under a secure sum.
    """
    cohort = cohort_epsilon(charges, delta, participations)
    release = cohort
    if charges and participations is None and all(charge.sampling is not None for charge in charges):
        release = min(cohort, epsilon_of_event(_composed([charge.event() for charge in charges]), delta))
    return Epsilons(release, cohort, cohort if distributed else math.inf, delta)


def cohort_epsilon(charges: Sequence[Charge], delta: float, participations: int | None = None) -> float:
    """ε of the dearest rounds that one client may take part in, without sampling: Gaussians compose exactly."""
    noise = sorted(charge.effective for charge in charges)[:participations]
    return _gaussian_epsilon(1.0 / math.sqrt(sum(z**-2 for z in noise)), delta) if noise else 0.0


def epsilon_of(
    noise_multiplier: float,
    delta: float,
    rounds: int,
    *,
    sampling: float | None = None,
    truncated: tuple[int, int] | None = None,
    participations: int | None = None,
    shares: Sequence[float] | None = None,
) -> float:
    """ε of a run; the reverse of `noise_for`, with the same arguments.

    >>> round(epsilon_of(3.73063, 1e-5, 1), 4)
    1.0
    """
    _check(delta, rounds, sampling, participations)
    if not _positive(noise_multiplier):
        raise PlanError(f"privacy: a noise multiplier must be above 0, not {noise_multiplier}")
    if sampling is not None and sampling < 1 and participations is None:
        return epsilon_of_event(_sampled(noise_multiplier, rounds, sampling, truncated), delta, step=_step(rounds))
    effective = Charge(0, noise_multiplier, sampling, truncated).effective
    return _gaussian_epsilon(effective / math.sqrt(_worst(rounds, participations, shares)), delta)


def noise_for(
    epsilon: float,
    delta: float,
    rounds: int,
    *,
    sampling: float | None = None,
    truncated: tuple[int, int] | None = None,
    participations: int | None = None,
    shares: Sequence[float] | None = None,
) -> float:
    """The noise multiplier z that keeps ε.

    Without sampling, z is of the whole run's budget: round t has z / √(its share). With sampling, z is of every round.

    Args:
        epsilon, delta: ε and δ.
        rounds: how many.
        sampling: probability of a draw that nobody learns of.
        truncated: (users, largest cohort) of truncated Poisson cohorts.
        participations: most rounds that one client takes part in.
        shares: of the budget by round, adding up to 1; equal ones by default.

    Raises:
        PlanError: for values that have no meaning, naming the key.

    Example:
        >>> round(noise_for(1.0, 1e-5, 1), 5)
        3.73063
    """
    _check(delta, rounds, sampling, participations)
    if not _positive(epsilon):
        raise PlanError(f"privacy: epsilon must be above 0, not {epsilon}")
    if sampling is None or sampling >= 1 or participations is not None:
        sigma: float = _library().get_sigma_gaussian(epsilon, delta)
        needed = sigma * math.sqrt(_worst(rounds, participations, shares)) * (1.0 + 1e-9)
        return needed if truncated is None else 2.0 * needed
    return _calibrated(epsilon, delta, rounds, sampling, truncated)


def epsilon_of_event(
    event: DpEvent,
    delta: float,
    accountant: Literal["pld", "rdp"] = "pld",
    relation: Relation = "add-remove",
    step: float = _STEP,
) -> float:
    """ε of any event of dp-accounting.

    Args:
        event: what to account for.
        delta: δ.
        accountant: privacy-loss distributions, or Rényi divergences, which give more.
        relation: of neighbouring data sets.
        step: of the discretised losses; a larger one is quicker and gives a little more.
    """
    dpa = _library()
    relations = dpa.NeighboringRelation
    chosen = {
        "add-remove": relations.ADD_OR_REMOVE_ONE,
        "replace": relations.REPLACE_ONE,
        "zero-out": relations.REPLACE_SPECIAL,
    }[relation]
    with _quiet():
        made = (
            dpa.rdp.RdpAccountant(neighboring_relation=chosen)
            if accountant == "rdp"
            else dpa.pld.PLDAccountant(chosen, value_discretization_interval=step)
        )
        return float(made.compose(event).get_epsilon(delta))


def _calibrated(epsilon: float, delta: float, rounds: int, sampling: float, truncated: tuple[int, int] | None) -> float:
    """Bisection between bounds that Rényi accounting brackets, on privacy-loss distributions."""

    def cost(noise: float, accountant: Literal["pld", "rdp"]) -> float:
        return epsilon_of_event(_sampled(noise, rounds, sampling, truncated), delta, accountant, step=_COARSE)

    high = _smallest(lambda noise: cost(noise, "rdp"), epsilon, 0.1, 1.0)
    while cost(high, "pld") > epsilon:
        high *= 1.25
    low = high / 2
    for _ in range(40):
        middle = (low + high) / 2
        if cost(middle, "pld") <= epsilon:
            high = middle
        else:
            low = middle
        if high - low < 1e-4 * high:
            break
    return high


def _smallest(cost: Callable[[float], float], target: float, low: float, high: float) -> float:
    while cost(high) > target and high < _LARGEST:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= target else (middle, high)
    return high


def _gaussian_epsilon(noise_multiplier: float, delta: float) -> float:
    with np.errstate(divide="ignore"):  # log(1 - 1) = -inf at the ends of its bracket is what it takes
        return float(_library().get_epsilon_gaussian(noise_multiplier, delta))


def _sampled(noise: float, rounds: int, sampling: float, truncated: tuple[int, int] | None) -> DpEvent:
    return _library().SelfComposedDpEvent(Charge(0, noise, sampling, truncated).event(), rounds)


def _composed(events: list[DpEvent]) -> DpEvent:
    dpa = _library()
    if all(event == events[0] for event in events):
        return dpa.SelfComposedDpEvent(events[0], len(events))
    return dpa.ComposedDpEvent(events)


def _worst(rounds: int, participations: int | None, shares: Sequence[float] | None) -> float:
    """The largest share of the budget that one client can take part in."""
    parts = [1.0 / rounds] * rounds if shares is None else sorted(shares, reverse=True)
    return min(1.0, math.fsum(parts[:participations]))


def _step(rounds: int) -> float:
    return _STEP if rounds <= 1000 else _COARSE


def _check(delta: float, rounds: int, sampling: float | None, participations: int | None) -> None:
    if not 0 < delta < 1:
        raise PlanError(f"privacy: delta must lie between 0 and 1, not {delta}")
    if rounds < 1:
        raise PlanError(f"privacy: rounds must be at least 1, not {rounds}")
    if sampling is not None and not 0 < sampling <= 1:
        raise PlanError(f"privacy: sampling must be a probability above 0, not {sampling}")
    if participations is not None and participations < 1:
        raise PlanError(f"privacy: participations must be at least 1, not {participations}")


def _two_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(count) is int and count > 0 for count in value)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks on orders and tails that are left out: leaving them out makes ε larger, not smaller."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _library() -> Any:
    try:
        import dp_accounting
        from dp_accounting import pld, rdp  # noqa: F401  (both become attributes)
    except ImportError:
        raise InputError("accounting for privacy needs dp-accounting; pip install 'fedrec[privacy]'") from None
    return dp_accounting

"""The privacy cost of a run, by privacy-loss distributions of dp-accounting, or exactly if nothing is sampled.

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
    """The privacy cost of one round, which is one Gaussian mechanism over everything that the round releases.

    Args:
        round: number of the round.
        noise_multiplier: standard deviation of the noise, as a multiple of the most that one client can add.
        sampling: probability of a secret draw for the round; `None` if the draw is not claimed to be secret.
        truncated: (users, largest cohort) of a truncated Poisson cohort.
    """

    round: int
    noise_multiplier: float
    sampling: float | None = None
    truncated: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """The charge as a field of a ledger line."""
        return {
            "mechanism": "gaussian",
            "round": self.round,
            "noise_multiplier": self.noise_multiplier,
            "sampling": self.sampling,
            "truncated": None if self.truncated is None else list(self.truncated),
        }

    @classmethod
    def from_json(cls, line: Any) -> Charge:
        """From a field of a ledger line.

        Raises:
            DamagedError: if a field is missing or wrong; the text names the field.
        """
        if not isinstance(line, dict) or line.get("mechanism") != "gaussian":
            raise DamagedError("a round with privacy has no charge of a Gaussian mechanism; the ledger was changed")
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
                raise DamagedError(f"charge: {field} cannot be {line.get(field)!r}; the ledger was changed")
        assert isinstance(round, int)
        assert noise is not None
        return cls(round, float(noise), sampling, None if truncated is None else (truncated[0], truncated[1]))

    @property
    def effective(self) -> float:
        """Effective noise multiplier: half of it in a truncated cohort, where a drawn user may displace another one
        and so change the sum by twice the clip."""
        return self.noise_multiplier / (1.0 if self.truncated is None else 2.0)

    def event(self) -> DpEvent:
        """The charge as an event of dp-accounting."""
        dpa = _library()
        gaussian = dpa.GaussianDpEvent(self.effective)
        if self.sampling is None or self.sampling >= 1:
            return gaussian
        return dpa.PoissonSampledDpEvent(self.sampling, gaussian)


@dataclass(frozen=True)
class Epsilons:
    """ε at δ, for three observers.

    Args:
        release: for somebody who sees released models only.
        cohort: for somebody who also knows the cohorts and sees every sum with noise.
        server: for the coordinator; infinite if the coordinator adds the noise, equal to `cohort` if nodes do.
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

    Amplification by sampling counts for `release` only, and only without a limit on participations, which would make
    the draws of a client depend on each other.

    Args:
        charges: charges of the rounds.
        delta: δ.
        participations: maximum number of rounds that one client takes part in; `None` for all.
        distributed: nodes add the noise, under secure aggregation.
    """
    cohort = cohort_epsilon(charges, delta, participations)
    release = cohort
    if charges and participations is None and all(charge.sampling is not None for charge in charges):
        release = min(cohort, epsilon_of_event(_composed([charge.event() for charge in charges]), delta))
    return Epsilons(release, cohort, cohort if distributed else math.inf, delta)


def cohort_epsilon(charges: Sequence[Charge], delta: float, participations: int | None = None) -> float:
    """ε of the most costly rounds that one client may take part in, without sampling: Gaussians compose exactly."""
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
        raise PlanError(f"privacy: the noise multiplier must be above 0, not {noise_multiplier}")
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
    """The smallest noise multiplier z that keeps ε.

    Without sampling, z belongs to the budget of the whole run: round t has z / √(its share). With sampling, z belongs
    to every round.

    Args:
        epsilon: ε.
        delta: δ.
        rounds: number of rounds.
        sampling: probability of a secret draw for a round.
        truncated: (users, largest cohort) of truncated Poisson cohorts.
        participations: maximum number of rounds that one client takes part in.
        shares: share of the budget of each round, which add up to 1; equal by default.

    Raises:
        PlanError: if a value is out of range; the text names the key.

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
        event: the event.
        delta: δ.
        accountant: privacy-loss distributions (`pld`), or Rényi divergences (`rdp`), which give a larger ε.
        relation: relation of neighbouring data sets.
        step: step of the discretised losses; a larger step is faster and gives a slightly larger ε.
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
    """Bisection with privacy-loss distributions, between bounds from Rényi accounting."""

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
    with np.errstate(divide="ignore"):  # its bracket ends at log(1 - 1) = -inf
        return float(_library().get_epsilon_gaussian(noise_multiplier, delta))


def _sampled(noise: float, rounds: int, sampling: float, truncated: tuple[int, int] | None) -> DpEvent:
    return _library().SelfComposedDpEvent(Charge(0, noise, sampling, truncated).event(), rounds)


def _composed(events: list[DpEvent]) -> DpEvent:
    dpa = _library()
    if all(event == events[0] for event in events):
        return dpa.SelfComposedDpEvent(events[0], len(events))
    return dpa.ComposedDpEvent(events)


def _worst(rounds: int, participations: int | None, shares: Sequence[float] | None) -> float:
    """The largest total share of the budget over the rounds that one client takes part in."""
    parts = [1.0 / rounds] * rounds if shares is None else sorted(shares, reverse=True)
    return min(1.0, math.fsum(parts[:participations]))


def _step(rounds: int) -> float:
    return _STEP if rounds <= 1000 else _COARSE


def _check(delta: float, rounds: int, sampling: float | None, participations: int | None) -> None:
    if not 0 < delta < 1:
        raise PlanError(f"privacy: delta must be between 0 and 1, not {delta}")
    if rounds < 1:
        raise PlanError(f"privacy: rounds must be at least 1, not {rounds}")
    if sampling is not None and not 0 < sampling <= 1:
        raise PlanError(f"privacy: sampling must be a probability above 0 and at most 1, not {sampling}")
    if participations is not None and participations < 1:
        raise PlanError(f"privacy: participations must be at least 1, not {participations}")


def _two_counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(count) is int and count > 0 for count in value)


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about omitted orders and tails: omitting them makes ε larger, not smaller."""
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
        raise InputError("privacy accounting needs dp-accounting; pip install 'fedrec[privacy]'") from None
    return dp_accounting

"""Which parts of a plan do not go together, and why: one table, asked before any data is read.

Every rule follows from the plan and from what its model declares of itself. Most of them hold anywhere and are asked
when a plan is made. The others hold only where sums are masked, where they are not, or among the nodes of a federation;
they are asked as soon as that is decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedrec.errors import PlanError
from fedrec.federation.plan_case import Case
from fedrec.models.base import PrivateRecommender, Recommender
from fedrec.models.blend import parts_of
from fedrec.models.cold_items import ColdItems
from fedrec.models.factors.following import BothWays, FollowsFactors
from fedrec.models.outline import first_sum, is_additive, keeps_rows
from fedrec.models.registry import models_where

__all__ = ["NOT_MASKED", "TABLE", "Place", "Rule", "broken_rules", "check_together", "place_of"]

Place = Literal["anywhere", "masked", "in the clear", "federation"]
"""Where a rule holds: in every run, where sums are masked or are not, or among the nodes of a federation."""


@dataclass(frozen=True)
class Rule:
    """Two parts of a plan that do not go together.

    Args:
        what: key of the plan.
        beside: the key that does not go with it; empty where `why` says it.
        why: the reason, and what to do, in words or made of the case.
        holds: whether a case has both.
        place: where that is wrong.
    """

    what: str
    beside: str
    why: str | Callable[[Case], str]
    holds: Callable[[Case], bool]
    place: Place = "anywhere"

    def text(self, case: Case) -> str:
        """What the error says of a case."""
        why = self.why if isinstance(self.why, str) else self.why(case)
        return f"{self.what} cannot be combined with {self.beside}: {why}" if self.beside else f"{self.what}: {why}"


def check_together(case: Case, place: Place = "anywhere") -> None:
    """Check that the parts of a plan go together.

    Args:
        case: the plan and its model.
        place: whose rules are asked.

    Raises:
        PlanError: with the first rule that is broken.
    """
    for text in broken_rules(case, place)[:1]:
        raise PlanError(text)


def place_of(secure: bool) -> Place:
    """Where sums are: masked, or in the clear."""
    return "masked" if secure else "in the clear"


def broken_rules(case: Case, place: Place) -> list[str]:
    """What is wrong with a plan by the rules of a place, one sentence for every rule that is broken."""
    return [rule.text(case) for rule in TABLE if rule.place == place and rule.holds(case)]


NOT_MASKED = (
    "the coordinator can read a sum that waits in a buffer, and secure aggregation hides every node's sum; leave out "
    "--secure or asynchronous"
)
"""Why sums that are masked cannot wait for others."""


def _other_statistics(case: Case) -> str:
    return f"with these settings {case.model.name} also sums {' and '.join(case.first.statistics)}, which"


def _can_follow(model: Recommender) -> bool:
    """Whether a model is drawn towards a source, with its settings."""
    return model.traits.transfers and (isinstance(model, FollowsFactors) or is_additive(model))


def _changeless(case: Case) -> str:
    """The first model that sums no changes of itself: of a blend, one of its models; empty where all sum some."""
    return next((part.name for part in parts_of(case.model) if not first_sum(part).changes), "")


def _predicting(case: Case) -> list[str]:
    """Models that go on round by round, and at last score items that nobody has from features."""
    return [
        part.name
        for part in parts_of(case.model)
        if isinstance(part, ColdItems) and part.item_features is not None and part.traits.iterative
    ]


def _bound_rounds(case: Case) -> tuple[int | None, int]:
    """Most rounds that a client takes part in, of a private plan, and rounds of the training."""
    privacy, model = case.privacy, case.model
    rounds = len(model.budget_shares) if isinstance(model, PrivateRecommender) else model.rounds
    return None if privacy is None else privacy.participations, rounds


def _keeps_whom_it_draws_away(case: Case) -> bool:
    privacy = case.privacy
    truncated = privacy is not None and privacy.max_cohort is not None and privacy.participations != 1
    return truncated and keeps_rows(case.model)


_ROBUST = "a robust mean is not a sum, so"
_ITEMS = "the items that take part change with the data, so"

TABLE: tuple[Rule, ...] = (
    Rule(
        "weights",
        "",
        lambda case: (
            f"model {case.model.name!r} reads values as ratings, not as weights; leave weights out of the plan"
        ),
        lambda case: case.weights is not None and case.model.traits.reads_ratings,
    ),
    Rule(
        "weights",
        "",
        lambda case: (
            f"model {case.model.name!r} counts every interaction once, whatever its value; leave weights out (and low "
            "ratings too, with cleaning: rating_at_least), or take a model that uses weights: "
            f"{models_where(lambda model: bool(model.traits.weights))}"
        ),
        lambda case: case.weights is not None and not case.model.traits.weights and not case.model.traits.reads_ratings,
    ),
    Rule(
        "down",
        "",
        lambda case: (
            "sum lets nodes repeat the only step of a model. That takes a model of one round, without privacy, "
            f"transfer and items, which {case.model.name} in this plan is not; leave out down"
        ),
        lambda case: case.down == "sum" and (case.model.rounds != 1 or any((case.privacy, case.transfer, case.items))),
    ),
    Rule(
        "keep_sums",
        "cohort",
        "a kept sum must cover all clients; set cohort to 1.0",
        lambda case: case.keep_sums and case.cohort != 1,
    ),
    Rule(
        "robust",
        "privacy",
        f"{_ROBUST} the influence of one client has no bound that noise could cover; leave out one of the two",
        lambda case: case.robust is not None and case.privacy is not None,
    ),
    Rule(
        "robust",
        "keep_sums",
        f"{_ROBUST} later interactions cannot be added to it; leave out keep_sums",
        lambda case: case.robust is not None and case.keep_sums,
    ),
    Rule(
        "robust",
        "warm_start",
        f"{_ROBUST} it cannot be added to the sums of an earlier run; leave out one of the two",
        lambda case: case.robust is not None and case.warm_start is not None,
    ),
    Rule(
        "items",
        "keep_sums",
        f"{_ITEMS} a later run on other data cannot add to the kept sums; leave out one of the two",
        lambda case: case.items is not None and case.keep_sums,
    ),
    Rule(
        "items",
        "warm_start",
        f"{_ITEMS} a run cannot continue a model of other data; leave out one of the two",
        lambda case: case.items is not None and case.warm_start is not None,
    ),
    Rule(
        "asynchronous",
        "",
        lambda case: (
            f"{_changeless(case)} does not sum model changes, so a sum for one version of the model is of no use for "
            f"another; take {models_where(lambda model: bool(first_sum(model).changes))}, or leave out asynchronous"
        ),
        lambda case: case.asynchronous is not None and bool(_changeless(case)),
    ),
    Rule(
        "asynchronous",
        "privacy",
        "the privacy budget assumes that every round draws its cohort at random from all clients, but here a node's "
        "speed decides how often its clients count; leave out one of the two",
        lambda case: case.asynchronous is not None and case.privacy is not None,
    ),
    Rule(
        "asynchronous",
        "robust",
        "the fastest nodes fill most buffers, so a few hostile nodes can be the majority of a buffer",
        lambda case: case.asynchronous is not None and case.robust is not None,
    ),
    Rule(
        "asynchronous",
        "rows",
        "sums for different versions of the model have different rows, but their counts cover all rows",
        lambda case: case.asynchronous is not None and case.rows < 1,
    ),
    Rule(
        "asynchronous",
        "warm_start",
        "a node that has not answered when a run is resumed cannot tell which model the run started from",
        lambda case: case.asynchronous is not None and case.warm_start is not None,
    ),
    Rule(
        "asynchronous",
        "",
        lambda case: (
            f"{_other_statistics(case)} are valid for one version of the model only, but a buffer mixes versions; "
            "leave out the setting that asks for them"
        ),
        lambda case: case.asynchronous is not None and bool(case.first.statistics) and bool(case.first.changes),
    ),
    Rule(
        "privacy",
        "",
        lambda case: (
            f"max_cohort for {case.model.name}: the model keeps private rows of each client between rounds. A client "
            "that another user pushes out of a round contributes differently in later rounds, and the privacy budget "
            "does not cover that. Leave out max_cohort, or set participations: 1"
        ),
        _keeps_whom_it_draws_away,
    ),
    Rule(
        "privacy",
        "evaluation.every",
        "validations are exact figures of users' data, and would decide which model is released; set "
        "evaluation.every to 0",
        lambda case: case.privacy is not None and case.evaluation.every > 0,
    ),
    Rule(
        "privacy",
        "keep_sums",
        "the kept sums have no noise; leave out keep_sums",
        lambda case: case.privacy is not None and case.keep_sums,
    ),
    Rule(
        "privacy",
        "cleaning",
        "k_core and min_item_interactions: without one user, other users' histories would change, and the sums would "
        "change by more than the clip",
        lambda case: case.privacy is not None and bool(case.data.cleaning.across_users),
    ),
    Rule(
        "privacy",
        "warm_start",
        "this run's budget does not cover what the earlier run learned; leave out warm_start",
        lambda case: case.privacy is not None and case.warm_start is not None,
    ),
    Rule(
        "privacy",
        "items",
        "counting items would cost privacy budget, and every row gets noise anyway; leave out items",
        lambda case: case.privacy is not None and case.items is not None,
    ),
    Rule(
        "privacy",
        "rows",
        "every row gets noise, which costs the same however few rows are summed; leave out rows",
        lambda case: case.privacy is not None and case.rows < 1,
    ),
    Rule(
        "privacy",
        "",
        lambda case: (
            f"{case.model.name} pools {' and '.join(case.pooled)} of clients; single clients cannot be clipped"
        ),
        lambda case: case.privacy is not None and bool(case.pooled),
    ),
    Rule(
        "privacy",
        "negatives",
        "paper-leaky: these negatives depend on held-out interactions",
        lambda case: case.privacy is not None and case.leaky,
    ),
    Rule(
        "privacy",
        "split",
        lambda case: (
            f"{case.split} is cut at a time that is computed from all users' data without noise; use "
            "leave-last-out or ratio"
        ),
        lambda case: case.privacy is not None and case.cut_by_data,
    ),
    Rule(
        "privacy",
        "",
        "a cohort as a number of clients needs privacy.users, a public upper bound on the number of users",
        lambda case: case.privacy is not None and case.cohort > 1 and case.privacy.users is None,
    ),
    Rule(
        "privacy",
        "",
        "sampling: poisson needs a cohort below 1.0; all clients take part in this plan",
        lambda case: case.privacy is not None and case.privacy.sampling == "poisson" and case.share >= 1.0,
    ),
    Rule(
        "privacy",
        "",
        lambda case: "participations: {} limits no client, as there are only {} rounds; leave it out".format(
            *_bound_rounds(case)
        ),
        lambda case: (_bound_rounds(case)[0] or 0) > _bound_rounds(case)[1],
    ),
    Rule(
        "rows",
        "",
        lambda case: (
            f"{case.model.name} does not sum changes of item rows alone; leave out rows, or take "
            f"{models_where(lambda model: model.traits.moves_by_rows)}"
        ),
        lambda case: case.rows < 1 and not case.model.traits.moves_by_rows,
    ),
    Rule(
        "rows",
        "",
        lambda case: (
            f"{_other_statistics(case)} need every row that a client changed; leave out the setting that asks for them"
        ),
        lambda case: case.rows < 1 and bool(case.first.statistics),
    ),
    Rule(
        "keep_sums",
        "",
        lambda case: (
            f"with these settings {case.model.name} has no sum to which later interactions can be added; "
            f"{models_where(is_additive)} have such a sum by default"
        ),
        lambda case: case.keep_sums and not is_additive(case.model),
    ),
    Rule(
        "refit",
        "evaluation.every",
        "refit trains on the validation part, so no data is left for validation; set evaluation.every to 0",
        lambda case: case.refit and case.evaluation.every > 0,
    ),
    Rule(
        "evaluation.protocol",
        "",
        lambda case: (
            f"{case.evaluation.protocol} tells items apart that nobody has in training, and split {case.split} holds "
            "out none; set split: cold-items:0.1, or protocol: full"
        ),
        lambda case: case.evaluation.protocol in ("cold", "known") and not case.split.startswith("cold-items"),
    ),
    Rule(
        "evaluation",
        "",
        lambda case: (
            f"{_predicting(case)[0]} scores items that nobody has after its last round, and patience or keep: best may "
            "end with an earlier one; leave these out, or item_features"
        ),
        lambda case: (
            bool(_predicting(case)) and (case.evaluation.keep == "best" or case.evaluation.patience is not None)
        ),
    ),
    Rule(
        "asynchronous",
        "",
        NOT_MASKED,
        lambda case: case.asynchronous is not None,
        "masked",
    ),
    Rule(
        "robust",
        "",
        "over: nodes needs every node's sum in the clear, and secure aggregation hides these; use over: groups",
        lambda case: case.robust is not None and case.robust.over == "nodes",
        "masked",
    ),
    Rule(
        "robust",
        "",
        "over: groups needs secure aggregation; give --secure, or set over: nodes",
        lambda case: case.robust is not None and case.robust.over == "groups",
        "in the clear",
    ),
    Rule(
        "privacy",
        "",
        "noise: distributed needs secure aggregation, as nodes add the noise before they mask their sums; give "
        "--secure and --nodes 3 or more. With noise: central the coordinator sees exact sums",
        lambda case: case.privacy is not None and case.privacy.distributed,
        "in the clear",
    ),
    Rule(
        "split",
        "",
        lambda case: (
            f"{case.split} is cut at a time that is computed from all users' data, and no party of a federation has "
            "that data; use temporal@T,T"
        ),
        lambda case: case.cut_by_data,
        "federation",
    ),
    Rule(
        "cohort",
        "",
        "no party of a federation knows the total number of clients; give a share such as 0.1",
        lambda case: case.cohort > 1 and (case.privacy is None or case.privacy.users is None),
        "federation",
    ),
    Rule(
        "cleaning",
        "",
        "k_core and min_item_interactions need all users' data, and no party of a federation has that data; let each "
        "owner clean, or use items: {least: …}",
        lambda case: bool(case.data.cleaning.across_users),
        "federation",
    ),
    Rule(
        "privacy",
        "",
        "a federation needs privacy.users, a public upper bound on the number of users",
        lambda case: case.privacy is not None and case.privacy.users is None,
        "federation",
    ),
    Rule(
        "model",
        "",
        "a federation needs lowest and highest, the scale of the ratings; nodes leave out ratings outside of it",
        lambda case: case.model.traits.reads_ratings and not {"lowest", "highest"} <= case.settings,
        "federation",
    ),
    Rule(
        "transfer",
        "warm_start",
        "one goes on with the same data, the other takes over from other data; leave out one of the two",
        lambda case: case.transfer is not None and case.warm_start is not None,
    ),
    Rule(
        "transfer",
        "privacy",
        "the private form of a model is not drawn towards a source; leave out one of the two",
        lambda case: case.transfer is not None and case.privacy is not None,
    ),
    Rule(
        "transfer",
        "",
        lambda case: (
            f"{case.model.name} with these settings is not drawn towards a source; take model ease without rank, "
            "item_features and target, or model ials without item_features and solver: cg, or leave out transfer"
        ),
        lambda case: case.transfer is not None and not _can_follow(case.model),
    ),
    Rule(
        "transfer",
        "evaluation.every",
        "auto decides after the last round which of two models counts; leave out evaluation.every, or set how: ridge",
        lambda case: isinstance(case.model, BothWays) and case.evaluation.every > 0,
    ),
    Rule(
        "warm_start",
        "",
        "the nodes of a federation keep no earlier run to continue; leave out warm_start",
        lambda case: case.warm_start is not None,
        "federation",
    ),
    Rule(
        "evaluation.by",
        "privacy",
        "the names of the groups would come from users' data; name them, as in evaluation.groups: [F, M]",
        lambda case: case.evaluation.by is not None and not case.evaluation.groups and case.privacy is not None,
    ),
    Rule(
        "evaluation.by",
        "",
        "no party of a federation knows the values of all users; name the groups, as in evaluation.groups: [F, M]",
        lambda case: case.evaluation.by is not None and not case.evaluation.groups,
        "federation",
    ),
)
"""Every two parts of a plan that do not go together; the order is that in which a plan is told."""

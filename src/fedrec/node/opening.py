"""A run opened at a node: what was agreed on, the owner's data in its terms, and the node that serves it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrec.data.catalog import Catalog
from fedrec.data.cleaning import clean
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.data.sources import load_source
from fedrec.documents import parse_json
from fedrec.errors import DamagedError, InputError, NothingLeftError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import Part
from fedrec.federation.fitting import Fitting
from fedrec.federation.grouping import check_grouping
from fedrec.federation.item_floor import SERVED
from fedrec.federation.masked import COUNTS
from fedrec.federation.plan import Plan
from fedrec.federation.values import values_remark
from fedrec.models.base import Arrays
from fedrec.models.values import rating_scale
from fedrec.node.answers import Answers, FileStore
from fedrec.node.founding import found_node
from fedrec.node.node import Floors, Node
from fedrec.node.party import NetworkParty
from fedrec.node.witness import Witness
from fedrec.owner.config import NodeConfig
from fedrec.owner.policy import admit, secure_floors
from fedrec.owner.private_data import agreed_cleanings, check_users, hides_sums
from fedrec.privacy.budget import Budget
from fedrec.privacy.chance import Chance
from fedrec.record.durable import replace_file
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.secagg.layout import Layout
from fedrec.secagg.manifest import invite

__all__ = ["Offer", "OpenedHere", "agree", "honest_of", "open_run_here"]

_LOG = logging.getLogger("fedrec.node")


@dataclass(frozen=True)
class Offer:
    """What a coordinator offers a node.

    Args:
        plan: resolved.
        secure: whether sums are masked.
        parties: public keys of the nodes of secure aggregations, as text.
        catalog: the agreed items, as bytes.
    """

    plan: Plan
    secure: bool
    parties: tuple[str, ...]
    catalog: bytes

    @classmethod
    def read(cls, fields: Mapping[str, Any], parts: Sequence[bytes]) -> Offer:
        """From a request.

        Raises:
            DamagedError: if it is not whole.
            PlanError: if the plan is not one, is not the one that was named, or lacks what a federation agrees on.
        """
        text, secure, parties = fields.get("plan"), fields.get("secure"), fields.get("parties")
        words = isinstance(parties, list) and all(isinstance(party, str) for party in parties)
        try:
            settings = parse_json(text) if isinstance(text, str) else None
        except ValueError:
            settings = None
        if settings is None or not isinstance(secure, bool) or not words or len(parts) != 1:
            raise DamagedError("the offer of a run is incomplete or malformed")
        plan = Plan.make(settings, "offered plan")
        if plan.digest != fields.get("digest"):
            raise PlanError("the offered plan does not have the digest that the offer gives")
        if plan.n_max is None or plan.catalog is None:
            raise PlanError("the offered plan must give n_max and the digest of the catalog")
        return cls(plan, secure, tuple(parties or ()), parts[0])


@dataclass(eq=False)
class OpenedHere:
    """A run that is open at the node.

    Args:
        run: its number.
        agreement, node, data: what was agreed on, the node that serves it, its owner's data.
        party: the node in secure aggregations; `None` where sums are plain.
        parties: public keys of the nodes of secure aggregations, as text.
        witness: what the node knows of the record.
        noise: least noise multiplier of a round's secure aggregation.
        fitting: what shared arrays look like.
        folder: of the run, in the owner's home.
        answers: what the node has answered in the run, and how far it has come.
        least: clients for whom the node speaks: of fewer it says nothing.
        excess: how much more noise a sum may have than the plan asks for, where nodes add it.
        honest: nodes of a secure aggregation that are honest and left at least.
        shared: digest of the last shared arrays, and these.
    """

    run: str
    agreement: Agreement
    node: Node
    data: Interactions
    party: NetworkParty | None
    parties: tuple[str, ...]
    witness: Witness
    noise: Callable[[int], float]
    fitting: Fitting
    folder: Path
    answers: Answers
    least: int
    excess: float = 1.0
    honest: int | None = None
    shared: tuple[str, Arrays] = ("", {})

    def take(self, digest: str, shared: Arrays) -> None:
        """Take in shared arrays.

        Raises:
            DamagedError: if they are none of the model's.
            PlanError: if other items are to take part than before in this run.
        """
        self.fitting.check(shared)
        if SERVED in shared:
            served = hashlib.sha256(shared[SERVED].tobytes()).hexdigest().encode()
            _keep(
                self.folder / "served",
                served,
                "other items take part than before in this run; a run cannot change its items",
            )
        self.shared = digest, shared

    def measures(self, part: Part) -> bool:
        """Whether enough users hold out something of a part for the node to say so; not where sums hide it in noise."""
        if hides_sums(self.agreement.plan):
            return False
        return self.node.holding(part) >= self.least


def agree(config: NodeConfig, offer: Offer, run: str, folder: Path, coordinator: str) -> Budget | None:
    """Check an offer against all that the owner wants, before any data is read; returns the budget of a private run.

    Raises:
        PlanError: with every reason why not.
    """
    budget = config.open_budget() if offer.plan.privacy is not None else None
    _keep(
        folder / "terms.json",
        _terms(offer),
        "this run was opened with another plan, aggregation or nodes; a run cannot change these",
    )
    begun = budget is not None and budget.reserved(run, config.name)
    admit(
        config,
        offer.plan,
        coordinator=coordinator,
        parties=offer.parties,
        secure=offer.secure,
        budget=None if begun else budget,
    )
    return budget


def open_run_here(
    config: NodeConfig,
    key: SigningKey,
    offer: Offer,
    run: str,
    folder: Path,
    budget: Budget | None,
    chance: Chance,
) -> OpenedHere:
    """Load the owner's data and found the node that serves a run that was agreed to.

    Args:
        config: the owner's.
        key: the node's.
        offer: agreed to.
        run: its number.
        folder: of the run, in the owner's home.
        budget: of a private run.
        chance: where secrets come from.

    Raises:
        PlanError: if catalog or data do not fit the plan, or the data changed since the run was opened first.
    """
    plan = offer.plan
    catalog = Catalog.from_json_lines(offer.catalog, "the offered catalog")
    agreement = Agreement.of(plan, catalog)
    config.limits.check_model(agreement.model, len(catalog))
    _check_public(agreement)
    data, digest = _load(config, agreement, folder)
    check_grouping(data, agreement.groups)
    least = max(config.policy.min_clients, plan.min_clients)
    check_users(agreement, data.n_users, 0 if offer.secure else least, config.policy.declared_min_users or least)
    changed = "the node's data changed since the run was opened; restore the data, or start another run"
    _keep(folder / "data", digest.encode(), changed)  # private rows and charges are of those users
    own_items = None if plan.privacy is not None else config.policy.min_item_clients
    floors = Floors(least, masked=offer.secure, min_item_clients=own_items)
    salts = KeyedSource(hashlib.blake2b(b"salts of receipts", key=key.secret, digest_size=16).digest()).child(run)
    home = folder / "private" / config.name
    node = found_node(config.name, [agreement.divided(data)], agreement, home, floors, chance, budget, salts)
    cut = node.weighed()["cut"]
    if cut and plan.weights is not None:
        _LOG.warning("%s", plan.weights.remark(cut))
    guard, declared = node.guard, config.policy.declared_min_users or least
    if guard is not None:
        guard.run = run
    shares = guard is not None and guard.terms.distributed
    party, honest, excess = None, None, 1.0
    if offer.secure:
        who, honest, fewest = honest_of(offer.parties)
        own = replace(secure_floors(config, plan), run=run)
        if shares:
            excess = math.sqrt(len(offer.parties) / honest)
            own = replace(own, parties=max(own.parties, fewest))
        party = NetworkParty(key, own, declared, folder / "party.json")
        if guard is not None:
            guard.parties = who, honest

    def noise(round: int) -> float:
        return guard.charges[round].noise_multiplier if shares and guard is not None else 0.0

    assert config.policy.coordinator is not None
    witness = Witness(folder / "seen", PublicKey.parse(config.policy.coordinator), key)
    return OpenedHere(
        run,
        agreement,
        node,
        data,
        party,
        offer.parties,
        witness,
        noise,
        fitting=Fitting(agreement),
        folder=folder,
        answers=Answers(FileStore(folder), repeats=plan.asynchronous is not None),
        least=declared,
        excess=excess,
        honest=honest,
    )


def honest_of(parties: Sequence[str]) -> tuple[str, int, int]:
    """Of the nodes of a secure run: a digest of who they are, how many are honest and left in a sum at least, and how
    many are left at least."""
    keys = sorted(PublicKey.parse(text).key for text in parties)
    shape = invite("run", 0, bytes(32), keys, Layout((COUNTS,)))
    who = hashlib.sha256(b"".join(keys)).hexdigest()
    return who, shape.min_parties - shape.colluders, shape.min_parties


def _load(config: NodeConfig, agreement: Agreement, folder: Path) -> tuple[Interactions, str]:
    """The owner's data in the terms of the agreed catalog, and a digest by which a change of it is noticed; what is
    left out is counted and kept.

    Whether it can be opened depends on nothing that single users have, for catalog and cleaning are a coordinator's.
    Where sums hide in noise and no catalog is pinned, the digest is of the whole source: else a coordinator that opens
    a run again would be told whether anybody touched the few items of its catalog meanwhile.
    """
    plan, catalog = agreement.plan, agreement.catalog
    own, reading = config.data, config.data.reading()
    cleaning, asked = agreed_cleanings(own.cleaning, plan.data.cleaning)
    asked = asked.model_copy(update=_values_left(agreement))
    # read by itself: in terms of an agreed catalog the digest would be another for every federation
    as_owned = None
    if own.digest is not None or (hides_sums(plan) and not config.policy.catalogs):
        as_owned = _digest_as_owned(config)
    if own.digest is not None and as_owned != own.digest:
        raise PlanError("the node's data does not match data.digest; its owner can run 'fedrec node check'")
    try:
        source = load_source(own.source, cleaning=cleaning, catalog=catalog, unknown_items="skip", **reading)
        data, report = clean(source.interactions, asked)
    except NothingLeftError as error:
        _LOG.warning("%s; the node takes part without users", error)
        data = Interactions.nobody(catalog)
        return data, as_owned or digest_of(data)
    if remark := values_remark([plan], data):
        _LOG.warning("%s", remark)
    if source.left_out.height:
        source.left_out.write_parquet(folder / "left_out.parquet")
    for reason, count in {**source.left_out_counts, **report.counts}.items():
        if count:
            _LOG.info("left out: %d for %s", count, reason)
    return data, as_owned or digest_of(data)


def _values_left(agreement: Agreement) -> dict[str, object]:
    """Cleaning that leaves out values that the model cannot use: an error about one of them would tell of one user."""
    plan, scale = agreement.plan, rating_scale(agreement.model)
    cleaning = plan.data.cleaning
    least, most = cleaning.lowest_rating, cleaning.rating_at_most
    if plan.weights is not None:
        return {"rating_at_least": max(least or 0.0, 0.0)}
    if scale is None:
        return {}
    return {
        "rating_at_least": scale[0] if least is None else max(least, scale[0]),
        "rating_at_most": scale[1] if most is None else min(most, scale[1]),
    }


def _digest_as_owned(config: NodeConfig) -> str:
    """Digest of the source in the owner's own terms, as 'fedrec node check' prints it; a word where nothing is left."""
    try:
        return load_source(config.data.source, cleaning=config.data.cleaning, **config.data.reading()).digest
    except NothingLeftError:
        return "nothing is left"


def _check_public(agreement: Agreement) -> None:
    """Make what the model reads of the catalog before any round needs it.

    Raises:
        PlanError: if this machine cannot, or has another encoder than the plan was made with.
    """
    try:
        _ = agreement.public
    except InputError as error:
        raise PlanError(f"item features cannot be made here as the plan says: {error}") from None


def _terms(offer: Offer) -> bytes:
    terms = {"plan": offer.plan.digest, "secure": offer.secure, "parties": sorted(offer.parties)}
    return json.dumps(terms).encode()


def _keep(path: Path, data: bytes, otherwise: str) -> None:
    """Write a file once; later it must hold the same.

    Raises:
        PlanError: with the words of `otherwise`, if it does not.
    """
    if not path.exists():
        replace_file(path, data, secret=True)
    elif path.read_bytes() != data:
        raise PlanError(otherwise)

"""A node's configuration, `node.toml`: what the node's owner allows, whatever a coordinator requests."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from fedrec.data.cleaning import Cleaning
from fedrec.documents import MOST_SETTINGS, parse_toml, read_file, renamed_keys
from fedrec.errors import DamagedError, InputError, PlanError, suggestion
from fedrec.federation.data_plan import DataPlan
from fedrec.models.registry import explain, foremost, model_names
from fedrec.owner.limits import ResourceLimits
from fedrec.owner.node_names import check_node_name
from fedrec.owner.paths import place_at, source_at
from fedrec.owner.privacy_floors import PrivacyFloors
from fedrec.privacy.budget import Budget
from fedrec.record.keys import PublicKey

__all__ = ["NodeConfig", "Policy", "PrivacyFloors", "redacted"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PASSWORD = re.compile(r"(://[^\s/@:]*):.*@")
_SECRET_SETTING = re.compile(r"((?:password|passwd|pwd|secret|token|key)=)('[^']*'|\"[^\"]*\"|[^&\s]+)", re.IGNORECASE)
_SECRET_KEY = re.compile(r"\b[0-9a-fA-F]{64}\b")
_OLD_KEYS = {"most_clients": "max_clients", "vouch": "declared_min_users"}
"""Present names of keys of `[policy]`, by the names that older files may have."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Policy(_Part):
    """Which coordinator the node obeys, with which nodes it works, and which plans it accepts.

    Args:
        coordinator: public key of the only coordinator that the node obeys; with `None` every plan is refused.
        parties: public keys of the nodes that may take part in secure aggregation with this node, its own included.
        plans: digests of the allowed plans; if empty, every plan that meets the other rules is allowed.
        models: names of the allowed models; if empty, all models are allowed.
        min_clients: minimum number of clients of a sum that leaves unmasked, and of the total of a secure aggregation.
        declared_min_users: number of users that the node declares to have in secure aggregation; `min_clients` by
            default. Everybody in the federation learns this number. A node with fewer users than `min_clients` sets a
            smaller number. Where noise hides the sums, the node always declares this number; otherwise it declares the
            number if it has as many users, and 0 if not.
        max_clients: agreed maximum number of users of all nodes together; plans with a smaller number are refused.
            Without it a coordinator can find out how many users the node has by trying different numbers.
        catalogs: digests of the allowed catalogs; if empty, every catalog is allowed. Whoever chooses the catalog
            chooses which items the sums are about.
        cleaning: the cleaning that a plan may request as `data.cleaning`. Without it, a plan with privacy may request
            no cleaning, and a plan without privacy may request any. The owner's own cleaning, in table `data`, is
            applied first.
        openings_per_day: maximum number of runs that the coordinator may open within 24 hours, including refused
            ones; opening the same run again does not count. The default allows a run every quarter of an hour, which
            is more than training needs and too few to ask thousands of questions.
        secure: sums leave the node masked only.
        min_item_clients: for plans without privacy, minimum number of clients of an item that takes part; `None`
            allows all items. In unmasked sums the node removes items with fewer of its own clients; in masked sums the
            coordinator says which items have as many clients over all nodes.
        allow_leaky: accept plans that let training see held-out interactions.
        allow_updates: accept plans that keep exact sums at the coordinator, or that continue an earlier run from the
            sum of what changed.
    """

    coordinator: str | None = None
    parties: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    min_clients: int = Field(default=32, ge=2)
    declared_min_users: int | None = Field(default=None, ge=1)
    max_clients: int | None = Field(default=None, ge=1)
    catalogs: tuple[str, ...] = ()
    cleaning: Cleaning | None = None
    openings_per_day: int = Field(default=100, ge=1)
    secure: bool = False
    min_item_clients: int | None = Field(default=None, ge=2)
    allow_leaky: bool = False
    allow_updates: bool = False

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        return renamed_keys(value, _OLD_KEYS, "policy.")

    @field_validator("coordinator")
    @classmethod
    def _one_key(cls, value: str | None) -> str | None:
        return None if value is None else str(public_key(value, "policy.coordinator"))

    @field_validator("parties")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        keys = [public_key(text, f"policy.parties, number {number}") for number, text in enumerate(value, 1)]
        for number, key in enumerate(keys):
            for other in keys[:number]:
                if other.key == key.key or other.name == key.name:
                    same = "key" if other.key == key.key else "name"
                    names = f"{other.name} and {key.name}"
                    raise PlanError(f"policy.parties: {names} have the same {same}; list each node once")
        return tuple(map(str, keys))

    @field_validator("plans", "catalogs")
    @classmethod
    def _digests(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for number, text in enumerate(value, 1):
            if not _DIGEST.fullmatch(text):
                command = "check --plan' prints" if info.field_name == "plans" else "init --catalog' writes"
                raise PlanError(
                    f"policy.{info.field_name}, number {number}: a digest has 64 hexadecimal digits in lower "
                    f"case; 'fedrec node {command} the digest"
                )
        return value

    @field_validator("models")
    @classmethod
    def _registered(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in (names := model_names()):
                raise PlanError(f"policy.models: there is no model {name!r}{suggestion(name, names)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Policy:
        if self.coordinator is not None:
            coordinator = PublicKey.parse(self.coordinator)
            if any(PublicKey.parse(text).key == coordinator.key for text in self.parties):
                raise PlanError(
                    "policy.parties: contains the coordinator's key. Remove it: the parties hide this node's sums from "
                    "the coordinator, so the coordinator cannot be one of them"
                )
        return self


class NodeConfig(_Part):
    """Everything that an owner decides for a node.

    Args:
        name: name of the node, as the coordinator and the other nodes know it.
        home: absolute path of the owner's folder for the node's key, runs, journal and budget.
        data: the data that the node reads; a plan cannot choose other data. A path is absolute. With a `digest`, which
            'fedrec node check' prints, the node refuses to run on any other data.
        policy: which coordinator, nodes and plans are allowed.
        privacy: minimum privacy of users.
        limits: threads, memory and rounds.

    Example:
        >>> config = NodeConfig.make(
        ...     {"name": "shop-a", "home": "home", "data": {"source": "clicks.csv"}}, Path("/srv/shop"))
        >>> str(config.home), config.data.source, config.policy.min_clients
        ('/srv/shop/home', '/srv/shop/clicks.csv', 32)
    """

    name: str
    home: Path
    data: DataPlan
    policy: Policy = Policy()
    privacy: PrivacyFloors = PrivacyFloors()
    limits: ResourceLimits = ResourceLimits()

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        try:
            check_node_name(value)
        except InputError as error:
            raise PlanError(f"name: {error}") from None
        return value

    @field_validator("home")
    @classmethod
    def _placed(cls, value: Path) -> Path:
        if "\0" in str(value):
            raise PlanError("home: a path cannot contain a zero byte")
        return value

    @field_validator("data")
    @classmethod
    def _readable(cls, value: DataPlan) -> DataPlan:
        if value.source in ("", "-", "memory") or "\0" in value.source:
            raise PlanError(f"data.source: {value.source!r} cannot be read; name a file, a folder or a URL")
        if value.catalog is not None:
            raise PlanError("data.catalog: the items of a federation come with its plan; remove the key")
        return value

    @property
    def identity_path(self) -> Path:
        """Path of the node's signing key."""
        return self.home / "identity.key"

    @property
    def budget_path(self) -> Path:
        """Path of the journal of privacy charges."""
        return self.home / "budget.jsonl"

    @property
    def openings_path(self) -> Path:
        """Path of the journal of opened runs."""
        return self.home / "openings.jsonl"

    @property
    def pinned(self) -> frozenset[bytes]:
        """The public key of every party, 32 bytes each."""
        return frozenset(PublicKey.parse(text).key for text in self.policy.parties)

    def open_budget(self) -> Budget:
        """The journal of the privacy loss of the node's users, under the limits of this configuration.

        Creates the journal if there is no file. Every entry counts, also those from before the node was renamed.

        Raises:
            PlanError: if the journal was created with other limits.
            DamagedError: if the journal was changed.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _turn(self.home):
            return self._budget(self.budget_path)

    def read_budget(self) -> Budget:
        """The same journal, read without creating or writing a file; raises the errors of `open_budget`."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.budget_path.name
            if self.budget_path.exists():
                shutil.copyfile(self.budget_path, copy)
            try:
                return self._budget(copy)
            except DamagedError as error:
                raise DamagedError(str(error).replace(str(copy), str(self.budget_path))) from None

    def _budget(self, path: Path) -> Budget:
        limits, budget = self.privacy.limits, Budget(path, sole=True)
        if budget.limits is None:
            return Budget(path, limits, sole=True)
        if budget.limits == limits:
            return budget
        began, now = vars(budget.limits), {} if limits is None else vars(limits)
        differ = ", ".join(f"{key} {began[key]}, now {now.get(key)}" for key in began if began[key] != now.get(key))
        raise PlanError(
            f"the limits in node.toml differ from those in the first line of the budget {self.budget_path}: {differ}. "
            "Restore node.toml; or, to change what users were promised, edit the first line of the budget too"
        )

    @classmethod
    def make(cls, settings: Any, folder: Path, where: str = "node.toml") -> NodeConfig:
        """A configuration from settings; paths are relative to `folder`.

        Raises:
            PlanError: if a key is wrong; the text names the key and says what to do.
        """
        try:
            config = cls.model_validate(settings)
        except ValidationError as error:
            raise PlanError(redacted(explain(error, where, _keys(error)))) from None
        except InputError as error:
            raise PlanError(redacted(f"{where}: {error}")) from None
        home = place_at(folder, config.home)
        events = None if config.data.events is None else source_at(folder, config.data.events)
        users = None if config.data.users is None else source_at(folder, config.data.users)
        source = source_at(folder, config.data.source)
        data = config.data.model_copy(update={"source": source, "users": users, "events": events})
        return config.model_copy(update={"home": home, "data": data})

    @classmethod
    def read(cls, path: Path) -> NodeConfig:
        """Read `node.toml`.

        Raises:
            PlanError: if the file is missing or is not TOML, or if a key is wrong; the text names table and key.
        """
        try:
            data = read_file(path, MOST_SETTINGS)
        except OSError as error:
            raise PlanError(f"{path} cannot be read ({error.strerror}); 'fedrec node init NAME' makes one") from None
        except ValueError as error:
            raise PlanError(f"{path} cannot be a node.toml: {error}") from None
        try:
            settings = parse_toml(data.decode("utf-8"))
        except ValueError as error:
            raise PlanError(f"{path} is not TOML: {redacted(' '.join(str(error).split()))}") from None
        return cls.make(settings, path.absolute().parent, str(path))


def public_key(text: str, where: str) -> PublicKey:
    """The public key in a text. An error does not show the text, as somebody may have pasted a secret key.

    Raises:
        PlanError: if the text is not a public key.
    """
    try:
        return PublicKey.parse(text)
    except InputError:
        secret = ". The text looks like a secret key: show it to nobody" if _SECRET_KEY.search(text) else ""
        raise PlanError(
            f"{where}: not a public key. A public key looks like name+hash+base64; 'fedrec node init' prints it{secret}"
        ) from None


def redacted(text: str) -> str:
    """The text without passwords in URLs and settings, and without anything that may be a secret key.

    >>> redacted("postgresql://reader:swordfish@db.example/shop?sslpassword=pike")
    'postgresql://reader:…@db.example/shop?sslpassword=…'
    """
    return _SECRET_KEY.sub("…", _SECRET_SETTING.sub(r"\1…", _PASSWORD.sub(r"\1:…@", text)))


@contextmanager
def _turn(home: Path) -> Iterator[None]:
    """Lock the folder of the budget, so that no other process writes to the budget meanwhile."""
    folder = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _keys(error: ValidationError) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "data": DataPlan,
        "policy": Policy,
        "privacy": PrivacyFloors,
        "limits": ResourceLimits,
    }
    place = foremost(error)["loc"]
    table = tables.get(str(place[0])) if len(place) > 1 else NodeConfig
    return list((table or NodeConfig).model_fields)

"""A node's configuration, `node.toml`: what its owner allows, whatever a coordinator asks."""

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
from fedrec.documents import MOST_SETTINGS, parse_toml, read_file
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


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Policy(_Part):
    """Whose orders the node takes, and for what.

    Args:
        coordinator: public key of the one coordinator that is obeyed; `None` obeys nobody.
        parties: public keys of the nodes that may be in a secure sum with this one, its own included.
        plans: digests of the plans that are allowed; empty allows every plan that meets the rest.
        models: names of the models that are allowed; empty allows all.
        min_clients: fewest clients of a sum that leaves unmasked, and of the total of a secure sum.
        vouch: clients that the node vouches for in a secure sum, and of whom it says that there are any; `min_clients`
            by default. A node with fewer users sets a smaller number, which everybody learns. Of sums that hide in
            noise the node always says this number, as the owner's word; of others if it has as many, and else none.
        most_clients: users of all nodes together, as was agreed; no plan may say fewer. Without it a coordinator can
            find out how many users the node has.
        catalogs: digests of the catalogs that are allowed; empty allows any. Whoever chooses the catalog chooses of
            which items sums are.
        cleaning: what a plan may name as its `data.cleaning` besides none at all. Without it a plan with privacy may
            name none, and any other plan what it likes. The owner's own, in table `data`, is done first.
        openings_per_day: runs that the coordinator may open within 24 hours, refused ones counted; the same run may be
            opened again. A run every quarter of an hour is more than training takes, and too few for asking questions
            by the thousand.
        secure: let sums out masked only.
        min_item_clients: of plans without privacy, fewest clients of an item that takes part; `None` for all items. A
            plain sum is cleared of items of fewer clients of the node; in masked ones the coordinator says which items
            have as many over all nodes.
        allow_leaky: take part in plans that tell training about held-out interactions.
        allow_updates: take part in plans that keep exact sums at the coordinator, or go on from an earlier run by the
            sum of what changed since.
    """

    coordinator: str | None = None
    parties: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    min_clients: int = Field(default=32, ge=2)
    vouch: int | None = Field(default=None, ge=1)
    most_clients: int | None = Field(default=None, ge=1)
    catalogs: tuple[str, ...] = ()
    cleaning: Cleaning | None = None
    openings_per_day: int = Field(default=100, ge=1)
    secure: bool = False
    min_item_clients: int | None = Field(default=None, ge=2)
    allow_leaky: bool = False
    allow_updates: bool = False

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
                    raise PlanError(f"policy.parties: {other.name} and {key.name} have the same {same}; list each once")
        return tuple(map(str, keys))

    @field_validator("plans", "catalogs")
    @classmethod
    def _digests(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for number, text in enumerate(value, 1):
            if not _DIGEST.fullmatch(text):
                how = "check --plan' prints" if info.field_name == "plans" else "init --catalog' writes"
                raise PlanError(
                    f"policy.{info.field_name}, number {number}: a digest has 64 hexadecimal digits in lower case; "
                    f"'fedrec node {how} it"
                )
        return value

    @field_validator("models")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name not in (names := model_names()):
                raise PlanError(f"policy.models: model {name!r} is not known{suggestion(name, names)}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Policy:
        if self.coordinator is not None:
            coordinator = PublicKey.parse(self.coordinator)
            if any(PublicKey.parse(text).key == coordinator.key for text in self.parties):
                raise PlanError(
                    "policy.parties: the coordinator's key is among them; a coordinator that is also a party would "
                    "count as one of those who hide a node from it"
                )
        return self


class NodeConfig(_Part):
    """All that an owner decides for a node.

    Args:
        name: of the node, as the others know it.
        home: the owner's folder for identity, runs, journal and budget; absolute.
        data: what is read. A plan never says where; a source that is a path is absolute. A `digest`, which
            'fedrec node check' prints, holds every run to this very data.
        policy, privacy, limits: what is allowed.

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
            raise PlanError("home: a path holds no zero bytes")
        return value

    @field_validator("data")
    @classmethod
    def _readable(cls, value: DataPlan) -> DataPlan:
        if value.source in ("", "-", "memory") or "\0" in value.source:
            raise PlanError(f"data.source: {value.source!r} is nothing to read; name a file, a folder or a URL")
        return value

    @property
    def identity_path(self) -> Path:
        """Where the node's signing key is."""
        return self.home / "identity.key"

    @property
    def budget_path(self) -> Path:
        """Where the journal of privacy charges is."""
        return self.home / "budget.jsonl"

    @property
    def openings_path(self) -> Path:
        """Where the journal of opened runs is."""
        return self.home / "openings.jsonl"

    @property
    def pinned(self) -> frozenset[bytes]:
        """The 32 bytes of every party's key."""
        return frozenset(PublicKey.parse(text).key for text in self.policy.parties)

    def open_budget(self) -> Budget:
        """The journal of what the node's users have lost, under the limits of this configuration; made if need be.

        All of it counts for the node, whatever name it had at the time.

        Raises:
            PlanError: if the journal was begun under other limits.
            DamagedError: if it was changed.
        """
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _turn(self.home):
            return self._budget(self.budget_path)

    def read_budget(self) -> Budget:
        """The same to look at only: nothing is made or written; raises as `open_budget` does."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / self.budget_path.name
            if self.budget_path.exists():
                shutil.copyfile(self.budget_path, copy)
            try:
                return self._budget(copy)
            except DamagedError as error:
                raise DamagedError(str(error).replace(str(copy), str(self.budget_path))) from None

    def _budget(self, path: Path) -> Budget:
        limits, found = self.privacy.limits, Budget(path, sole=True)
        if found.limits is None:
            return Budget(path, limits, sole=True)
        if found.limits == limits:
            return found
        began, now = vars(found.limits), {} if limits is None else vars(limits)
        differ = ", ".join(f"{key} {began[key]}, now {now.get(key)}" for key in began if began[key] != now.get(key))
        raise PlanError(
            f"the budget {self.budget_path} was begun with other limits than node.toml has now: {differ}. "
            "Set node.toml back; or, to change what users were promised, edit the first line of the budget too"
        )

    @classmethod
    def make(cls, settings: Any, folder: Path, where: str = "node.toml") -> NodeConfig:
        """A configuration from settings; paths are relative to `folder`.

        Raises:
            PlanError: naming the key that is wrong and what to do.
        """
        try:
            config = cls.model_validate(settings)
        except ValidationError as error:
            raise PlanError(redacted(explain(error, where, _keys(error)))) from None
        except InputError as error:
            raise PlanError(redacted(f"{where}: {error}")) from None
        home = place_at(folder, config.home)
        data = config.data.model_copy(update={"source": source_at(folder, config.data.source)})
        return config.model_copy(update={"home": home, "data": data})

    @classmethod
    def read(cls, path: Path) -> NodeConfig:
        """Read `node.toml`.

        Raises:
            PlanError: if it is missing, is not TOML, or a key is wrong; says which table and key.
        """
        try:
            data = read_file(path, MOST_SETTINGS)
        except OSError as error:
            raise PlanError(f"{path} cannot be read ({error.strerror}); 'fedrec node init NAME' writes one") from None
        except ValueError as error:
            raise PlanError(f"{path} is no node.toml: {error}") from None
        try:
            settings = parse_toml(data.decode("utf-8"))
        except ValueError as error:
            raise PlanError(f"{path} is not TOML: {redacted(' '.join(str(error).split()))}") from None
        return cls.make(settings, path.absolute().parent, str(path))


def public_key(text: str, where: str) -> PublicKey:
    """A public key, or an error that does not show the text: somebody may have pasted a secret one.

    Raises:
        PlanError: if it is none.
    """
    try:
        return PublicKey.parse(text)
    except InputError:
        secret = ". It looks like a secret key: keep it to yourself" if _SECRET_KEY.search(text) else ""
        raise PlanError(
            f"{where}: not a public key; one looks like name+hash+base64, as 'fedrec node init' prints it{secret}"
        ) from None


def redacted(text: str) -> str:
    """The text without passwords in URLs and settings, and without what may be a secret key.

    >>> redacted("postgresql://reader:swordfish@db.example/shop?sslpassword=pike")
    'postgresql://reader:…@db.example/shop?sslpassword=…'
    """
    return _SECRET_KEY.sub("…", _SECRET_SETTING.sub(r"\1…", _PASSWORD.sub(r"\1:…@", text)))


@contextmanager
def _turn(home: Path) -> Iterator[None]:
    """Nobody writes to the budget meanwhile: it is locked by its folder."""
    folder = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _keys(error: ValidationError) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "data": DataPlan, "policy": Policy, "privacy": PrivacyFloors, "limits": ResourceLimits,
    }  # fmt: skip
    place = foremost(error)["loc"]
    table = tables.get(str(place[0])) if len(place) > 1 else NodeConfig
    return list((table or NodeConfig).model_fields)

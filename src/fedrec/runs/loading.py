"""The data of a plan, and where a run in this process puts its users."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedrec.data.catalog import Catalog
from fedrec.data.databases.urls import asks_a_server, is_url, located
from fedrec.data.identifiers import Identifiers
from fedrec.data.reading.catalogs import read_catalog
from fedrec.data.sources import LoadedSource, load_source
from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, InputError, RunError, UnnamedSourceError
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import SYSTEM, Chance, blinded, kept_secret
from fedrec.progress import stage

__all__ = [
    "Placement",
    "check_named",
    "declared_items",
    "load_again",
    "load_plan_data",
    "public_digest",
    "read_placement",
]

_MOST_NODES = 1 << 20


@dataclass(frozen=True)
class Placement:
    """How many nodes this process plays, who lives where, and how fast they are.

    It never changes a model that is trained in rounds of all nodes; the clock is part of what decides any other.

    Args:
        nodes: how many.
        partition: see `fedrec.data.partitions.partition`.
        folder: where training was started; a relative path of the data is looked for there too.
        secure: whether nodes mask their sums.
        budget: the owner's journal, which a run that goes on keeps.
        clock: how fast the nodes are, in virtual time (see `fedrec.engines.clock`); empty for equally fast ones.
    """

    nodes: int = 1
    partition: str = "hash"
    folder: str = ""
    secure: bool = False
    budget: str | None = None
    clock: str = ""

    @property
    def engine(self) -> type[LocalEngine]:
        """What plays the nodes."""
        if not self.secure:
            return LocalEngine
        from fedrec.engines.secure import SecureEngine

        return SecureEngine


def check_named(data: DataPlan, named: str | None, where: str) -> None:
    """Check that a database server is asked by the wish of the person at hand, not by that of who wrote a plan.

    Args:
        data: of the plan.
        named: the source that the person named: on the command line, or in a call.
        where: the plan or run.

    Raises:
        UnnamedSourceError: if it is a server, and not the named one.
        InputError: if another source was named than the plan's.
    """
    if named is None and asks_a_server(data.source):
        raise UnnamedSourceError(data.source, where)
    if named is not None and named != data.source:
        raise InputError(f"{where} is about {data.source}, not about {named}; its data cannot be changed")


def load_plan_data(
    data: DataPlan, folder: Path, catalog: Catalog | None = None, named: str | None = None
) -> LoadedSource:
    """Load and clean the data of a plan; `private/…` is inside the run's folder and has the model's `catalog`.

    Raises:
        UnnamedSourceError: if the source is a database server that is not also `named`; see `check_named`.
    """
    check_named(data, named, str(folder) if (folder / "plan.yaml").exists() else "the plan")
    options = data.reading()
    source = data.source
    if is_url(source):
        source = located(source, Path(read_placement(folder, Placement()).folder))
    elif source.startswith("private/"):
        source = str(folder / source)
        options["catalog"] = catalog
    else:
        source = _found(source, folder)
    if data.catalog is not None:
        options["described"] = _found(data.catalog, folder)
    if data.users is not None:
        options["users"] = _found(data.users, folder)
    if data.events is not None:
        if asks_a_server(data.events):
            raise InputError(
                f"{data.events}: events of a run are in a SQLite file. Read those of PostgreSQL with the data, by "
                "one query: SELECT user_id, item_id, timestamp FROM clicks UNION ALL "
                "SELECT user_id, item_id, timestamp FROM interactions"
            )
        options["events"] = data.events if is_url(data.events) else _found(data.events, folder)
    with stage("read", f"reading {data.source}"):
        return load_source(source, cleaning=data.cleaning, **options)


def declared_items(data: DataPlan, folder: Path) -> Identifiers | None:
    """The items that the plan of the run in `folder` declares in a file; `None` if it names no such file.

    Raises:
        InputError: if the file cannot be read.
    """
    return None if data.catalog is None else read_catalog(_found(data.catalog, folder), on_error=data.on_error).items


def _found(path: str, folder: Path) -> str:
    """A path as it is, or from where the run in `folder` was started."""
    started = Path(read_placement(folder, Placement()).folder) / path
    return str(started) if not Path(path).exists() and started.exists() else path


def load_again(
    plan: Plan, folder: Path, advice: str, catalog: Catalog | None = None, named: str | None = None
) -> LoadedSource:
    """Load the data of a run's plan once more, and check that it is what the run began with.

    Args:
        plan: the run's.
        folder: of the run.
        advice: what to do where the data is gone, for the error.
        catalog: of the run's model.
        named: the source as the person at hand named it.

    Raises:
        UnnamedSourceError: if the source is a database server that is not also `named`; see `check_named`.
        RunError: if the source is gone, or is other data now.
    """
    try:
        source = load_plan_data(plan.data, folder, catalog, named)
    except UnnamedSourceError:
        raise
    except InputError as error:
        raise RunError(f"{error}. {advice}") from None
    digest = public_digest(plan, source.digest, folder)
    if plan.data.digest not in (None, digest):
        raise RunError(
            f"{plan.data.source} is other data now (digest {digest[:12]}…, expected {str(plan.data.digest)[:12]}…). "
            f"{advice}"
        )
    return source


def public_digest(plan: Plan, digest: str, folder: Path, chance: Chance = SYSTEM) -> str:
    """The digest of a plan's data as the plan may show it: of a private run in `folder`, blinded with its secret."""
    if plan.privacy is None:
        return digest
    return blinded(digest, kept_secret(folder / "private", "digest", chance))


def read_placement(folder: Path, default: Placement) -> Placement:
    """The placement of a run; `default` where it has none.

    Raises:
        DamagedError: if the file does not hold one.
    """
    path = folder / "private" / "placement.json"
    if not path.exists():
        return default
    try:
        placement = Placement(**parse_json(read_file(path, MOST_SETTINGS)))
    except (OSError, ValueError, TypeError):
        raise DamagedError(f"{path} is damaged") from None
    words = (placement.partition, placement.folder, placement.clock)
    flags = type(placement.nodes) is int and type(placement.secure) is bool and 1 <= placement.nodes <= _MOST_NODES
    if not isinstance(placement.budget, str | None) or not flags or not all(isinstance(word, str) for word in words):
        raise DamagedError(
            f"{path} is damaged: nodes must be from 1 to {_MOST_NODES}, partition, folder and clock text, secure true "
            "or false"
        )
    return placement

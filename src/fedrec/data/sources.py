"""Loads data from any source: a named set, a synthetic set, a file, a folder or a database."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.cleaning import Cleaning, CleaningReport, clean
from fedrec.data.databases.urls import check_source, database_of, is_url
from fedrec.data.datasets import DATASETS, DataSet, Layout, dataset, find_folder
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.data.joining import with_events
from fedrec.data.reading.catalogs import describe, read_catalog, read_user_features, with_items, with_user_features
from fedrec.data.reading.files import STANDARD_INPUT
from fedrec.data.reading.readers import read_with_report, without_report
from fedrec.data.reading.reports import Loaded, ReadReport, no_rows_left_out
from fedrec.errors import InputError, suggestion
from fedrec.progress import stage

__all__ = ["LoadedSource", "load_data", "load_source"]

_ANY_SET = ("catalog", "on_error", "unknown_items", "keep_missing")


@dataclass(frozen=True, eq=False)
class LoadedSource:
    """Loaded interactions and their source.

    Args:
        interactions: the data, after cleaning if there was any.
        report: the report on reading.
        name: name of the set, file name without endings, or name of the table.
        digest: SHA-256 of the interactions, see `digests.digest_of`.
        cleaning: the report on cleaning; `None` without cleaning.
    """

    interactions: Interactions
    report: ReadReport
    name: str
    digest: str
    cleaning: CleaningReport | None = None

    @property
    def left_out(self) -> pl.DataFrame:
        """All rows that reading and cleaning left out, with step and reason (columns of `reports.LEFT_OUT`)."""
        cleaned = [] if self.cleaning is None else [self.cleaning.left_out]
        return pl.concat([self.report.left_out, *cleaned])

    def noting(self, remark: str | None) -> LoadedSource:
        """The same data, with the remark, if any, in the report."""
        if remark is None:
            return self
        return replace(self, report=replace(self.report, notes=(*self.report.notes, remark)))

    @property
    def left_out_counts(self) -> dict[str, int]:
        """Number of left-out rows for each reason."""
        return {**self.report.counts, **({} if self.cleaning is None else self.cleaning.counts)}


def load_data(source: str | os.PathLike[str], **options: Any) -> Interactions:
    """Load a named set, a synthetic set, a file, a folder or a table of a database.

    Args:
        source: a name (`ml-100k`, `amazon-kg/books`), `synthetic` or `synthetic:users=1000,items=500`, a path, or
            `postgresql://user@host:port/database?table=…` or `sqlite:///folder/file.db?table=…`, also with `query`.
        options: for files, the options of `read_interactions`; for databases, those of `databases.read_database`; for
            named sets, `catalog`, `on_error` and `unknown_items`.

    Raises:
        InputError: if there is no such set or file (the message says how to get it), or if a row cannot be used.

    Example:
        >>> load_data("synthetic:users=40,items=100,interactions_per_user=10,seed=1").n_users
        40
    """
    loaded = load_source(source, **options)
    return without_report(Loaded(loaded.interactions, loaded.report), "load_source")


@stage("read")
def load_source(
    source: str | os.PathLike[str],
    *,
    cleaning: Cleaning | None = None,
    described: str | os.PathLike[str] | None = None,
    users: str | os.PathLike[str] | None = None,
    events: str | None = None,
    **options: Any,
) -> LoadedSource:
    """`load_data` with reports and digest; with `cleaning` the data is cleaned too.

    Args:
        source, options: as of `load_data`.
        cleaning: how the data is cleaned; `None` leaves it as it is.
        described: a file of items with their titles, genres and other features, which join those of the data.
        users: a file with one row per user, whose columns join those of the data's users.
        events: a log of `fedrec serve`, whose events join the data, see `joining.with_events`.

    A registered name comes before a file of that name; write `./NAME` for the file. With `drop_missing` in `cleaning`,
    empty ratings and times become missing values instead of errors.
    """
    check_arguments(load_source, locals())
    text = os.fspath(source)
    if cleaning is not None and cleaning.drop_missing:
        options.setdefault("keep_missing", True)
    check_source(text, options.get("table"), options.get("query"))
    if is_url(text):
        loaded, name = _database(text, options), database_of(text, options.get("table"), options.get("query")).name
    elif text == "synthetic" or text.startswith("synthetic:"):
        options.pop("keep_missing", None)
        loaded, name = _synthetic(text, options), text
    elif text.split("/")[0] in DATASETS:
        loaded, name = _named(text, options), text
    else:
        loaded, name = _path(text, options), Path(text).name.split(".")[0] or text
    if described is not None:
        items = read_catalog(described, on_error=options.get("on_error", "raise"))
        loaded = replace(loaded, interactions=with_items(loaded.interactions, items))
    if users is not None:
        table = read_user_features(users, on_error=options.get("on_error", "raise"))
        loaded = replace(loaded, interactions=with_user_features(loaded.interactions, table))
    if events is not None:
        loaded = with_events(loaded, events, options.get("catalog"), options.get("unknown_items", "raise"))
    if cleaning is None:
        return LoadedSource(loaded.interactions, loaded.report, name, digest_of(loaded.interactions))
    data, report = clean(loaded.interactions, cleaning)
    return LoadedSource(data, loaded.report, name, digest_of(data), report)


def _named(text: str, options: dict[str, Any]) -> Loaded:
    name, _, domain = text.partition("/")
    entry = dataset(name)
    layout = _layout(entry, domain)
    for option in options:
        if option not in _ANY_SET:
            raise InputError(
                f"{option} does not apply to the named data set {text}; use {option} with the path of a file"
            )
    return _by_layout(find_folder(entry, layout), layout, options, text)


def _layout(entry: DataSet, domain: str) -> Layout:
    if domain in entry.layouts:
        return entry.layouts[domain]
    if not entry.domains:
        raise InputError(f"the data set {entry.name} has no parts; load {entry.name!r}")
    names = [f"{entry.name}/{known}" for known in entry.domains]
    if not domain:
        raise InputError(f"the data set {entry.name} has {len(names)} parts: load {' or '.join(map(repr, names))}")
    raise InputError(f"the data set {entry.name} has no part {domain!r}{suggestion(f'{entry.name}/{domain}', names)}")


def _by_layout(folder: Path, layout: Layout, options: dict[str, Any], name: str) -> Loaded:
    place = _file(folder, layout.interactions) if layout.interactions else folder
    loaded = read_with_report(place, **options)
    data = loaded.interactions
    if layout.catalog and options.get("catalog") is None:
        described = read_catalog(_file(folder, layout.catalog), encoding=layout.catalog_encoding)
        data = replace(data, catalog=describe(data.catalog.items, described))
    if layout.users:
        data = with_user_features(data, read_user_features(_file(folder, layout.users)))
    return Loaded(data, replace(loaded.report, source=name))


def _file(folder: Path, name: str) -> Path:
    return next(
        (folder / f"{name}{end}" for end in (".gz", ".zst") if (folder / f"{name}{end}").is_file()), folder / name
    )


def _path(text: str, options: dict[str, Any]) -> Loaded:
    known = inspect.signature(read_with_report).parameters
    for option in options:
        if option not in known or option == "path":
            raise InputError(f"{option!r} is not an option of reading{suggestion(option, list(known)[1:])}")
    place = Path(text)
    if place.is_dir():
        layout = next(
            (layout for layout in _folder_layouts() if all((place / file).is_file() for file in layout.files)), None
        )
        if layout is not None and not set(options) - set(_ANY_SET):
            return _by_layout(place, layout, options, text)
    if not place.exists() and not place.suffix and os.sep not in text and text != STANDARD_INPUT:
        raise InputError(f"{text!r} is neither a named data set nor a file{suggestion(text, DATASETS)}")
    return read_with_report(place, **options)


def _database(text: str, options: dict[str, Any]) -> Loaded:
    from fedrec.data.databases.reading import read_database

    known = inspect.signature(read_database).parameters
    for option in options:
        if option in ("where", "kinds"):
            instead = "WHERE kind = 'click'" if option == "where" else "CASE kind WHEN 'view' THEN 1 … END AS weight"
            raise InputError(
                f"{option} does not apply to a database; write it in the query instead: SELECT … {instead}"
            )
        if option not in known or option == "source":
            raise InputError(f"{option!r} is not an option of reading a database{suggestion(option, list(known)[1:])}")
    return read_database(text, **options)


def _folder_layouts() -> list[Layout]:
    return [layout for entry in DATASETS.values() for domain, layout in entry.layouts.items() if not domain]


def _synthetic(text: str, options: dict[str, Any]) -> Loaded:
    from fedrec.data.synthetic import synthetic

    settings: dict[str, Any] = dict(options)
    known = inspect.signature(synthetic).parameters
    for part in filter(None, text.partition(":")[2].split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"{text}: write {part!r} as key=value, such as users=1000")
        settings[key.strip()] = _number(value.strip(), f"{text}: {key.strip()}")
    for key in settings:
        if key not in known:
            raise InputError(f"{text}: {key!r} is not a setting of synthetic data{suggestion(key, known)}")
    data = synthetic(**settings)
    return Loaded(data, ReadReport(text, "synthetic", {}, len(data), no_rows_left_out()))


def _number(text: str, where: str) -> int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    plain = text.replace("_", "")
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        return float(plain)
    except ValueError:
        raise InputError(f"{where} = {text!r} is not a number, true or false") from None

"""The registry of named data sets: their contents, their authors and their files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fedrec.errors import InputError, suggestion

__all__ = ["DATASETS", "Archive", "DataSet", "Layout", "cache_folder", "dataset", "find_folder"]

_MOVIELENS = "https://files.grouplens.org/datasets/movielens/"
_MOVIELENS_TERMS = "research use; not to be redistributed without permission of GroupLens"
_HARPER = (
    "F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and Context. "
    "ACM Transactions on Interactive Intelligent Systems 5(4), 2015."
)
_MCAULEY = (
    "J. McAuley, C. Targett, Q. Shi and A. van den Hengel. Image-based Recommendations on Styles and Substitutes. "
    "SIGIR 2015."
)


@dataclass(frozen=True)
class Archive:
    """A zip file to fetch: address, exact size in bytes, SHA-256, and the most it may unpack to."""

    url: str
    bytes: int
    sha256: str
    unpacked_bytes: int


@dataclass(frozen=True)
class Layout:
    """The files of a set; an empty `interactions` means the folder itself (train and test lists)."""

    interactions: str
    catalog: str | None = None
    catalog_encoding: str | None = None
    users: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that loading needs."""
        named = (self.interactions, self.catalog, self.users)
        return ("train.txt", "test.txt") if not self.interactions else tuple(name for name in named if name)


@dataclass(frozen=True)
class DataSet:
    """A named data set.

    Args:
        name: the name to load it by.
        about: description in one sentence.
        licence: permitted uses.
        citation: the publication to cite.
        sizes: users, items and interactions of each domain; the name is empty if the set has a single domain.
        layouts: the files of each domain.
        archive: address for downloads; `None` for a set that is only read from a folder.
    """

    name: str
    about: str
    licence: str
    citation: str
    sizes: dict[str, tuple[int, int, int]]
    layouts: dict[str, Layout]
    archive: Archive | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of every domain."""
        return tuple(dict.fromkeys(file for layout in self.layouts.values() for file in layout.files))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains; empty if the set has a single domain."""
        return tuple(domain for domain in self.layouts if domain)


def _movielens(
    name: str, about: str, sizes: tuple[int, int, int], layout: Layout, size: int, sha256: str, terms: str
) -> DataSet:
    unpacked = 12 * size
    archive = Archive(f"{_MOVIELENS}{name}.zip", size, sha256, unpacked)
    return DataSet(name, about, terms, _HARPER, {"": sizes}, {"": layout}, archive)


_RATINGS_CSV = Layout("ratings.csv", "movies.csv")
_SETS = (
    _movielens(
        "ml-100k",
        "MovieLens 100K: film ratings of 1997–98, with age, gender and occupation of the users",
        (943, 1_682, 100_000),
        Layout("u.data", "u.item", users="u.user"),
        4_924_029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        _MOVIELENS_TERMS,
    ),
    _movielens(
        "ml-1m",
        "MovieLens 1M: film ratings of 2000–03, with age, gender and occupation of the users",
        (6_040, 3_706, 1_000_209),
        Layout("ratings.dat", "movies.dat", "latin-1", "users.dat"),
        5_917_549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        _MOVIELENS_TERMS,
    ),
    DataSet(
        "ml-1m-sequences",
        "MovieLens 1M as sequences: films with at least five ratings, oldest first, without ratings and times",
        _MOVIELENS_TERMS,
        _HARPER,
        {"": (6_040, 3_416, 999_601)},
        {"": Layout("sequences.txt", "movies.dat")},
    ),
    _movielens(
        "ml-latest-small",
        "MovieLens latest, small: film ratings up to 2018; GroupLens changes this set from time to time",
        (610, 9_724, 100_836),
        _RATINGS_CSV,
        978_202,
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        "research use; may be redistributed under the same terms",
    ),
    _movielens(
        "ml-20m",
        "MovieLens 20M: film ratings from 1995 to 2015",
        (138_493, 26_744, 20_000_263),
        _RATINGS_CSV,
        198_702_078,
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        _MOVIELENS_TERMS,
    ),
    _movielens(
        "ml-25m",
        "MovieLens 25M: film ratings from 1995 to 2019",
        (162_541, 59_047, 25_000_095),
        _RATINGS_CSV,
        261_978_986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        _MOVIELENS_TERMS,
    ),
    DataSet(
        "gowalla",
        "Gowalla: places visited, with the train and test split of the LightGCN benchmark",
        "research use",
        "E. Cho, S. A. Myers and J. Leskovec. Friendship and Mobility. KDD 2011. "
        "Split: X. He et al. LightGCN. SIGIR 2020.",
        {"": (29_858, 40_981, 1_027_370)},
        {"": Layout("")},
    ),
    DataSet(
        "amazon-books-movies",
        "Amazon ratings of books and of movies, dense part, for transfer between domains; 1,329 users are in both",
        "research use",
        _MCAULEY,
        {"books": (1_426, 723, 38_149), "movies": (1_381, 1_338, 68_023)},
        {"books": Layout("books.inter"), "movies": Layout("movies.inter")},
    ),
    DataSet(
        "amazon-kg",
        "Amazon purchases of books and of movies, a title for every item; 1,062 users are in both",
        "research use",
        _MCAULEY,
        {"books": (10_485, 8_318, 115_572), "movies": (5_648, 4_779, 67_066)},
        {"books": Layout("books.inter", "books.link"), "movies": Layout("movies.inter", "movies.link")},
    ),
)

DATASETS: dict[str, DataSet] = {entry.name: entry for entry in _SETS}
"""Every named set."""


def dataset(name: str) -> DataSet:
    """The named set.

    >>> dataset("ml-100k").sizes
    {'': (943, 1682, 100000)}

    Raises:
        InputError: no set has this name.
    """
    if name not in DATASETS:
        raise InputError(f"no data set is called {name!r}{suggestion(name, DATASETS)}")
    return DATASETS[name]


def cache_folder() -> Path:
    """Folder of fetched sets: `$FEDREC_CACHE`, or `~/.cache/fedrec`."""
    return Path(os.environ.get("FEDREC_CACHE") or Path.home() / ".cache" / "fedrec")


def find_folder(entry: DataSet, layout: Layout | None = None) -> Path:
    """The folder with the files of a set: `$FEDREC_DATA/NAME`, or `NAME` in the cache.

    Raises:
        InputError: if the set is in neither folder; the message says how to get the set.
    """
    places = [cache_folder() / entry.name]
    given = os.environ.get("FEDREC_DATA")
    if given:
        places.insert(0, Path(given) / entry.name)
    files = layout.files if layout else entry.files
    for place in places:
        if place.is_dir():
            missing = [file for file in files if not _present(place, file)]
            if missing:
                raise InputError(
                    f"{place}: the data set {entry.name} lacks {', '.join(missing)}. Copy the data set there again"
                )
            return place
    looked = " and ".join(str(place) for place in places)
    put = f"put {', '.join(files)} into {places[0]}"
    how = f"Run `fedrec data fetch {entry.name}`, or {put}" if entry.archive else f"fedrec cannot download it: {put}"
    if not given:
        how += f", or set FEDREC_DATA to the folder that holds the folder {entry.name}"
    raise InputError(f"the data set {entry.name} is not on this machine (looked in {looked}). {how}")


def _present(place: Path, file: str) -> bool:
    return any((place / f"{file}{ending}").is_file() for ending in ("", ".gz", ".zst"))

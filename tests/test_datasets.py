"""Named sets have the published sizes; catalogs come with titles and genres; sources are told apart."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedrec.data.cleaning import Cleaning
from fedrec.data.datasets import DATASETS, dataset
from fedrec.data.digests import digest_of
from fedrec.data.reading.catalogs import describe, read_catalog, read_user_features, with_user_features
from fedrec.data.reading.frames import interactions_from
from fedrec.data.sources import load_data, load_source
from fedrec.errors import InputError


def needs(name: str) -> None:
    folder = os.environ.get("FEDREC_DATA")
    if not folder or not (Path(folder) / name.split("/")[0]).is_dir():
        pytest.skip(f"the data set {name} is not in FEDREC_DATA")


SIZED = [
    ("ml-100k", 943, 1_682, 100_000),
    ("ml-1m-sequences", 6_040, 3_416, 999_601),
    ("gowalla", 29_858, 40_981, 810_128 + 217_242),
    ("amazon-books-movies/books", 1_426, 723, 38_149),
    ("amazon-books-movies/movies", 1_381, 1_338, 68_023),
    ("amazon-kg/books", 10_485, 8_318, 115_572),
    ("amazon-kg/movies", 5_648, 4_779, 67_066),
]


@pytest.mark.parametrize(("name", "users", "items", "interactions"), SIZED)
def test_named_sets_have_their_published_sizes(name: str, users: int, items: int, interactions: int) -> None:
    needs(name)
    loaded = load_source(name)
    data = loaded.interactions
    assert (data.n_users, data.n_items, len(data)) == (users, items, interactions)
    assert dataset(name.split("/")[0]).sizes[name.partition("/")[2]] == (users, items, interactions)
    assert loaded.report.left_out.height == 0
    assert loaded.report.rows == interactions
    assert (loaded.name, loaded.digest) == (name, digest_of(data))
    if data.times is not None:
        assert np.all((np.diff(data.times) >= 0) | np.isin(np.arange(1, len(data)), data.indptr))


def test_movielens_100k_has_titles_genres_and_user_features() -> None:
    needs("ml-100k")
    data = load_data("ml-100k")
    features, users = data.catalog.features, data.user_features
    assert features is not None
    assert users is not None
    position = data.catalog.items.find([542])[0]
    assert data.catalog.title(position) == "Pocahontas (1995)"
    assert features["genres"][int(position)].to_list() == ["Animation", "Children's", "Musical", "Romance"]
    assert features["title"].str.contains("é", literal=True).any()
    assert users.row(0, named=True) == {"age": 24, "gender": "M", "occupation": "technician", "zip": "85711"}
    first = data.to_frame().row(0)
    assert first == (1, 168, 5.0, 874965478.0, *first[4:])


def test_sequences_keep_their_order_and_original_ids() -> None:
    needs("ml-1m-sequences")
    data = load_data("ml-1m-sequences")
    assert data.times is None
    assert data.to_frame()["item_id"].head(4).to_list() == [3186, 1270, 1721, 1022]
    assert data.catalog.title(0) == "Toy Story (1995)"


def test_gowalla_keeps_its_given_split() -> None:
    needs("gowalla")
    data = load_data("gowalla")
    assert data.part is not None
    assert np.bincount(data.part).tolist() == [810_128, 0, 217_242]


def test_link_files_give_readable_titles() -> None:
    needs("amazon-kg")
    data = load_data("amazon-kg/books")
    assert data.catalog.title(data.catalog.items.find(["000100039X"])[0]) == "The Prophet (book)"
    assert data.catalog.features is not None
    assert data.catalog.features["title"].null_count() == 0


def test_cleaning_changes_the_digest_and_is_reported() -> None:
    needs("ml-100k")
    plain, cleaned = load_source("ml-100k"), load_source("ml-100k", cleaning=Cleaning(rating_at_least=4))
    assert cleaned.cleaning is not None
    assert cleaned.cleaning.left_out.height == 100_000 - 55_375 == 100_000 - len(cleaned.interactions)
    assert plain.digest != cleaned.digest


def test_a_folder_is_read_like_the_named_set_it_holds() -> None:
    needs("ml-100k")
    folder = Path(os.environ["FEDREC_DATA"]) / "ml-100k"
    assert digest_of(load_data(folder)) == digest_of(load_data("ml-100k"))
    assert load_data(folder).catalog.has_titles


def test_every_entry_of_the_registry_is_complete() -> None:
    for name, entry in DATASETS.items():
        assert name == entry.name
        assert entry.licence
        assert entry.citation
        assert entry.files
        assert set(entry.sizes) == set(entry.layouts)
        if entry.archive is not None:
            assert entry.archive.url.startswith("https://")
            assert len(bytes.fromhex(entry.archive.sha256)) == 32


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDREC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FEDREC_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"Run `fedrec data fetch ml-100k`, or put u.data, u.item, u.user into"):
        load_data("ml-100k")
    with pytest.raises(
        InputError, match=r"gowalla is not on this machine.*fedrec cannot download it: put train.txt, test.txt"
    ):
        load_data("gowalla")
    (tmp_path / "data" / "gowalla").mkdir(parents=True)
    with pytest.raises(InputError, match=r"gowalla lacks train.txt, test.txt"):
        load_data("gowalla")
    (tmp_path / "cache" / "ml-latest-small").mkdir(parents=True)
    (tmp_path / "cache" / "ml-latest-small" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3.5,9\n")
    movies = 'movieId,title,genres\n1,Other,(no genres listed)\n2,"American President, The",Comedy|Drama\n'
    (tmp_path / "cache" / "ml-latest-small" / "movies.csv").write_text(movies)
    data = load_data("ml-latest-small")
    assert data.catalog.title(0) == "American President, The"
    assert data.catalog.features is not None
    assert data.catalog.features["genres"].to_list() == [["Comedy", "Drama"]]


def test_names_that_do_not_fit_are_explained() -> None:
    with pytest.raises(InputError, match=r"load 'amazon-kg/books' or 'amazon-kg/movies'"):
        load_data("amazon-kg")
    with pytest.raises(InputError, match=r"no part 'film'.*"):
        load_data("amazon-kg/film")
    with pytest.raises(InputError, match=r"'ml-10k' is neither a named data set nor a file. Did you mean 'ml-100k'"):
        load_data("ml-10k")
    with pytest.raises(InputError, match=r"format does not apply to the named data set ml-100k"):
        load_data("ml-100k", format="csv")
    with pytest.raises(InputError, match=r"no data set is called 'ml-1k'"):
        dataset("ml-1k")


def test_synthetic_sources_take_settings() -> None:
    loaded = load_source("synthetic:users=50,items=100,interactions_per_user=10,seed=3")
    assert (loaded.interactions.n_users, loaded.interactions.n_items) == (50, 100)
    again = load_source("synthetic:users=50,items=100,seed=3", interactions_per_user=10)
    assert again.digest == loaded.digest
    with pytest.raises(InputError, match=r"'user' is not a setting of synthetic data. Did you mean 'users'"):
        load_data("synthetic:user=3")
    with pytest.raises(InputError, match=r"users = 'many' is not a number"):
        load_data("synthetic:users=many")
    with pytest.raises(InputError, match=r"write 'users' as key=value"):
        load_data("synthetic:users")


def test_paths_take_options_and_missing_values_wait_for_cleaning(tmp_path: Path) -> None:
    path = tmp_path / "log.csv.gz"
    path.write_text("who,item,rating\n1,2,\n1,3,4\n")
    with pytest.raises(InputError, match=r"line 2: rating is missing"):
        load_data(path, columns={"user_id": "who"})
    loaded = load_source(path, columns={"user_id": "who"}, cleaning=Cleaning(drop_missing=True))
    assert (loaded.name, len(loaded.interactions)) == ("log", 1)
    with pytest.raises(InputError, match=r"'colums' is not an option of reading. Did you mean 'columns'"):
        load_data(path, colums={})


def test_catalogs_keep_every_feature(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,name,price,zip,tags\n2,Two,3.5,007,\n1,,4,010,x\n")
    features = read_catalog(path).features
    assert features is not None
    assert features.to_dicts() == [
        {"title": None, "price": 4.0, "zip": "010", "tags": "x"},
        {"title": "Two", "price": 3.5, "zip": "007", "tags": None},
    ]
    buffer = io.BytesIO()
    pl.DataFrame({"asin": ["b", "a"], "title": ["B", "A"]}).write_parquet(buffer)
    (tmp_path / "items.parquet").write_bytes(buffer.getvalue())
    assert read_catalog(tmp_path / "items.parquet").title(0) == "A"


def test_a_catalog_of_json_lines_is_that_of_the_same_table(tmp_path: Path) -> None:
    lines = [
        '{"sku": "b", "title": "B", "tags": ["x", "y"], "price": 2}',
        "",
        '{"sku": "a", "title": null, "price": 1.5}',
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    catalog = read_catalog(tmp_path / "items.jsonl", columns={"item_id": "sku"})
    assert catalog.features is not None
    assert catalog.features.to_dicts() == [
        {"title": None, "tags": None, "price": 1.5},
        {"title": "B", "tags": ["x", "y"], "price": 2.0},
    ]
    (tmp_path / "items.jsonl").write_text('{"item_id": 1}\n{"item_id": 2}\n{"item_id": 1}\n')
    with pytest.raises(InputError, match=r"items\.jsonl, line 3: item_id 1 is listed a second time"):
        read_catalog(tmp_path / "items.jsonl")
    (tmp_path / "items.jsonl").write_text('{"item_id": 1}\n[2]\n')
    with pytest.raises(InputError, match=r"items\.jsonl: (cannot be read as JSON lines|every line must hold one)"):
        read_catalog(tmp_path / "items.jsonl")


def test_a_catalog_beside_the_data_names_its_items_and_adds_those_that_nobody_has(tmp_path: Path) -> None:
    data, items = tmp_path / "clicks.csv", tmp_path / "items.csv"
    data.write_text("user_id,item_id\n1,b\n1,d\n2,b\n")
    items.write_text("item_id,title\na,New\nb,Bee\nc,Cee\n")
    found = load_source(data, described=items).interactions
    assert found.catalog.items.series.to_list() == ["a", "b", "c", "d"]
    assert [found.catalog.title(place) for place in range(4)] == ["New", "Bee", "Cee", "d"]
    assert found.to_frame()["item_id"].to_list() == load_source(data).interactions.to_frame()["item_id"].to_list()
    cleaned = load_source(data, described=items, cleaning=Cleaning(min_item_interactions=2)).interactions
    assert cleaned.catalog.items.series.to_list() == ["a", "b", "c"]
    data.write_text("user_id,item_id\n1,7\n1,8\n")
    with pytest.raises(
        InputError, match="ids of the data are whole numbers and those of the catalog text, such as 'a'"
    ):
        load_source(data, described=items)


def test_recbole_items_have_lists_of_words(tmp_path: Path) -> None:
    path = tmp_path / "ml.item"
    path.write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n1\tToy Story\t1995\tA C\n"
    )
    catalog = read_catalog(path)
    assert catalog.features is not None
    assert catalog.features.to_dicts() == [{"title": "Toy Story", "release_year": 1995, "genres": ["A", "C"]}]


def test_a_repeated_or_missing_item_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n1,a\n2,b\n1,c\n")
    with pytest.raises(InputError, match=r"items.csv, line 4: item_id 1 is listed a second time"):
        read_catalog(path)
    path.write_text("item_id,title\n1,a\n,b\n")
    with pytest.raises(InputError, match=r"items.csv, line 3: item_id is missing"):
        read_catalog(path)
    path.write_text("item_id,title\n1,a,x\n")
    with pytest.raises(InputError, match=r"items.csv, line 2: .* has 3 fields where 2 are expected"):
        read_catalog(path)


def test_features_join_whatever_the_type_of_their_ids() -> None:
    data = interactions_from({"user": ["2", "1"], "item": ["5", "6"]})
    described = with_user_features(data, pl.DataFrame({"user_id": [1, 3], "age": [10, 30]}))
    assert described.user_features is not None
    assert described.user_features.rows() == [(10,), (None,)]
    titles = describe(data.catalog.items, interactions_from({"user": [1], "item": [5]}, user_columns=[]).catalog)
    assert titles.features is None


def test_user_files_of_movielens_1m(tmp_path: Path) -> None:
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    table = read_user_features(tmp_path / "users.dat")
    assert table.row(1, named=True) == {"user_id": 2, "gender": "M", "age": 56, "occupation": 16, "zip": 70072}

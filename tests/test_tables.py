import re
import subprocess
import sys
import threading

import numpy as np
import polars as pl
import pytest

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.errors import FedrecError, InputError
from fedrec.recommending.tables import recommendation_schema, recommendation_table, write_parquet_stream
from fedrec.recommending.topk import top_items

SCHEMA = {"user_id": pl.Int64(), "item_id": pl.String(), "score": pl.Float32(), "rank": pl.Int32()}


def batches(count, rows=1000):
    for number in range(count):
        yield pl.DataFrame(
            {
                "user_id": np.arange(rows) + number * rows,
                "item_id": [f"item {i % 7}" for i in range(rows)],
                "score": np.linspace(1, 0, rows, dtype=np.float32),
                "rank": np.full(rows, 1, dtype=np.int32),
            }
        )


def test_every_row_of_the_table_is_one_place_of_the_ranked_lists():
    rng = np.random.default_rng(0)
    users = Identifiers.of([f"u{i}" for i in range(30)])
    catalog = Catalog(Identifiers.of(rng.choice(10_000, 40, replace=False)))
    scores = rng.random((12, 40), dtype=np.float32)
    scores[rng.random(scores.shape) < 0.8] = -np.inf
    scores[3] = np.nan
    positions = rng.permutation(30)[:12]
    items, best = top_items(scores, 15)
    table = recommendation_table(users, positions, items, best, catalog)
    wanted = [
        (users[position], catalog.items[item], float(score), rank)
        for position, row, row_scores in zip(positions, items, best, strict=True)
        for rank, (item, score) in enumerate(zip(row, row_scores, strict=True), start=1)
        if item >= 0
    ]
    assert table.rows() == wanted
    assert table.schema == recommendation_schema(users, catalog)
    assert table.schema == {"user_id": pl.String, "item_id": pl.Int64, "score": pl.Float32, "rank": pl.Int32}


def test_no_clients_give_an_empty_table_with_types():
    catalog = Catalog(Identifiers.of(["a"]))
    empty = np.empty((0, 3), dtype=np.int32)
    table = recommendation_table(
        Identifiers.of([1]), np.empty(0, dtype=np.int64), empty, empty.astype(np.float32), catalog
    )
    assert table.rows() == []
    assert table.schema["user_id"] == pl.Int64


def test_shapes_that_do_not_fit_are_refused():
    catalog = Catalog(Identifiers.of(["a"]))
    with pytest.raises(InputError, match=r"\[c\], \[c, n\] and \[c, n\]"):
        recommendation_table(Identifiers.of([1]), np.array([0]), np.zeros((1, 2)), np.zeros((1, 3)), catalog)


@pytest.mark.parametrize(
    ("suffix", "read"), [(".parquet", pl.read_parquet), (".csv", pl.read_csv), (".jsonl", pl.read_ndjson)]
)
@pytest.mark.parametrize("count", [1, 7])
def test_batches_come_back_whole_and_in_order(tmp_path, suffix, read, count):
    path = tmp_path / f"recs{suffix}"
    assert write_parquet_stream(path, batches(count), SCHEMA) == count * 1000
    assert read(path).cast(SCHEMA).equals(pl.concat(batches(count)))
    assert list(tmp_path.iterdir()) == [path]


def test_no_batches_make_an_empty_file_with_the_schema(tmp_path):
    assert write_parquet_stream(tmp_path / "none.parquet", iter([]), SCHEMA) == 0
    assert dict(pl.read_parquet(tmp_path / "none.parquet").schema) == SCHEMA
    write_parquet_stream(tmp_path / "none.csv", iter([]), SCHEMA)
    assert (tmp_path / "none.csv").read_text() == "user_id,item_id,score,rank\n"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()])
@pytest.mark.parametrize("good", [0, 1, 40])
def test_when_the_batches_fail_the_old_file_stays_and_nothing_else(tmp_path, suffix, error, good):
    path = tmp_path / f"recs{suffix}"
    path.write_text("old")

    def failing():
        yield from batches(good)
        raise error

    with pytest.raises(type(error)) as caught:
        write_parquet_stream(path, failing(), SCHEMA)
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert all(thread.name != "parquet writer" for thread in threading.enumerate())


def test_when_the_writer_fails_endless_batches_end_and_no_file_stays(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    endless = (batch for _ in iter(int, 1) for batch in batches(1))
    with pytest.raises(FedrecError, match="No space left"):
        write_parquet_stream(tmp_path / "recs.parquet", endless, SCHEMA)
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_not_there_before_all_rows_are(tmp_path):
    path = tmp_path / "recs.parquet"
    seen = []

    def watching():
        for batch in batches(5):
            seen.append((path.exists(), threading.current_thread() is threading.main_thread()))
            yield batch

    write_parquet_stream(path, watching(), SCHEMA)
    assert seen == [(False, True)] * 5
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_batch_of_another_schema_is_named_and_leaves_no_file(tmp_path):
    good = next(batches(1))
    with pytest.raises(InputError, match=r"batch 2 has columns .*Float64.*expected .*Float32"):
        write_parquet_stream(
            tmp_path / "recs.parquet", [good, good.with_columns(pl.col("score").cast(pl.Float64))], SCHEMA
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recs.parqet", "unknown suffix '.parqet'. Did you mean '.parquet'?"),
        ("recs", "Choose from: .csv, .jsonl, .parquet"),
        ("nowhere/recs.parquet", "there is no folder"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_any_batch(tmp_path, name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        write_parquet_stream(tmp_path / name, (pytest.fail("a batch was made") for _ in range(1)), SCHEMA)


MEASURE = """
import resource, sys
import numpy as np, polars as pl
from fedrec.recommending.tables import write_parquet_stream

def batch(number):
    rng = np.random.default_rng(number)
    users = np.repeat(np.arange(10_000) + number * 10_000, 10)
    return pl.DataFrame({"user_id": users, "item_id": rng.integers(0, 50_000, len(users)),
                         "score": rng.random(len(users))})

count = int(sys.argv[2])
rows = write_parquet_stream(sys.argv[1], map(batch, range(count)), batch(0).schema)
assert rows == count * 100_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 * 1024 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with the resource module")
def test_ten_million_rows_take_little_more_memory_than_one_million(tmp_path):
    peaks = []
    for count in (10, 100):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "recs.parquet"), str(count)]
        peaks.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert pl.scan_parquet(tmp_path / "recs.parquet").select(pl.len()).collect().item() == 10_000_000
    assert peaks[1] < peaks[0] + 60  # MiB; the rows themselves are 229 MiB

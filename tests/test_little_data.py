"""A training on little data says once what its figures are worth, on the screen and in its report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Rows = list[tuple[int, str, int]]

FIVE_EACH: Rows = [(user, item, time) for user in range(40) for time, item in enumerate("abcde")]

CASES: dict[str, tuple[Rows, tuple[str, ...]]] = {
    "one user": ([(1, item, time) for time, item in enumerate("abcd")], ("there is one user", "over 1 user,")),
    "one item": ([(user, "a", user) for user in range(40)], ("1 item has training", "holds nothing out")),
    "one item each": ([(user, "abcd"[user % 4], user) for user in range(40)], ("holds nothing out",)),
    "few users": (FIVE_EACH[: 12 * 5], ("means over 12 users", "by 0.083")),
}


def trained(rows: Rows, fedrec: Callable[..., Any], folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What the command said, and the report."""
    text = "user,item,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    (folder / "data.csv").write_text(text)
    said = fedrec("train", "--model", "ease", "--data", folder / "data.csv", "--out", folder / "run", *options)
    assert said.code == 0, said.err
    return " ".join((said.out + said.err).split()), json.loads((folder / "run" / "report.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_little_data_is_remarked_upon_once(case: str, fedrec: Callable[..., Any], tmp_path: Path) -> None:
    rows, words = CASES[case]
    said, report = trained(rows, fedrec, tmp_path)
    assert said.count("little data:") == 1
    for word in words:
        assert word in said
        assert word in report["worth"]


@pytest.mark.parametrize("options", [(), ("--split", "none")], ids=["enough users", "no split"])
def test_enough_data_is_not(options: tuple[str, ...], fedrec: Callable[..., Any], tmp_path: Path) -> None:
    rows = FIVE_EACH if not options else FIVE_EACH[:50]
    said, report = trained(rows, fedrec, tmp_path, *options)
    assert "little data" not in said
    assert "worth" not in report

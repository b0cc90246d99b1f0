"""Results of `run.py` as Markdown."""

from __future__ import annotations

from typing import Any

ROUNDS = ["a round of pfedrec", "ours, s", "theirs, s", "per client, ms", "**ratio** (least, largest)",
          "of CPU time", "load"]  # fmt: skip
TRAININGS = ["central training", "ours", "ours, s", "theirs, s", "**ours ÷ theirs**", "of CPU time", "HR@10, both",
             "NDCG@10, both", "load"]  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """Task and machine, then a table of rounds and a table of trainings."""
    place, data = report["machine"], report["data"]
    said = (
        f"{data['source']}: {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} training "
        f"interactions. {place['processor']}, {place['cores']} cores, {place['memory_gib']} GiB, Python "
        f"{place['python']}; beside each row the load of the machine before and after."
    )
    parts = [[said]]
    for task, header, cells in (("round", ROUNDS, round_cells), ("training", TRAININGS, training_cells)):
        rows = [cells(row) for row in report["rows"] if row["task"] == task]
        if rows:
            parts.append([line(header), line(["---"] * len(header)), *map(line, rows)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def round_cells(row: dict[str, Any]) -> list[str]:
    ratio = row["ratio"]
    some = "" if row["clients_run"] == row["clients"] else f", {row['clients_run']} of {row['clients']} clients"
    return [
        row["peer"] + some,
        f"{row['ours']['median']:.4f}",
        f"{row['theirs']['median']:.2f}",
        f"{row['milliseconds_per_client']:.2f}",
        f"**{ratio['median']:.0f}** ({ratio['min']:.0f}, {ratio['max']:.0f})",
        cpu_ratio(row, 0),
        "–".join(map(str, row["load"])),
    ]


def training_cells(row: dict[str, Any]) -> list[str]:
    ours, theirs = row["our_metrics"], row["their_metrics"]
    rounds = f"{row['our_rounds']} round" + ("" if row["our_rounds"] == 1 else "s")
    return [
        row["peer"],
        f"{row['model']['name']}, {rounds}",
        f"{row['ours']['median']:.3f}",
        f"{row['theirs']['median']:.3f}",
        f"**{1 / row['ratio']['median']:.2f}**",
        cpu_ratio(row, 2),
        f"{ours['hr@10']:.4f}, {theirs['hr@10']:.4f}",
        f"{ours['ndcg@10']:.4f}, {theirs['ndcg@10']:.4f}",
        "–".join(map(str, row["load"])),
    ]


def cpu_ratio(row: dict[str, Any], digits: int) -> str:
    """The ratio of processor seconds, which other work on the machine disturbs less; theirs ÷ ours for rounds."""
    cpu = row["cpu_seconds"]
    if cpu is None:
        return "not measured"
    ratio = cpu["theirs"] / cpu["ours"] if row["task"] == "round" else cpu["ours"] / cpu["theirs"]
    return f"{ratio:.{digits}f}"

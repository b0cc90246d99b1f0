"""Results of `federation.py` as Markdown."""

from __future__ import annotations

from typing import Any

BYTES = ["model", "sums", "nodes", "up, bytes", "predicted", "down, bytes", "predicted", "on the wire, up"]
TIMES = ["model", "sums", "nodes", "a node, CPU s a round", "coordinator, CPU s a round", "all, measured / predicted",
         "a round, s", "of the cores", "until all were up, s", "load"]  # fmt: skip
MEMORY = ["model", "sums", "nodes", "a node, MiB", "its process, client, job", "every page for every process",
          "coordinator, MiB", "server's two, job, training", "every page"]  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """Bytes, times and memory, a table each."""
    place, rows = report["machine"], report["rows"]
    said = f"{report['source']}. {place['processor']}, {place['cores']} cores, {place['memory_gib']} GiB."
    parts = [[said]]
    for header, cells in ((BYTES, byte_cells), (TIMES, time_cells), (MEMORY, memory_cells)):
        parts.append([line(header), line(["---"] * len(header)), *(line(cells(row, rows)) for row in rows)])
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def name(row: dict[str, Any]) -> list[str]:
    return [row["model"], "secure" if row["secure"] else "plain", str(row["nodes"])]


def byte_cells(row: dict[str, Any], _: list[dict[str, Any]]) -> list[str]:
    up, down, expected = row["node_up"], row["node_down"], row["predicted"]
    return [
        *name(row),
        f"{up:,}",
        f"{100 * (expected['up'] / up - 1):+.2f} %",
        f"{down:,}",
        f"{100 * (expected['down'] / down - 1):+.2f} %",
        f"{100 * (row['wire_up'] / up - 1):+.1f} %" if row["rounds"] > 1 else "",
    ]


def expected_cpu(row: dict[str, Any], rows: list[dict[str, Any]]) -> float | None:
    """Processor seconds of everybody in a round: work on data, which is the same for any number of nodes, and a part
    for each node. Both follow from the plain points of 2 and 5 nodes, what masks add from the secure one of 5."""
    points = {tuple(name(one)): in_all(one) for one in rows}
    two, five = (points.get((row["model"], "plain", nodes)) for nodes in ("2", "5"))
    masked = points.get((row["model"], "secure", "5"))
    if two is None or five is None or row["rounds"] == 1 or (row["secure"] and masked is None):
        return None
    each = max(0.0, (five - two) / 3)
    masks = (masked - five) / 5 if row["secure"] and masked is not None else 0.0
    return two - 2 * each + row["nodes"] * (each + masks)


def in_all(row: dict[str, Any]) -> float:
    return row["nodes"] * row["node_cpu"] + row["coordinator_cpu"]


def time_cells(row: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    expected = expected_cpu(row, rows)
    many = row["rounds"] > 1
    load = row.get("load")
    return [
        *name(row),
        f"{row['node_cpu']:.3f}" if many else f"({row['node_cpu']:.1f})",
        f"{row['coordinator_cpu']:.3f}" if many else f"({row['coordinator_cpu']:.1f})",
        "" if expected is None else f"{in_all(row):.2f} / {expected:.2f}",
        f"{row['round_seconds']:.2f}",
        f"{100 * in_all(row) / row['round_seconds'] / 2:.0f} %" if many else "",
        f"{row['up_seconds']:.0f}",
        "" if load is None else f"{load:.0f}",
    ]


def memory_cells(row: dict[str, Any], _: list[dict[str, Any]]) -> list[str]:
    node, host = row["node_kinds"], row["coordinator_kinds"]
    return [
        *name(row),
        f"{row['node_pss']:.0f}",
        ", ".join(f"{node.get(part, 0):.0f}" for part in ("-m fedrec node", "client", "job at the node")),
        f"{row['node_rss']:.0f}",
        f"{row['coordinator_pss']:.0f}",
        ", ".join(
            f"{size:.0f}"
            for size in (
                host.get("-m fedrec federation", 0) + host.get("server", 0),
                host.get("job at the coordinator", 0),
                host.get("-m fedrec train", 0),
            )
        ),
        f"{row['coordinator_rss']:.0f}",
    ]

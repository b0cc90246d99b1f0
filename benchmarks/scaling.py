"""How a round of mf grows with users, items, dimension and cohort: one table per quantity, the others fixed.

    python benchmarks/scaling.py                 # small: a minute
    python benchmarks/scaling.py --million       # up to a million users: about ten minutes, 3 GiB

Every point is `fedrec bench mf-round --json` in a process of its own, so that peak memory is its own. Points are taken
in turns, three times over, and the median counts. Results go to `benchmarks/.work/scaling.json` and `.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.benchmarks.timing import machine

HERE = Path(__file__).parent
SMALL = {"users": 50_000, "items": 10_000, "embedding_size": 32, "cohort": 2_000}
LARGE = {"users": 1_000_000, "items": 50_000, "embedding_size": 64, "cohort": 10_000}
LENGTH = 100
STEPS = {"users": (0.1, 0.25, 0.5, 1), "items": (0.1, 0.5, 1, 2), "embedding_size": (0.25, 0.5, 1, 2),
         "cohort": (0.1, 0.25, 0.5, 1, 2)}  # fmt: skip


def measured(point: dict[str, int], rounds: int) -> dict[str, Any]:
    """One point, in a process of its own."""
    source = f"synthetic:users={point['users']},items={point['items']},interactions_per_user={LENGTH},timestamps=false"
    command = [
        sys.executable,
        "-c",
        "from fedrec.cli.main import run; run()",
        "bench",
        "mf-round",
        "--json",
        "--rounds",
        str(rounds),
        "--data",
        source,
    ]
    command += ["--set", f"embedding_size={point['embedding_size']}", "--set", f"cohort={point['cohort']}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="around a million users")
    parser.add_argument(
        "--vary", default=",".join(STEPS), help="which quantities, of users,items,embedding_size,cohort"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds timed in a process")
    parser.add_argument("--turns", type=int, default=3, help="processes per point")
    parser.add_argument("--out", type=Path, default=HERE / ".work")
    given = parser.parse_args()
    wanted = given.vary.split(",")
    if unknown := [quantity for quantity in wanted if quantity not in STEPS]:
        parser.error(f"--vary {unknown[0]}: choose from {', '.join(STEPS)}")
    base = LARGE if given.million else SMALL
    given.out.mkdir(parents=True, exist_ok=True)
    place, tables = machine(), {}
    for quantity in wanted:
        points = [base | {quantity: round(base[quantity] * step)} for step in STEPS[quantity]]
        found = [[measured(point, given.rounds) for point in points] for _ in range(given.turns)]
        tables[quantity] = [
            {
                quantity: point[quantity],
                "seconds_per_round": float(np.median([turn[number]["seconds_per_round"] for turn in found])),
                "cpu_seconds_per_round": float(np.median([turn[number]["cpu_seconds_per_round"] for turn in found])),
                "clients_per_round": found[0][number]["cohort"],
                "peak_rss_mb": max(turn[number]["peak_rss_mb"] for turn in found),
                "load": [turn[number]["machine"]["load"] for turn in found],
            }
            for number, point in enumerate(points)
        ]
        report = {"base": base | {"interactions_per_user": LENGTH}, "machine": place, "tables": tables}
        (given.out / "scaling.json").write_text(json.dumps(report, indent=1) + "\n")
        (given.out / "scaling.md").write_text(markdown(report))
        print(f"{quantity} done", file=sys.stderr)
    print((given.out / "scaling.md").read_text())


def markdown(report: dict[str, Any]) -> str:
    base = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in report["base"].items())
    lines = [f"Base: {base}. {report['machine']['processor']}, {report['machine']['cores']} cores."]
    for quantity, rows in report["tables"].items():
        name = quantity.replace("_", " ")
        header = [name, "a round, s", "CPU, s", "clients drawn", "CPU ms per 1,000 clients", "peak memory, MiB", "load"]
        lines += ["", f"| {' | '.join(header)} |", "|---|---|---|---|---|---|---|"]
        for row in rows:
            cost = 1e6 * row["cpu_seconds_per_round"] / row["clients_per_round"]
            lines.append(
                f"| {row[quantity]:,} | {row['seconds_per_round']:.3f} | "
                f"{row['cpu_seconds_per_round']:.3f} | {row['clients_per_round']:,.0f} | "
                f"{cost:.0f} | {row['peak_rss_mb']:,.0f} | {min(row['load'])}–{max(row['load'])} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Accuracy under differential privacy: every model with a private form, by epsilon, over several draws of noise.

    python benchmarks/privacy.py                       # ML-100K and ML-1M, the table and the picture of docs/privacy.md
    python benchmarks/privacy.py --synthetic           # 138,000 users, 20,000 items
    python benchmarks/privacy.py --models sasrec,two-tower,neumf --epsilons 8 --draws 1     # networks
    python benchmarks/privacy.py --models 'ials,ials by cg'                                 # solvers of ials

Settings are the models' defaults, which were chosen by trying on these data: that is outside epsilon. Epsilon is that
of whoever sees every noised sum (epsilon_cohort), delta is 1 / (10 users).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.sources import load_source
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.privacy.chance import SeededChance
from fedrec.runs.reports import peak_rss_mb
from fedrec.runs.training import train_here

MODELS = ("popularity", "ease", "slit", "spectral", "itemknn", "ials", "mf")
MARKS = "os*D^vP"
VARIANTS: dict[str, dict[str, Any]] = {"ials by cg": {"name": "ials", "solver": "cg"}}
"""Names for `--models` of models with other settings than the defaults."""
EPSILONS = (1.0, 2.0, 4.0, 8.0, None)
PROTOCOLS = ("sampled:99", "full")
SETS = ("ml-100k", "ml-1m-sequences")
SYNTHETIC = "synthetic:users=138000,items=20000,interactions_per_user=100"


def measured(source: Any, model: str, epsilon: float | None, seed: int) -> dict[str, float]:
    """NDCG@10 by protocol, seconds and what was trained, of one training."""
    settings: dict[str, Any] = {"data": {"source": "memory"}, "model": VARIANTS.get(model, {"name": model}), "seed": 0}
    if epsilon is not None:
        settings["privacy"] = {"epsilon": epsilon, "delta": 0.1 / source.interactions.n_users}
    plan = Plan.make(settings).resolve(source.interactions, source.digest)
    chance = SeededChance(seed)
    engine = LocalEngine.build(source.interactions, plan, chance=chance)
    began = time.perf_counter()
    coordinator, trained = train_here(engine, source.interactions, Run(plan, None), chance=chance)
    found: dict[str, float] = {"seconds": time.perf_counter() - began}
    for protocol in PROTOCOLS:
        values = coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10"], protocol)
        found[protocol] = values["ndcg@10"].value
    return found


def study(name: str, models: tuple[str, ...], epsilons: tuple[float | None, ...], draws: int) -> list[dict[str, Any]]:
    """A row per model and epsilon."""
    source, rows = load_source(name), []
    for model in models:
        for epsilon in epsilons:
            runs = [measured(source, model, epsilon, seed) for seed in range(draws if epsilon is not None else 1)]
            row: dict[str, Any] = {"data": name, "model": model, "epsilon": epsilon, "draws": len(runs)}
            for key in (*PROTOCOLS, "seconds"):
                values = np.array([run[key] for run in runs])
                row[key] = float(values.mean())
                row[f"{key} sd"] = float(values.std(ddof=1)) if len(values) > 1 else 0.0
            row["peak_rss_mb"] = peak_rss_mb()
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def table(rows: list[dict[str, Any]], protocol: str) -> str:
    """Markdown: models down, epsilons across."""
    epsilons = list(dict.fromkeys(row["epsilon"] for row in rows))
    head = ["∞" if epsilon is None else f"ε = {epsilon:g}" for epsilon in epsilons]
    lines = ["| model | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = {row["epsilon"]: row for row in rows if row["model"] == model}
        cells = []
        for epsilon in epsilons:
            row = mine[epsilon]
            spread = "" if epsilon is None else f" ± {row[f'{protocol} sd']:.4f}"
            cells.append(f"{row[protocol]:.4f}{spread}")
        lines.append(f"| `{model}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """NDCG@10 over epsilon, a panel per data set and protocol."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    sets = list(dict.fromkeys(row["data"] for row in rows))
    figure, panels = pyplot.subplots(len(sets), 2, figsize=(11, 4.2 * len(sets)), squeeze=False, layout="constrained")
    marks = dict(zip(MODELS, MARKS, strict=True))
    for panel, (data, protocol) in zip(panels.flat, [(data, p) for data in sets for p in PROTOCOLS], strict=True):
        for number, model in enumerate(MODELS):
            mine = [row for row in rows if (row["data"], row["model"]) == (data, model)]
            places = np.arange(len(mine))
            values, spread = ([row[key] for row in mine] for key in (protocol, f"{protocol} sd"))
            panel.errorbar(places, values, spread, marker=marks[model], color=f"C{number}", capsize=2, label=model)
        panel.set_xticks(np.arange(len(EPSILONS)), ["∞" if e is None else f"{e:g}" for e in EPSILONS])
        panel.set(title=f"{data}, {protocol}", xlabel="ε (who sees every noised sum)", ylabel="NDCG@10", ylim=(0, None))
        panel.grid(alpha=0.3)
    panels[0][0].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--epsilons", type=lambda text: tuple(map(float, text.split(","))), default=EPSILONS)
    parser.add_argument("--data", default=",".join(SETS))
    parser.add_argument("--out", type=Path, default=Path("docs/images/privacy.png"))
    given = parser.parse_args()
    models = tuple(given.models.split(","))
    if given.synthetic:
        rows = study(SYNTHETIC, models, (1.0, 4.0, None), given.draws)
    else:
        sets = tuple(given.data.split(","))
        rows = [row for name in sets for row in study(name, models, given.epsilons, given.draws)]
        if (set(models), given.epsilons, sets) == (set(MODELS), EPSILONS, SETS):
            picture(rows, given.out)
    for name in dict.fromkeys(row["data"] for row in rows):
        for protocol in PROTOCOLS:
            print(f"\n{name}, NDCG@10, {protocol}\n\n{table([row for row in rows if row['data'] == name], protocol)}")


if __name__ == "__main__":
    main()

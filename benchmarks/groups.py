"""Accuracy by group of users on MovieLens 100K: by activity, gender and age; and two models on the same users.

FEDREC_DATA=… python benchmarks/groups.py
"""

from __future__ import annotations

from collections.abc import Mapping

import fedrec as fr

METRIC = "ndcg@10"
MODELS = {
    "popularity": fr.Popularity(),
    "itemknn": fr.ItemKNN(),
    "ease": fr.EASE(),
    "ials": fr.IALS(),
}
GROUPS: Mapping[str, str | None] = {"interactions": None, "gender": None, "age": "0-24,25-34,35-44,45-"}


def main() -> None:
    """Print a table for each column, and a table of differences."""
    split = fr.leave_last_out(fr.load_data("ml-100k"))
    fitted = {name: model.fit(split.train) for name, model in MODELS.items()}
    for by, groups in GROUPS.items():
        print(f"\n| {by} | users | {' | '.join(fitted)} |\n|{'---|' * (2 + len(fitted))}")
        tables = [fr.evaluate(model, split, METRIC, by=by, groups=groups) for model in fitted.values()]
        for row in range(tables[0].height):
            cells = [f"{table['value'][row]:.4f} ± {table['standard_error'][row]:.4f}" for table in tables]
            print(f"| {tables[0]['group'][row]} | {tables[0]['users'][row]} | {' | '.join(cells)} |")
    print("\n| metric | ease | ials | difference | 95 % interval | verdict | ± on different users |")
    print("|---|---|---|---|---|---|---|")
    for row in fr.difference(fitted["ease"], fitted["ials"], split, "ndcg@10,hr@10,recall@20").iter_rows(named=True):
        apart = fr.evaluate(fitted["ease"], split, row["metric"])["standard_error"][0] * 2**0.5
        print(
            f"| {row['metric']} | {row['model']:.4f} | {row['other']:.4f} | {row['difference']:+.4f} ± "
            f"{row['standard_error']:.4f} | {row['low']:+.4f} to {row['high']:+.4f} | {row['verdict']} | {apart:.4f} |"
        )


if __name__ == "__main__":
    main()

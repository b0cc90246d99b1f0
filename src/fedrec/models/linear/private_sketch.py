"""A sketched Gram matrix under differential privacy: noise per pass, items × rank numbers instead of items².

Round 0 releases Σ_u a_u ⊗ Ωᵀa_u with a_u = x_u / √n_u and random signs over √rank in Ω, so that a client has a norm of
about 1. Each round after it looks again at the directions that stand out of the noise so far, as in
`fedrec.models.linear.private_gram`, and all passes are read together.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.models.base import Arrays, State
from fedrec.models.linear.denoising import Factors, Pass, denoised, from_sketch, next_table, unclipped
from fedrec.models.linear.private_gram import Found, passed
from fedrec.models.shapes import Form, Shape

__all__ = ["pass_forms", "sharpened"]


def pass_forms(n_items: int, passes: int) -> tuple[Form, ...]:
    """Random signs, then directions; of every pass so far the coordinator keeps what it read."""
    doubles, table = "float64", {"table": Shape((n_items, "directions"))}
    found = {"factors": Shape((n_items, "rank"), doubles), "scales": Shape((n_items,), doubles)}
    kept: dict[str, Shape] = {}
    out = [Form(table)]
    for number in range(passes - 1):
        width = f"directions of pass {number}"
        kept[f"sums_{number}"] = kept[f"table_{number}"] = Shape((n_items, width), doubles)
        kept[f"deviation_{number}"] = Shape((1,), doubles)
        out.append(Form(table, found | kept))
    return tuple(out)


def sharpened(state: State, total: Sum, round: int, passes: int) -> State | Found:
    """The directions of the next pass, or what was found after the last."""
    kept, seen = dict(state.server), passed(state.shared["table"], total)
    if round == 0:
        found = denoised(from_sketch(seen), [seen])
    else:
        first = Factors(kept["factors"], kept["scales"])
        seen = unclipped(first.factors, seen)
        found = denoised(first, [*(_pass(kept, number) for number in range(round)), seen])
    if round == passes - 1:
        return Found(found.factors, total.clients / len(found.factors))
    kept |= {"factors": found.factors, "scales": found.scales}
    kept |= {
        f"sums_{round}": seen.sums,
        f"table_{round}": seen.table,
        f"deviation_{round}": np.array([seen.deviation]),
    }
    table = next_table(found.factors, float(kept["deviation_0"][0]), total.clients)
    return State({"table": table.astype(np.float32)}, kept)


def _pass(kept: Arrays, number: int) -> Pass:
    return Pass(kept[f"sums_{number}"], kept[f"table_{number}"], float(kept[f"deviation_{number}"][0]))

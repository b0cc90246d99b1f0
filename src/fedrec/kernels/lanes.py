"""Inner products whose accumulators are whole vector registers: a fixed order of additions, and no fastmath."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "TILE", "lane_dot", "lane_tile"]

LANES = 16
TILE = 64
"""Columns of a tile in `lane_tile`."""


@intrinsic
def lane_dot(typing_context: Any, left: Any, left_row: Any, right: Any, right_row: Any, width: Any) -> Any:
    """⟨left[left_row], right[right_row]⟩ of float32 tables in C order, `width` a multiple of 16.

    Accumulator l adds products l, l + 16, … in turn; then halves are added, 8 + 8, 4 + 4, 2 + 2, 1 + 1. Nothing is
    fused, so the result is the same on every CPU.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        floats = ir.FloatType()
        lanes = ir.VectorType(floats, LANES)
        tables = []
        for table, row, kind in ((arguments[0], arguments[1], 0), (arguments[2], arguments[3], 2)):
            array = context.make_array(signature.args[kind])(context, builder, table)
            columns = cgutils.unpack_tuple(builder, array.shape, 2)[1]  # type: ignore[no-untyped-call]
            tables.append(builder.gep(array.data, [builder.mul(row, columns)]))
        total = cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * LANES))  # type: ignore[no-untyped-call]
        step = ir.Constant(arguments[4].type, LANES)
        with cgutils.for_range(builder, builder.sdiv(arguments[4], step)) as loop:
            at = builder.mul(loop.index, step)
            parts = []
            for base in tables:
                place = builder.bitcast(builder.gep(base, [at]), lanes.as_pointer())
                parts.append(builder.load(place, align=4))
            builder.store(builder.fadd(builder.load(total), builder.fmul(*parts)), total)
        value = builder.load(total)
        half = LANES // 2
        while half >= 1:
            width_now = ir.VectorType(ir.IntType(32), half)
            low = ir.Constant(width_now, list(range(half)))
            high = ir.Constant(width_now, list(range(half, 2 * half)))
            value = builder.fadd(builder.shuffle_vector(value, value, low), builder.shuffle_vector(value, value, high))
            half //= 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(left, types.int64, right, types.int64, types.int64), generate


def _lane_tile(
    typing_context: Any, left: Any, c0: Any, c1: Any, c2: Any, c3: Any, start: Any, block: Any, places: Any, totals: Any
) -> Any:
    """totals [4, 64] += Σ over p < `places` of left[c, start + p] · block[p, :64] for four rows c, in the order of p.

    All tables are float32 in C order; `block` and `totals` have 64 columns. Nothing is fused.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = ir.VectorType(ir.FloatType(), LANES)

        def base(kind: int) -> tuple[Any, Any]:
            array = context.make_array(signature.args[kind])(context, builder, arguments[kind])
            return array.data, cgutils.unpack_tuple(builder, array.shape, 2)[1]  # type: ignore[no-untyped-call]

        def vector(data: Any, place: Any) -> Any:
            return builder.bitcast(builder.gep(data, [place]), lanes.as_pointer())

        (rows, width), (tile, _), (out, _) = base(0), base(6), base(8)
        number = arguments[7].type
        sources = [builder.add(builder.mul(arguments[1 + c], width), arguments[5]) for c in range(4)]
        sums = []
        for place in range(0, 4 * TILE, LANES):
            first = builder.load(vector(out, ir.Constant(number, place)), align=4)
            sums.append(cgutils.alloca_once_value(builder, first))  # type: ignore[no-untyped-call]
        blank = ir.Constant(lanes, ir.Undefined)
        spread = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        with cgutils.for_range(builder, arguments[7]) as loop:
            at = builder.mul(loop.index, ir.Constant(number, TILE))
            parts = [
                builder.load(vector(tile, builder.add(at, ir.Constant(number, column))), align=4)
                for column in range(0, TILE, LANES)
            ]
            for c in range(4):
                one = builder.load(builder.gep(rows, [builder.add(sources[c], loop.index)]))
                many = builder.insert_element(blank, one, ir.Constant(ir.IntType(32), 0))
                many = builder.shuffle_vector(many, many, spread)
                for column, part in enumerate(parts):
                    total = sums[c * len(parts) + column]
                    builder.store(builder.fadd(builder.load(total), builder.fmul(many, part)), total)
        for place, total in enumerate(sums):
            builder.store(builder.load(total), vector(out, ir.Constant(number, place * LANES)), align=4)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(left, whole, whole, whole, whole, whole, block, whole, totals), generate


lane_tile: Any = intrinsic(_lane_tile)

"""Products whose accumulators are whole vector registers: a fixed order of additions, and no fastmath."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["EIGHT", "LANES", "TILE", "lane_dot", "lane_tile", "rank_tile", "row_step"]

LANES = 16
TILE = 64
"""Columns of a tile in `lane_tile`."""
EIGHT = 8
"""Columns of a tile in `rank_tile` and of a step in `row_step`."""


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


def _doubles(builder: Any, data: Any, place: Any) -> Any:
    return builder.bitcast(builder.gep(data, [place]), ir.VectorType(ir.DoubleType(), EIGHT).as_pointer())


def _spread(builder: Any, one: Any) -> Any:
    """A number in all eight lanes."""
    lanes = ir.VectorType(ir.DoubleType(), EIGHT)
    first = builder.insert_element(ir.Constant(lanes, ir.Undefined), one, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(ir.IntType(32), EIGHT), [0] * EIGHT))


def _table(context: Any, builder: Any, signature: Any, arguments: Any, kind: int) -> tuple[Any, Any]:
    array = context.make_array(signature.args[kind])(context, builder, arguments[kind])
    return array.data, cgutils.unpack_tuple(builder, array.shape, 2)[1]  # type: ignore[no-untyped-call]


def _rank_tile(
    typing_context: Any, out: Any, row: Any, column: Any, rows: Any, first: Any, places: Any, sign: Any
) -> Any:
    """out[row : row + 4, column : column + 8] += sign · Σ_p rows[p, row : row + 4]ᵀ rows[p, column : column + 8].

    Over the `places` rows from `first` on, in their order. Tables are float64 in C order; nothing is fused.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (target, width), (source, wide) = (_table(context, builder, signature, arguments, kind) for kind in (0, 3))
        number = arguments[1].type
        sums, homes = [], []
        for c in range(4):
            at = builder.add(builder.mul(builder.add(arguments[1], ir.Constant(number, c)), width), arguments[2])
            homes.append(_doubles(builder, target, at))
            start = builder.load(homes[c], align=8)
            sums.append(cgutils.alloca_once_value(builder, start))  # type: ignore[no-untyped-call]
        with cgutils.for_range(builder, arguments[5]) as loop:
            base = builder.mul(builder.add(arguments[4], loop.index), wide)
            part = builder.load(_doubles(builder, source, builder.add(base, arguments[2])), align=8)
            left = builder.add(base, arguments[1])
            for c in range(4):
                one = builder.load(builder.gep(source, [builder.add(left, ir.Constant(number, c))]))
                many = _spread(builder, builder.fmul(one, arguments[6]))
                builder.store(builder.fadd(builder.load(sums[c]), builder.fmul(many, part)), sums[c])
        for home, total in zip(homes, sums, strict=True):
            builder.store(builder.load(total), home, align=8)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(out, whole, whole, rows, whole, whole, types.float64), generate


def _row_step(typing_context: Any, out: Any, row: Any, rows: Any, other: Any, factor: Any, start: Any) -> Any:
    """out[row, start:] += factor · rows[other, start:], eight columns at a time; the width and `start` are multiples of
    eight. Tables are float64 in C order; nothing is fused."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (target, width), (source, wide) = (_table(context, builder, signature, arguments, kind) for kind in (0, 2))
        number = arguments[1].type
        to, origin = builder.mul(arguments[1], width), builder.mul(arguments[3], wide)
        many = _spread(builder, arguments[4])
        steps = builder.sdiv(builder.sub(width, arguments[5]), ir.Constant(number, EIGHT))
        with cgutils.for_range(builder, steps) as loop:
            at = builder.add(builder.mul(loop.index, ir.Constant(number, EIGHT)), arguments[5])
            home = _doubles(builder, target, builder.add(to, at))
            part = builder.load(_doubles(builder, source, builder.add(origin, at)), align=8)
            builder.store(builder.fadd(builder.load(home, align=8), builder.fmul(many, part)), home, align=8)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(out, whole, rows, whole, types.float64, whole), generate


rank_tile: Any = intrinsic(_rank_tile)
row_step: Any = intrinsic(_row_step)

"""An inner product whose sixteen accumulators are one vector register: a fixed order of additions, and no fastmath."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "lane_dot"]

LANES = 16


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

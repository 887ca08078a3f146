"""Tiles: the product of a few rows with a few vectors of columns, of which the loops of `loops` make their products.

A tile is as large as a CPU has registers to sum up in, so nothing is stored before a sum is complete, and the matrix is read
once, in order: with one to sixteen rows at the speed of memory, with many at that of the core (docs/llm-engine.md,
Measured). Written in LLVM's language, as numba has no vectors of its own.
"""

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array

FEATURES = llvm.get_host_cpu_features()
# Multiplies pairs of 16 bits and adds them up in 32; not where numba is told to compile for another processor.
PAIRS = bool(FEATURES.get("avx512bf16")) and not (config.CPU_NAME or config.CPU_FEATURES)
LANES = 16 if FEATURES.get("avx512f") else 8 if FEATURES.get("avx") else 4
REGISTERS = 32 if FEATURES.get("avx512f") or not FEATURES.get("sse2") else 16
SPARE = 2  # registers that hold no sum
WIDE, NARROW = 8, 4  # vectors of columns in a tile
MOST_ROWS = 6

LONG, INT, SHORT = ir.IntType(64), ir.IntType(32), ir.IntType(16)
VECTOR, INTS, SHORTS = (ir.VectorType(kind, LANES) for kind in (ir.FloatType(), INT, SHORT))
llvm.initialize_native_asmparser()  # for the one instruction that llvmlite has no name for
Builder = Any  # LLVM's: llvmlite has no types to check
Value = Any


def tile(vectors: int) -> Callable[..., None]:
    """Makes multiply(x, w, out): out [rows, columns] += x [rows, depth] · w [depth, columns], columns being so many vectors.

    Arrays whose lines lie in one piece. Numbers of x and w: both of 32 bits; or w's of 16 bits, in integers; or pairs of 16 bits,
    neighbours in depth, in integers of 32.
    """
    most = min(MOST_ROWS, (REGISTERS - SPARE) // vectors)

    @intrinsic  # type: ignore[untyped-decorator]
    def multiply(_: Any, x: Any, w: Any, out: Any) -> Any:
        def generate(context: Any, builder: Builder, signature: Any, given: list[Value]) -> Value:
            lines, matrix, sums = (
                Lines(context, builder, kind, value) for kind, value in zip((x, w, out), given, strict=True)
            )
            with cgutils.for_range_slice(builder, LONG(0), lines.count, LONG(most)) as (row, _):
                after, full = builder.append_basic_block("after"), builder.append_basic_block("full")
                choice = builder.switch(builder.sub(lines.count, row), full)
                for rows in range(1, most + 1):
                    block = full if rows == most else builder.append_basic_block(f"rows.{rows}")
                    choice.add_case(LONG(rows), block)
                    builder.position_at_end(block)
                    numbers = [builder.add(row, LONG(n)) for n in range(rows)]
                    _sum(builder, [lines.at(n) for n in numbers], [sums.at(n) for n in numbers], matrix, vectors)
                    builder.branch(after)
                builder.position_at_end(after)
            return context.get_dummy_value()

        return types.void(x, w, out), generate

    return multiply  # type: ignore[no-any-return]


class Lines:
    """A matrix in memory."""

    def __init__(self, context: Any, builder: Builder, kind: Any, value: Value) -> None:
        array = make_array(kind)(context, builder, value)
        self._builder, self._start = builder, array.data
        self.count, self._step = builder.extract_value(array.shape, 0), builder.extract_value(array.strides, 0)

    def at(self, number: Value) -> Value:
        """Where a line starts."""
        builder, kind = self._builder, self._start.type
        start = builder.bitcast(self._start, ir.IntType(8).as_pointer())
        return builder.bitcast(builder.gep(start, [builder.mul(number, self._step)]), kind)


def _sum(builder: Builder, x: list[Value], out: list[Value], matrix: Lines, vectors: int) -> None:
    """One tile, x and out being lines: its sums stay in registers from the first number of depth to the last."""
    places = [[_vector(builder, line, n, VECTOR) for n in range(vectors)] for line in out]
    sums = [[cgutils.alloca_once_value(builder, builder.load(place, align=4)) for place in line] for line in places]
    with cgutils.for_range(builder, matrix.count) as depth:
        line = matrix.at(depth.index)
        columns = [_load(builder, line, n) for n in range(vectors)]
        for numbers, totals in zip(x, sums, strict=True):
            same = _broadcast(builder, builder.load(builder.gep(numbers, [depth.index])))
            for column, total in zip(columns, totals, strict=True):
                builder.store(_multiply_add(builder, same, column, builder.load(total)), total)
    for line, totals in zip(places, sums, strict=True):
        for place, total in zip(line, totals, strict=True):
            builder.store(builder.load(total), place, align=4)


def _vector(builder: Builder, start: Value, number: int, kind: ir.Type) -> Value:
    return builder.bitcast(builder.gep(start, [LONG(number * LANES)]), kind.as_pointer())


def _load(builder: Builder, start: Value, number: int) -> Value:
    """A vector of the matrix; numbers of 16 bits are widened."""
    kind = start.type.pointee
    if kind == SHORT:
        short = builder.load(_vector(builder, start, number, SHORTS), align=2)
        return builder.bitcast(builder.shl(builder.zext(short, INTS), INTS([16] * LANES)), VECTOR)
    return builder.load(_vector(builder, start, number, INTS if kind == INT else VECTOR), align=4)


def _broadcast(builder: Builder, number: Value) -> Value:
    nothing = ir.VectorType(number.type, LANES)(ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, number, INT(0)), nothing, INTS([0] * LANES))


def _multiply_add(builder: Builder, x: Value, y: Value, total: Value) -> Value:
    if x.type == INTS:
        kind = ir.FunctionType(VECTOR, [INTS, INTS, VECTOR])
        return builder.asm(kind, "vdpbf16ps $2, $1, $0", "=v,v,v,0", [x, y, total], side_effect=False)
    kind = ir.FunctionType(VECTOR, [VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32"), [x, y, total])

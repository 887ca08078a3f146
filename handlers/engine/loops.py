"""Loops that a CPU runs instead of many small torch operations, compiled by numba: attention of decoding rows, norms, gates,
products with packed matrices.

Attention reads each key once for all queries and stops where the text ends. Numbers of 16 bits come as the integers that
hold their bits and are widened on the way. Every loop takes a range, so that several threads can share it, and holds no lock
of the interpreter.

Not for: choosing when these are used (`cpu`).
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .tiles import LANES, NARROW, PAIRS, WIDE, tile

# Without the assumption that no number is infinite or not a number.
FAST = {"reassoc", "contract", "arcp", "nsz", "afn"}
OPTIONS: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "nogil": True}
NOTHING = np.float32(-1e30)  # a score next to which every other one wins
# exp: Cephes' polynomial for 32 bits, after taking out powers of two by a logarithm cut in two.
LOWEST, HIGHEST, LOG2_E = np.float32(-87), np.float32(88), np.float32(1.44269504)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
C0, C1, C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
C3, C4, C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
PLACES = 128
DEEP, ROWS = 1024, 256  # lines of a panel, and rows that meet them, at a time: both stay near the core meanwhile
INT = ir.IntType(32)
ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
WIDE_TILE, NARROW_TILE, SINGLE_TILE = tile(WIDE), tile(NARROW), tile(1)


class Loops(NamedTuple):
    """The last two arguments of each are a range: of rows, or of the panels of a matrix."""

    attend: Callable[..., None]
    rotate: Callable[..., None]
    add_norm: Callable[..., None]
    gate: Callable[..., None]
    multiply: Callable[..., None] | None  # None where pairs of 16 bits can't be


@cache
def compiled(bits: int) -> Loops:
    """For numbers of so many bits; from numba's cache when this machine has compiled them before."""
    number = types.float32 if bits == 32 else types.int16
    integers, matrix = types.int64[::1], number[:, ::1]
    places = types.int64, types.int64
    strided, kept = number[:, :, :], number[:, :, :, :, ::1]
    signatures: dict[Callable[..., None], tuple[Any, ...]] = {
        _attend: (strided, strided, strided, kept, kept, integers, integers, types.float32, number[:, :, ::1], *places),
        _rotate: (number[:, :, ::1], types.int64, matrix, matrix, *places),
        _add_norm: (matrix, matrix, number[::1], types.float32, matrix, *places),
        _gate: (matrix, matrix, *places),
    }
    multiplied = types.float32 if bits == 32 else types.int32  # a pair
    if bits == 32 or PAIRS:
        signatures[_multiply] = (multiplied[:, ::1], multiplied[:, :, ::1], number[::1], matrix, *places)
    made = {loop: _compile(loop, types.void(*given)) for loop, given in signatures.items()}
    return Loops(made[_attend], made[_rotate], made[_add_norm], made[_gate], made.get(_multiply))


def _compile(loop: Callable[..., None], signature: Any) -> Callable[..., None]:
    try:
        return njit(signature, cache=True, **OPTIONS)(loop)  # type: ignore[no-any-return]
    except RuntimeError:  # there is nowhere to keep it
        return njit(signature, **OPTIONS)(loop)  # type: ignore[no-any-return]


@intrinsic  # type: ignore[untyped-decorator]
def _power_of_two(_: Any, power: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        bits = builder.shl(builder.add(given[0], INT(127)), INT(23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic  # type: ignore[untyped-decorator]
def _wide(_: Any, x: Any) -> Any:
    """A stored number in 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        if x == types.float32:
            return given[0]
        return builder.bitcast(builder.shl(builder.sext(given[0], INT), INT(16)), ir.FloatType())

    return types.float32(x), generate


@intrinsic  # type: ignore[untyped-decorator]
def _narrow(_: Any, x: Any, like: Any) -> Any:
    """A number of 32 bits as it is stored, rounded to even; `like` is one that is stored."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        if like == types.float32:
            return given[0]
        bits = builder.bitcast(given[0], INT)
        even = builder.and_(builder.lshr(bits, INT(16)), INT(1))
        return builder.trunc(builder.lshr(builder.add(builder.add(bits, INT(0x7FFF)), even), INT(16)), ir.IntType(16))

    return like(types.float32, like), generate


@njit(inline="always", **OPTIONS)  # type: ignore[untyped-decorator]
def _exp(x: Any) -> Any:
    x = LOWEST if x < LOWEST else x
    x = HIGHEST if x > HIGHEST else x
    power = np.floor(x * LOG2_E + HALF)
    x = x - power * LN2_HIGH - power * LN2_LOW
    y = (((((C0 * x + C1) * x + C2) * x + C3) * x + C4) * x + C5) * x * x + x + ONE
    return y * _power_of_two(np.int32(power))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _multiply_add(x: Any, w: Any, out: Any) -> None:
    """out [rows, columns] += x [rows, depth] · w [depth, columns], with `tile`s as far as there are columns for them."""
    columns = out.shape[1]
    at = 0
    while at + WIDE * LANES <= columns:
        WIDE_TILE(x, w[:, at:], out[:, at:])
        at += WIDE * LANES
    while at + NARROW * LANES <= columns:
        NARROW_TILE(x, w[:, at:], out[:, at:])
        at += NARROW * LANES
    while at + LANES <= columns:
        SINGLE_TILE(x, w[:, at:], out[:, at:])
        at += LANES
    for row in range(len(x)):
        for d in range(len(w)):
            for column in range(at, columns):
                out[row, column] += x[row, d] * _wide(w[d, column])


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _most(scores: Any, most: Any) -> Any:
    for place in range(PLACES):
        most = scores[place] if scores[place] > most else most
    return most


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _exponents(scores: Any, most: Any) -> Any:
    """In place; returns their sum."""
    total = ZERO
    for place in range(PLACES):
        scores[place] = _exp(scores[place] - most)
        total += scores[place]
    return total


def _attend(
    q: Any,
    k: Any,
    v: Any,
    keys: Any,
    values: Any,
    slots: Any,
    positions: Any,
    scale: Any,
    out: Any,
    first: Any,
    last: Any,
) -> None:
    """k and v [rows, heads, dim] are kept at their slots' positions, then q [rows, queries, dim] looks at all up to there.
    The cache: [block, slot, head, dim, place] and [block, slot, head, place, dim]."""
    blocks, _, heads, dim, size = keys.shape
    shared = q.shape[1] // heads
    queries, found = np.empty((heads, shared, dim), np.float32), np.empty((heads, shared, dim), np.float32)
    scores, totals = np.empty((blocks, heads, shared, size), np.float32), np.empty((heads, shared), np.float32)
    for row in range(first, last):
        slot, used, at = slots[row], positions[row] // size + 1, positions[row] % size
        for head in range(heads):
            for d in range(dim):
                keys[used - 1, slot, head, d, at] = k[row, head, d]
                values[used - 1, slot, head, at, d] = v[row, head, d]
            for query in range(shared):
                for d in range(dim):
                    queries[head, query, d] = _wide(q[row, head * shared + query, d]) * scale
        scores[:used], found[:] = ZERO, ZERO
        for block in range(used):
            for head in range(heads):
                _multiply_add(queries[head], keys[block, slot, head], scores[block, head])
        scores[used - 1, :, :, at + 1 :] = NOTHING
        for head in range(heads):
            for query in range(shared):
                most, total = NOTHING, ZERO
                for block in range(used):
                    most = _most(scores[block, head, query], most)
                for block in range(used):
                    total += _exponents(scores[block, head, query], most)
                totals[head, query] = total
        for block in range(used):
            count = min(size, positions[row] + 1 - block * size)
            for head in range(heads):
                _multiply_add(scores[block, head], values[block, slot, head, :count], found[head])
        for head in range(heads):
            for query in range(shared):
                for d in range(dim):
                    out[row, head * shared + query, d] = _narrow(found[head, query, d] / totals[head, query], out[0, 0, 0])


def _multiply(x: Any, panels: Any, bias: Any, out: Any, first: Any, last: Any) -> None:
    """out [rows, columns] = x [rows, depth] · panels [panel, depth, 64 columns], plus bias; a range of panels."""
    _, depth, size = panels.shape
    sums = np.empty((min(ROWS, len(x)), size), np.float32)
    for row in range(0, len(x), ROWS):
        some, given = x[row : row + ROWS], out[row : row + ROWS]
        for panel in range(first, last):
            sums[:] = ZERO
            for start in range(0, depth, DEEP):
                for at in range(0, size, NARROW * LANES):
                    NARROW_TILE(some[:, start:], panels[panel, start : start + DEEP, at:], sums[:, at:])
            at = panel * size
            added = bias[at : at + size]
            for number in range(len(some)):
                line, totals = given[number, at : at + size], sums[number]
                for column in range(len(line)):
                    line[column] = _narrow(totals[column] + _wide(added[column]), line[column])


def _rotate(heads: Any, turned: Any, cos: Any, sin: Any, first: Any, last: Any) -> None:
    """Rotary positions of the first `turned` of [rows, heads, dim], in place; cos and sin [rows, dim]."""
    half = heads.shape[2] // 2
    for row in range(first, last):
        cos_low, cos_high, sin_low, sin_high = cos[row], cos[row][half:], sin[row], sin[row][half:]
        for head in range(turned):
            low, high = heads[row, head], heads[row, head][half:]
            for d in range(half):
                x, y = _wide(low[d]), _wide(high[d])
                low[d] = _narrow(x * _wide(cos_low[d]) - y * _wide(sin_low[d]), low[d])
                high[d] = _narrow(y * _wide(cos_high[d]) + x * _wide(sin_high[d]), high[d])


def _add_norm(h: Any, more: Any, weight: Any, epsilon: Any, out: Any, first: Any, last: Any) -> None:
    """h += more; out = its RMS norm, weighted after rounding."""
    size = h.shape[1]
    for row in range(first, last):
        line, added, normed = h[row], more[row], out[row]
        total = ZERO
        for d in range(size):
            line[d] = _narrow(_wide(line[d]) + _wide(added[d]), line[d])
            total += _wide(line[d]) * _wide(line[d])
        factor = ONE / np.sqrt(total / np.float32(size) + epsilon)
        for d in range(size):
            rounded = _narrow(_wide(line[d]) * factor, line[d])
            normed[d] = _narrow(_wide(weight[d]) * _wide(rounded), line[d])


def _gate(x: Any, out: Any, first: Any, last: Any) -> None:
    """silu of the first half of each row, times the second."""
    size = out.shape[1]
    for row in range(first, last):
        gate, up, gated = x[row], x[row][size:], out[row]
        for d in range(size):
            z = _wide(gate[d])
            rounded = _narrow(z / (ONE + _exp(-z)), gate[d])
            gated[d] = _narrow(_wide(rounded) * _wide(up[d]), gate[d])

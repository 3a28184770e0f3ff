"""The wavefront of any two-dimensional cell on the CPU, forward and backward.

A pixel needs its upper and its left neighbour, so the pixels of one anti-diagonal need only those of the one before. All pixels of
a diagonal of all images in a slice are the rows of one product for each neighbour: small images fill it together. Those without a
left neighbour come first and those without an upper one last, so that both products run over neighbouring rows, and a neighbour
that is not there adds nothing at all.

Places are counted from the corner where the run begins: (i, j) = (0, 0) there, whichever corner it is; rows and columns of the
arrays are found from it. A work item is a slice: a fixed number of images. An item runs over all diagonals with nothing to wait for.

Diagonals are cut into blocks on a fixed grid, as steps are in `loop`, whose order of summation this keeps: an image of one row is a
sequence, with the same bits.

Parameter gradients accumulate (`+=`), activation gradients are written (`=`).
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from ..._jit import full_vectors, loop
from .._loop import layout
from .._take import PUT, TAKE
from .product import product, product_transposed
from .rows import add_row, clear_row, copy_row


class Images(NamedTuple):
    """What the wavefront runs over: x (R, C, B, D), order (B,) images, in a slice the largest first, sizes (B, 2)."""

    x: np.ndarray
    order: np.ndarray
    sizes: np.ndarray


class Span(NamedTuple):
    """Which diagonals: [begin, end); blocks of `block` diagonals, slices of `rows` images; from which corner."""

    begin: int
    end: int
    block: int
    rows: int
    bottom: int
    right: int
    column: int  # where this corner's units begin in y


class Weights(NamedTuple):
    """Packed weights, forward or backward operands of `product`, and bias (Z,)."""

    input: np.ndarray
    up: np.ndarray
    left: np.ndarray
    bias: np.ndarray


class Trace(NamedTuple):
    """What forward leaves: y (R, C, B, >=H), others (R or 0, C, B, S - 1, H), saved (..., K, H), preactivations (..., G, H)."""

    y: np.ndarray
    others: np.ndarray
    saved: np.ndarray
    preactivations: np.ndarray


class Sums(NamedTuple):
    """Parameter gradients, one row a slice: input (., D * Zi), up and left (., H * Zr), bias (., Z)."""

    input: np.ndarray
    up: np.ndarray
    left: np.ndarray
    bias: np.ndarray


class Flow(NamedTuple):
    """Activation gradients: dy (R or 0, C, B, >=H) read; dx (R, C, B, D), dstates and dpreactivations (R or 0, ...) written."""

    dy: np.ndarray
    dx: np.ndarray
    dstates: np.ndarray
    dpreactivations: np.ndarray


class Scratch(NamedTuple):
    """Working memory of one thread; n pixels of a block, m of a diagonal, Z slots' room in a row of pre-activations.

    Kernels are given that of all threads, with an axis before the others.
    """

    x: np.ndarray  # (n, D)
    z: np.ndarray  # (n + 1, Z, H) pre-activations, or their gradients; the last row is only ever read
    operand: np.ndarray  # (m, Hp) operand of a recurrent product, or gradient of one
    held_up: np.ndarray  # (n, H) the recurrent operands of a block, 0 where there is no neighbour
    held_left: np.ndarray  # (n, H)
    ds_up: np.ndarray  # (m, S, H) what a diagonal passes to its neighbours' states beside the products
    ds_left: np.ndarray  # (m, S, H)
    dx: np.ndarray  # (n, Dp)
    new: np.ndarray  # (2, S, H) one pixel's new states, and their gradients
    saved: np.ndarray  # (K, H) what no tape keeps
    near: np.ndarray  # (2, S, H) the neighbours' states on the way back; forward, 0: those beyond the border
    panel: np.ndarray  # one panel of a block's pre-activation gradients; a block's sum of the biases' gradient
    places: np.ndarray  # (n, 4) image, i, and row and column in the arrays, of each pixel of a block
    counts: np.ndarray  # (block, 3) each diagonal's pixels; how many have an upper neighbour; how many no left one


@loop
def of_thread(scratch, who):
    """The working memory of one thread."""
    x, z, operand, held_up, held_left, ds_up, ds_left, dx, new, saved, near, panel, places, counts = scratch
    return Scratch(
        x[who], z[who], operand[who], held_up[who], held_left[who], ds_up[who], ds_left[who], dx[who], new[who], saved[who], near[who],
        panel[who], places[who], counts[who],
    )  # fmt: skip


@loop
def list_diagonal(order, sizes, first, count, d, bottom, right, places):
    """The pixels of diagonal d, into places; returns (how many, how many of the first have an upper neighbour, how many no left one).

    Within an image i descends, so that a running state held by i is overwritten only when it has been read.
    """
    n = 0
    if d > 0:
        for k in range(first, first + count):
            if d < sizes[order[k], 0]:
                n = put_place(order[k], d, 0, sizes, bottom, right, places, n)
    alone = n
    for k in range(first, first + count):
        b = order[k]
        for i in range(min(sizes[b, 0] - 1, d - 1), max(d - sizes[b, 1] + 1, 1) - 1, -1):
            n = put_place(b, i, d - i, sizes, bottom, right, places, n)
    below = n
    for k in range(first, first + count):
        if d < sizes[order[k], 1]:
            n = put_place(order[k], 0, d, sizes, bottom, right, places, n)
    return n, below, (alone if d > 0 else n)


@loop
def put_place(b, i, j, sizes, bottom, right, places, n):
    places[n, 0], places[n, 1] = b, i
    places[n, 2] = sizes[b, 0] - 1 - i if bottom else i
    places[n, 3] = sizes[b, 1] - 1 - j if right else j
    return n + 1


@loop
def list_block(images, first, count, begin, end, bottom, right, places, counts):
    """`list_diagonal` for diagonals [begin, end), one after another; returns how many pixels."""
    _, order, sizes = images
    total = 0
    for d in range(begin, end):
        n, below, alone = list_diagonal(order, sizes, first, count, d, bottom, right, places[total:])
        counts[d - begin, 0], counts[d - begin, 1], counts[d - begin, 2] = n, below, alone
        total += n
    return total


@loop
def gather_inputs(x, places, total, xs):
    for k in range(total):
        copy_row(x[places[k, 2], places[k, 3], places[k, 0]], xs[k])


@cache
def make_forward(cell):
    """The forward kernel of `cell`: fills `trace` and advances the running state (B, R, S, H) over `span`.

    state[b, i] is that of the last pixel of row i that was computed; after all diagonals, of the row's last.
    """
    step = cell.step
    G, S = len(cell.slots), len(cell.states)
    take_gates, take_states = TAKE[G], TAKE[S]
    put_states, put_saved = PUT[S], PUT[len(cell.saved)]
    (in0, _), (rec0, _), _ = layout(cell)[1:]

    @loop
    def units(a, up, left, has_up, has_left, s_new, saved):
        full_vectors()
        for j in range(up.shape[1]):
            states, kept = step(take_gates(a, j), take_states(up, j), take_states(left, j), (has_up, has_left))
            put_states(s_new, j, states)
            put_saved(saved, j, kept)

    @loop
    def operands(state, places, first, last, back, operand):
        """h of the neighbours of pixels [first, last): of the row `back` rows before."""
        for k in range(first, last):
            copy_row(state[places[k, 0], places[k, 1] - back, 0], operand[k - first, : state.shape[3]])

    @loop
    def keep(a, s_new, s, y, others, preactivations, row, column, b):
        """One pixel's new states into the running state, y and the tape."""
        for i in range(S):
            copy_row(s_new[i], s[i])
        copy_row(s_new[0], y)
        if others.shape[0] > 0:
            for i in range(1, S):
                copy_row(s_new[i], others[row, column, b, i - 1])
        if preactivations.shape[0] > 0:
            for g in range(G):
                copy_row(a[g], preactivations[row, column, b, g])

    @loop
    def forward(who, item, span, images, weights, trace, state, scratch):
        """Slice `item`."""
        span_begin, span_end, block, rows, bottom, right, first_unit = span
        x, order, _ = images
        w_input, w_up, w_left, bias = weights
        xs, z, operand, _, _, _, _, _, new, spare, near, _, places, counts = of_thread(scratch, who)
        y, others, saved, preactivations = trace
        B, H, D, Hp, width = order.shape[0], state.shape[3], x.shape[3], operand.shape[1], z.shape[1] * z.shape[2]
        xs_flat, z_flat, operand_flat, recurrent = xs.reshape(-1), z.reshape(-1), operand.reshape(-1), w_up.shape[0] // H
        first = item * rows
        count, begin = min(rows, B - first), span_begin
        while begin < span_end:
            end = min(span_end, (begin // block + 1) * block)
            total = list_block(images, first, count, begin, end, bottom, right, places, counts)
            gather_inputs(x, places, total, xs)
            for k in range(total):
                copy_row(bias, z_flat[k * width : (k + 1) * width])
            product(xs_flat, 0, D, 1, w_input, 0, z_flat, in0 * H, width, (total, w_input.shape[0] // D, D))
            k = 0
            for d in range(begin, end):
                n, below, alone = counts[d - begin, 0], counts[d - begin, 1], counts[d - begin, 2]
                if below > 0:
                    operands(state, places, k, k + below, 1, operand)
                    product(operand_flat, 0, Hp, 1, w_up, 0, z_flat, k * width + rec0 * H, width, (below, recurrent, H))
                if n > alone:
                    operands(state, places, k + alone, k + n, 0, operand)
                    product(operand_flat, 0, Hp, 1, w_left, 0, z_flat, (k + alone) * width + rec0 * H, width,
                            (n - alone, recurrent, H))  # fmt: skip
                for p in range(k, k + n):
                    b, i, row, column = places[p, 0], places[p, 1], places[p, 2], places[p, 3]
                    has_up, has_left = p < k + below, p >= k + alone
                    up, left = state[b, i - 1] if has_up else near[0], state[b, i] if has_left else near[0]
                    units(z[p], up, left, has_up, has_left, new[0], saved[row, column, b] if saved.shape[0] > 0 else spare)
                    keep(z[p], new[0], state[b, i], y[row, column, b, first_unit : first_unit + H], others, preactivations,
                         row, column, b)  # fmt: skip
                k += n
            begin = end

    return forward


@cache
def make_backward(cell):
    """The backward kernel of `cell`: adds to `sums`, fills `flow`, takes the running gradient (B, R, S, H) back over `span`.

    dstate[b, i] is what has come in for the pixel of row i that is next on the way back; dL/d(final state) to begin with.
    """
    step_backward = cell.step_backward
    G, S = len(cell.slots), len(cell.states)
    take_states, take_saved = TAKE[S], TAKE[len(cell.saved)]
    put_gates, put_states = PUT[G], PUT[S]
    (in0, in1), (rec0, rec1), _ = layout(cell)[1:]

    @loop
    def units(saved, up, left, has_up, has_left, s_new, ds, da, ds_up, ds_left):
        full_vectors()
        for j in range(ds_up.shape[1]):
            near, there = (take_states(up, j), take_states(left, j)), (has_up, has_left)
            gates, above, beside = step_backward(take_saved(saved, j), *near, there, take_states(s_new, j), take_states(ds, j))
            put_gates(da, j, gates)
            put_states(ds_up, j, above)
            put_states(ds_left, j, beside)

    @loop
    def load_states(y, others, first_unit, row, column, b, states):
        copy_row(y[row, column, b, first_unit : first_unit + states.shape[1]], states[0])
        for i in range(1, S):
            copy_row(others[row, column, b, i - 1], states[i])

    @loop
    def load_neighbour(there, y, others, first_unit, row, column, b, states, held):
        """The neighbour's states, and its output where the parameter gradients look for it; 0 beyond the border."""
        if there:
            load_states(y, others, first_unit, row, column, b, states)
        else:
            for i in range(S):
                clear_row(states[i])
        copy_row(states[0], held)

    @loop
    def receive(running, dy, dstates, first_unit, row, column, b, ds):
        """One pixel's dL/dstate: what has come in, and dL/dy."""
        for i in range(S):
            copy_row(running[i], ds[i])
        if dy.shape[0] > 0:
            add_row(dy[row, column, b, first_unit : first_unit + ds.shape[1]], ds[0])
        if dstates.shape[0] > 0:
            for i in range(S):
                copy_row(ds[i], dstates[row, column, b, i])

    @loop
    def pass_left(dstate, places, k, n, alone, ds_left, operand):
        """What a diagonal sends to its left neighbours starts their sums; where there is none, nothing looks at it."""
        for r in range(n):
            target = dstate[places[k + r, 0], places[k + r, 1]]
            for i in range(S):
                copy_row(ds_left[r, i], target[i])
            if r >= alone:
                add_row(operand[r - alone, : target.shape[1]], target[0])

    @loop
    def pass_up(dstate, places, k, below, ds_up, operand):
        for r in range(below):
            target = dstate[places[k + r, 0], places[k + r, 1] - 1]
            for i in range(S):
                add_row(ds_up[r, i], target[i])
            add_row(operand[r, : target.shape[1]], target[0])

    @loop
    def add_bias(z_flat, total, width, panel, bias_sum):
        part = panel[:width]
        clear_row(part)
        for k in range(total):
            add_row(z_flat[k * width : (k + 1) * width], part)
        add_row(part, bias_sum)

    @loop
    def scatter(dxs, z, places, total, dx, dpreactivations):
        for k in range(total):
            b, row, column = places[k, 0], places[k, 2], places[k, 3]
            copy_row(dxs[k], dx[row, column, b])
            if dpreactivations.shape[0] > 0:
                for g in range(G):
                    copy_row(z[k, g], dpreactivations[row, column, b, g])

    @loop
    def backward(who, item, span, images, weights, trace, sums, flow, dstate, scratch):
        """Slice `item`."""
        span_begin, span_end, block, rows, bottom, right, first_unit = span
        x, order, _ = images
        w_input, w_up, w_left, _ = weights
        xs, z, operand, held_up, held_left, ds_up, ds_left, dxs, new, _, near, panel, places, counts = of_thread(scratch, who)
        y, others, saved, _ = trace
        dy, dx, dstates, dpreactivations = flow
        B, H, D, Hp, Dp, width = order.shape[0], dstate.shape[3], x.shape[3], operand.shape[1], dxs.shape[1], z.shape[1] * z.shape[2]
        xs_flat, z_flat, operand_flat, up_flat, left_flat, dxs_flat = (
            xs.reshape(-1), z.reshape(-1), operand.reshape(-1), held_up.reshape(-1), held_left.reshape(-1), dxs.reshape(-1)
        )  # fmt: skip
        above, beside, recurrent = -1 if bottom else 1, -1 if right else 1, (rec1 - rec0) * H
        first = item * rows
        count, end = min(rows, B - first), span_end
        while end > span_begin:
            begin = max(span_begin, (end - 1) // block * block)
            total = list_block(images, first, count, begin, end, bottom, right, places, counts)
            gather_inputs(x, places, total, xs)
            k, any_up = total, 0
            for d in range(end - 1, begin - 1, -1):
                n, below, alone = counts[d - begin, 0], counts[d - begin, 1], counts[d - begin, 2]
                k, any_up = k - n, any_up + below
                for p in range(k, k + n):
                    b, i, row, column = places[p, 0], places[p, 1], places[p, 2], places[p, 3]
                    has_up, has_left = p < k + below, p >= k + alone
                    receive(dstate[b, i], dy, dstates, first_unit, row, column, b, new[1])
                    load_states(y, others, first_unit, row, column, b, new[0])
                    load_neighbour(has_up, y, others, first_unit, row - above, column, b, near[0], held_up[p])
                    load_neighbour(has_left, y, others, first_unit, row, column - beside, b, near[1], held_left[p])
                    units(saved[row, column, b], near[0], near[1], has_up, has_left, new[0], new[1], z[p],
                          ds_up[p - k], ds_left[p - k])  # fmt: skip
                if n > alone:
                    clear_row(operand_flat[: (n - alone) * Hp])
                    product(z_flat, (k + alone) * width + rec0 * H, width, 1, w_left, 0, operand_flat, 0, Hp,
                            (n - alone, Hp, recurrent))  # fmt: skip
                pass_left(dstate, places, k, n, alone, ds_left, operand)
                if below > 0:
                    clear_row(operand_flat[: below * Hp])
                    product(z_flat, k * width + rec0 * H, width, 1, w_up, 0, operand_flat, 0, Hp, (below, Hp, recurrent))
                    pass_up(dstate, places, k, below, ds_up, operand)
            product_transposed(xs_flat, D, z_flat, in0 * H, width, sums.input[item], total, panel, 0, sums.input.shape[1] // D)
            if any_up > 0:
                product_transposed(up_flat, H, z_flat, rec0 * H, width, sums.up[item], total, panel, 0, sums.up.shape[1] // H)
            product_transposed(left_flat, H, z_flat, rec0 * H, width, sums.left[item], total, panel, 0, sums.left.shape[1] // H)
            add_bias(z_flat, total, width, panel, sums.bias[item])
            clear_row(dxs_flat[: total * Dp])
            product(z_flat, in0 * H, width, 1, w_input, 0, dxs_flat, 0, Dp, (total, Dp, (in1 - in0) * H))
            scatter(dxs, z, places, total, dx, dpreactivations)
            end = begin

    return backward

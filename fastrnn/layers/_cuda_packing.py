"""Where the parameters of a direction go to be multiplied with on the GPU, and where their gradients come from: `Piece` by piece.

Weights are taken in blocks of H rows, a gate's in a parameter, a slot's in an operand. Neighbours that come from neighbours are one piece.
"""

from itertools import accumulate
from typing import NamedTuple

from ..kernels.cuda.packing import ADD, COPY, SUM, Piece

ALIGNED = 64  # numbers: where arrays begin that share memory
SIDES = ("input", "recurrent", "modulated")
WEIGHTS = {"input": "weight_ih", "recurrent": "weight_hh", "modulated": "weight_hh"}


def runs(blocks: list[tuple]) -> list[tuple]:
    """(first block, how many, their sources at the first) of neighbours in blocks (block, sources); sources are numbers of blocks."""
    found = []
    for block, sources in blocks:
        if found:
            first, count, before = found[-1]
            if block == first + count and sources == tuple((name, at + count) for name, at in before):
                found[-1] = first, count + 1, before
                continue
        found.append((block, 1, sources))
    return found


def turned(blocks: list[tuple]) -> list[tuple]:
    """Blocks and sources the other way round, those of each in order."""
    found = {}
    for block, sources in blocks:
        for name, at in sources:
            found.setdefault((name, at), []).append(("", block))
    return [(key, tuple(found[key])) for key in sorted(found)]


def weight_blocks(cell, slots: tuple[int, int], name: str) -> list[tuple]:
    """Of an operand of slots [first, last): the block of the weight that each is."""
    side = "input" if name == "weight_ih" else "recurrent"
    return [(n, ((name, cell.gates.index(getattr(slot, side))),)) for n, slot in enumerate(cell.slots[slice(*slots)])]


def bias_blocks(cell) -> list[tuple]:
    """Of what is added to all slots: the blocks of the biases."""
    names = [(name, side) for name, side in (("bias_ih", "input"), ("bias_hh", "recurrent")) if name in cell.biases]
    return [
        (k, tuple((name, cell.gates.index(getattr(slot, side))) for name, side in names if getattr(slot, side) is not None))
        for k, slot in enumerate(cell.slots)
    ]


class Operands(NamedTuple):
    """How operands lie in one array: of the input, of h and of what is modulated, (E, K, N) where k is the `first` axis, else (E, N, K).

    Of h there are `tall` k in the first case, and `tall` rows of each slot in the other: zeros behind the last of H.
    """

    members: int
    first: tuple[bool, bool, bool]
    tall: int


def operand_sizes(d, how: Operands) -> tuple[int, ...]:
    """How many numbers of a member the operands of the input, h and what is modulated, all biases and the unit parameters have."""
    weights = d.D * d.input_rows.size, how.tall * d.recurrent_rows.size, d.H * d.modulated_rows.size
    return *weights, len(d.cell.slots) * d.H, len(d.cell.parameters) * d.H


def operand_begins(d, how: Operands) -> list[int]:
    """Where they begin, and their size together."""
    return [0, *accumulate(-(-how.members * size // ALIGNED) * ALIGNED for size in operand_sizes(d, how))]


def operand_pieces(d, how: Operands, at: dict) -> list[Piece]:
    """All of them; at: of each parameter in which of two arrays it lies, where, and the step to the next member."""
    cell, H, pieces, begins, sizes = d.cell, d.H, [], operand_begins(d, how), operand_sizes(d, how)

    def sources(found, width):
        return tuple((at[name][0], at[name][1] + block * H * width, at[name][2]) for name, block in found)

    for side, first_axis, begin, size in zip(SIDES, how.first, begins, sizes):
        slots, K, high = getattr(d.layout, side), d.D if side == "input" else H, how.tall if side == "recurrent" else H
        count = slots[1] - slots[0]
        apart, row, column = (H, 1, count * H) if first_axis else (high * K, K, 1)
        blocks = weight_blocks(cell, slots, WEIGHTS[side])
        for block, many, found in runs(blocks) if first_axis or high == H else [(n, 1, found) for n, found in blocks]:
            pieces.append(Piece(COPY, many * H, K, begin + block * apart, row, column, size, K, 1, sources(found, K)))
        if high > H and first_axis:
            pieces.append(Piece(COPY, high - H, count * H, begin + H * column, column, 1, size, 0, 0, ()))
        elif high > H:
            pieces += [Piece(COPY, high - H, K, begin + n * apart + H * K, row, 1, size, 0, 0, ()) for n in range(count)]
    for block, count, found in runs(bias_blocks(cell)):
        pieces.append(Piece(SUM, 1, count * H, begins[3] + block * H, 0, 1, len(cell.slots) * H, 0, 1, sources(found, 1)))
    for i, name in enumerate(cell.parameters):
        pieces.append(Piece(COPY, 1, H, begins[4] + i * H, 0, 1, len(cell.parameters) * H, 0, 1, sources(((name, 0),), 1)))
    return pieces


def sum_begins(d) -> list[int]:
    """Where the sums for weight_ih (D, Ni), weight_hh (H, Nr + Nm), all slots' biases and the unit parameters begin, and their size."""
    recurrent = d.recurrent_rows.size + d.modulated_rows.size
    return [0, *accumulate((d.D * d.input_rows.size, d.H * recurrent, len(d.cell.slots) * d.H, len(d.cell.parameters) * d.H))]


def gradient_pieces(d, at: dict) -> list[Piece]:
    """What the sums add to gradients; at: of each that is wanted where it begins and the step to the next member."""
    cell, H, pieces, begins, (_, _, recurrent, modulated) = d.cell, d.H, [], sum_begins(d), d.layout
    behind = recurrent[1] - recurrent[0]  # the sums of the modulated slots stand behind those of the others
    hidden = weight_blocks(cell, recurrent, "weight_hh")
    hidden += [(behind + n, sources) for n, sources in weight_blocks(cell, modulated, "weight_hh")]

    def add(blocks, begin, K, N):
        for (name, block), count, found in named_runs(turned(blocks)):
            places = tuple((0, begin + n * H, begins[-1]) for _, n in found)
            start, member = at[name]
            pieces.append(Piece(ADD, count * H, K, start + block * H * K, K, 1, member, 1, N, places))

    add(weight_blocks(cell, d.layout.input, "weight_ih"), begins[0], d.D, d.input_rows.size)
    add(hidden, begins[1], H, len(hidden) * H)
    add(bias_blocks(cell), begins[2], 1, 1)
    add([(i, ((name, 0),)) for i, name in enumerate(cell.parameters) if name in at], begins[3], 1, 1)
    return pieces


def named_runs(blocks: list[tuple]):
    """`runs` of blocks ((name, block), sources), each name's apart."""
    for name in dict.fromkeys(name for (name, _), _ in blocks):
        own = [(block, sources) for (found, block), sources in blocks if found == name]
        yield from (((name, block), count, sources) for block, count, sources in runs(own))

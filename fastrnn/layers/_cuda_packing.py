"""Where the parameters of a direction go to be multiplied with on the GPU, and where their gradients come from: `Piece` by piece.

Weights are taken in blocks of H rows, a gate's in a parameter, a slot's in an operand. Neighbours that come from neighbours are one piece.
"""

from itertools import accumulate

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


def operand_sizes(d) -> tuple[int, ...]:
    """How many numbers of a member the operands of the input, h and what is modulated, all biases and the unit parameters have."""
    weights = d.D * d.input_rows.size, d.H * d.recurrent_rows.size, d.H * d.modulated_rows.size
    return *weights, len(d.cell.slots) * d.H, len(d.cell.parameters) * d.H


def operand_begins(d, members: int) -> list[int]:
    """Where they begin in one array, and its size."""
    return [0, *accumulate(-(-members * size // ALIGNED) * ALIGNED for size in operand_sizes(d))]


def operand_pieces(d, k_first: tuple[bool, bool, bool], members: int, at: dict) -> list[Piece]:
    """What `operand_begins` has; `k_first`: whether k is the first axis of each operand or the last.

    at: of each parameter in which of two arrays it lies, where, and the step to the next member.
    """
    cell, H, pieces, begins = d.cell, d.H, [], operand_begins(d, members)

    def sources(found, width):
        return tuple((at[name][0], at[name][1] + block * H * width, at[name][2]) for name, block in found)

    for side, first_axis, begin in zip(SIDES, k_first, begins):
        slots, K = getattr(d.layout, side), d.D if side == "input" else H
        N = (slots[1] - slots[0]) * H
        row, column = (1, N) if first_axis else (K, 1)
        for block, count, found in runs(weight_blocks(cell, slots, WEIGHTS[side])):
            pieces.append(Piece(COPY, count * H, K, begin + block * H * row, row, column, K * N, K, 1, sources(found, K)))
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

"""What is measured: a network and its sizes, the numbers that go in, and the operations and bytes that it takes."""

from typing import NamedTuple

import numpy as np

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
KEPT = {"rnn": 1, "gru": 5, "lstm": 6}  # numbers that a unit's way back needs from a step: activations and states
SIZES = (
    (1, 16, 32),
    (1, 128, 128),
    (1, 512, 512),
    (8, 32, 64),
    (32, 16, 32),
    (32, 64, 64),
    (32, 128, 128),
    (64, 256, 256),
    (64, 512, 512),
    (256, 64, 64),
)
STEPS = 100
MIDDLE = (32, 64, 64)  # the size at which steps, lengths, directions and layers are varied
OUTPUTS = 10  # of the network that is trained
SLICE = 16  # rows that meet a weight each time it is read
#: What is timed of each variant. "both" is forward and backward; "step" is that with loss, clipping and Adam; "fit" the same by `fit`.
PASSES = {
    "plain": ("forward", "both"),
    "ragged": ("forward", "both"),
    "bidirectional": ("forward", "both"),
    "stacked": ("forward", "both"),
    "training": ("step", "fit"),
    "generation": ("generate",),
}


class Case(NamedTuple):
    """One network on one input: x (T, B, D), H units a layer and direction.

    The variant is "plain"; "ragged" (lengths from 1 to T); "bidirectional"; "stacked" (two layers); "training" (a readout of the last
    step, cross-entropy, clipping, Adam); or "generation" (a readout of every step enters at the next one; D is its size too).
    """

    cell: str
    dtype: str
    T: int
    B: int
    D: int
    H: int
    variant: str = "plain"

    @property
    def layers(self) -> int:
        return 2 if self.variant == "stacked" else 1

    @property
    def directions(self) -> int:
        return 2 if self.variant == "bidirectional" else 1

    def widths(self) -> list[int]:
        """Inputs of every layer."""
        return [self.D] + [self.H * self.directions] * (self.layers - 1)


class Data(NamedTuple):
    """What every library is given.

    Attributes
    ----------
    weights : dict of ndarray
        By PyTorch's names, in its shapes and order of gates.
    readout : dict of ndarray
        weight and bias of the layer on top; empty where there is none.
    x : ndarray, shape (T, B, D)
    dy : ndarray, shape (T, B, H * directions)
        The gradient that goes back from the outputs; zero past a sequence's end.
    lengths : ndarray of int, shape (B,), or None
    target : ndarray of int, shape (B,)
        Classes, of the network that is trained.
    """

    weights: dict
    readout: dict
    x: np.ndarray
    dy: np.ndarray
    lengths: np.ndarray | None
    target: np.ndarray


def data(case: Case) -> Data:
    """The same numbers for the same case, in any process."""
    rng, bound, weights = np.random.default_rng(0), case.H**-0.5, {}

    def draw(*shape):
        return rng.uniform(-bound, bound, shape).astype(case.dtype)

    rows = GATES[case.cell] * case.H
    for layer, width in enumerate(case.widths()):
        for suffix in ("", "_reverse")[: case.directions]:
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, case.H), "bias_ih": (rows,), "bias_hh": (rows,)}
            weights |= {f"{name}_l{layer}{suffix}": draw(*shape) for name, shape in shapes.items()}
    outputs = {"training": OUTPUTS, "generation": case.D}.get(case.variant)
    readout = {"weight": draw(outputs, case.H), "bias": draw(outputs)} if outputs else {}
    x = rng.standard_normal((case.T, case.B, case.D)).astype(case.dtype)
    dy, ends = rng.standard_normal((case.T, case.B, case.H * case.directions)).astype(case.dtype), lengths(case)
    if ends is not None:
        dy *= (np.arange(case.T)[:, None] < ends)[..., None]
    return Data(weights, readout, x, dy, ends, rng.integers(OUTPUTS, size=case.B))


def lengths(case: Case) -> np.ndarray | None:
    """From 1 to T, of ragged sequences; else None."""
    return np.random.default_rng(1).integers(1, case.T + 1, case.B) if case.variant == "ragged" else None


def steps(case: Case) -> int:
    """Steps of all sequences together."""
    found = lengths(case)
    return case.T * case.B if found is None else int(found.sum())


def operations(case: Case, direction: str) -> int:
    """Multiplications and additions in the matrix products; what is done unit by unit is not counted.

    Forward 2 G H (D + H) a sequence and step, G the gates, for each layer and direction. The way back takes twice that: once for the
    gradient of the inputs and states, once for that of the weights.
    """
    products = sum(2 * GATES[case.cell] * case.H * (width + case.H) for width in case.widths()) * case.directions * steps(case)
    products += 2 * case.H * {"training": OUTPUTS * case.B, "generation": case.D * steps(case)}.get(case.variant, 0)
    return products * (1 if direction in ("forward", "generate") else 3)


def traffic(case: Case, direction: str) -> int:
    """Bytes that must pass a core's first-level cache, as a model: every array that is too large to stay there, each time it is used.

    The recurrent weights, G H H, once a step for every 16 sequences (a slice); x and y once. Backward the recurrent weights again, and a
    tape of 1 (rnn), 5 (gru) or 6 (lstm) numbers a unit written and read; the G gradients by pre-activations written, and read for the
    inputs and for the weights; x and the states read again, dy read, dx written. Generation has the input weights and the readout to
    read at every step, too.
    """
    at, gates, total = steps(case), GATES[case.cell], 0
    slices = at / min(case.B, SLICE)  # slice-steps
    for width in case.widths():
        recurrent, flow = slices * gates * case.H**2, at * (width + case.H)
        if direction == "generate":
            recurrent += slices * case.H * (gates * width + case.D)
        total += recurrent + flow
        if direction not in ("forward", "generate"):
            tape, gradients = 2 * KEPT[case.cell] * at * case.H, 3 * gates * at * case.H
            total += recurrent + tape + gradients + at * (2 * width + 2 * case.H)
    return round(total * case.directions * np.dtype(case.dtype).itemsize)


# Sets of cases -----------------------------------------------------------------------------------------------------------


def groups(cells, dtypes, sizes=SIZES) -> dict[str, list[Case]]:
    """Every cell and dtype at the sizes (B, D, H) given, one group each."""
    return {f"{cell} {dtype}": [Case(cell, dtype, STEPS, *size) for size in sizes] for dtype in dtypes for cell in cells}


def whole_grid(cells, dtypes, sizes=SIZES, long=(10, 1000, 10_000)) -> dict[str, list[Case]]:
    """`groups`, and at the middle size other numbers of steps, ragged lengths, both directions and two layers."""
    found = groups(cells, dtypes, sizes)
    for dtype in dtypes:
        for cell in cells:
            found[f"{cell} {dtype}, other lengths"] = [Case(cell, dtype, T, *MIDDLE) for T in long]
            variants = ("ragged", "bidirectional", "stacked")
            found[f"{cell} {dtype}, variants"] = [Case(cell, dtype, STEPS, *MIDDLE, variant) for variant in variants]
    return found


def scaling(batches=(1, 4, 16, 64, 256), units=(16, 32, 128, 256, 512)) -> dict[str, list[Case]]:
    """An LSTM at B x 64 x 64 and 32 x H x H, to see what cost grows with."""
    found = [Case("lstm", "float32", STEPS, B, 64, 64) for B in batches]
    return {"scaling": [*found, *(Case("lstm", "float32", STEPS, 32, H, H) for H in units)]}


def training() -> dict[str, list[Case]]:
    return {"training": [Case("lstm", "float32", STEPS, *MIDDLE, "training")]}


def streaming(sizes=((16, 32, 10_000), (512, 512, 1000))) -> dict[str, list[Case]]:
    """One sequence, (D, H, T) each: as it comes in, and as the network's own outputs make it."""
    return {"streaming": [Case("lstm", "float32", T, 1, D, H, kind) for D, H, T in sizes for kind in ("plain", "generation")]}


def distinct(groups: dict[str, list[Case]]) -> dict[str, list[Case]]:
    """The groups without cases that an earlier one has; groups that are empty then go."""
    seen, found = set(), {}
    for name, cases in groups.items():
        found[name] = [case for case in cases if case not in seen]
        seen.update(cases)
    return {name: cases for name, cases in found.items() if cases}

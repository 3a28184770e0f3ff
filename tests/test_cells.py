"""Every cell's pointwise pair against complex steps of its own forward half, in plain Python, and the cell's declaration."""

import numpy as np
import pytest
from variants import VARIANTS, label

from fastrnn.cells import CELLS, Cell, build
from fastrnn.kernels._loop import layout

STEP = 1e-30


def draw(cell: Cell, rng):
    """Pre-activations, states, unit parameters; the parameters positive where they must be."""
    a, s, p = (tuple(rng.normal(size=len(names)).tolist()) for names in (cell.slots, cell.states, cell.parameters))
    return a, s, tuple(abs(v) + 0.1 for v in p)


def perturbed(group, k):
    return tuple(complex(v) + (1j * STEP if n == k else 0) for n, v in enumerate(group))


@pytest.mark.parametrize("variant", VARIANTS, ids=label)
def test_step_backward_is_the_derivative_of_step(variant):
    cell = build(variant[0], **variant[1])
    rng = np.random.default_rng(7)
    for _ in range(50):
        a, s, p = draw(cell, rng)
        weights = rng.normal(size=len(cell.states))
        s_new, saved = cell.step(a, s, p)
        assert len(s_new) == len(cell.states) and len(saved) == len(cell.saved)
        groups = cell.step_backward(saved, s, s_new, p, tuple(weights))

        def loss(a, s, p, weights=weights):
            return sum(w * v for w, v in zip(weights, cell.step(a, s, p)[0]))

        modulated = [slot.modulated for slot in cell.slots]
        for g, (group, values) in enumerate(zip(groups, (a, s, p))):
            assert len(group) == len(values)
            for k, got in enumerate(group):
                if g == 2 and cell.parameters[k] in cell.fixed:
                    continue
                args = [a, s, p]
                args[g] = perturbed(values, k)
                args = [tuple(map(complex, arg)) for arg in args]
                exact = np.imag(loss(*args)) / STEP
                assert got == pytest.approx(exact, rel=1e-12, abs=1e-15), (cell.name, modulated, g, k)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if build(v[0], **v[1]).modulate], ids=label)
def test_modulate_backward_is_the_derivative_of_modulate(variant):
    cell = build(variant[0], **variant[1])
    rng = np.random.default_rng(8)
    for _ in range(20):
        a, s, p = draw(cell, rng)
        du = rng.normal()
        _, saved = cell.step(a, s, p)
        u, da, ds = cell.modulate_backward(saved, s[0], p, du)
        assert u == pytest.approx(cell.modulate(a, s[0], p), rel=1e-14)
        for k, got in enumerate(da):
            exact = du * np.imag(cell.modulate(perturbed(a, k), complex(s[0]), p)) / STEP
            assert got == pytest.approx(exact, rel=1e-12, abs=1e-15)
        exact = du * np.imag(cell.modulate(tuple(map(complex, a)), s[0] + 1j * STEP, p)) / STEP
        assert ds[0] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_declared_soundly(name):
    cell = build(name)
    assert cell.name == name and cell.states and len(cell.defaults) == len(cell.parameters)
    assert set(cell.fixed) <= set(cell.parameters)
    assert {slot.input for slot in cell.slots} | {slot.recurrent for slot in cell.slots} <= {*cell.gates, None}
    assert layout(cell).slots == len(cell.slots)
    assert build(name) is build(name)


def test_slots_out_of_order_are_refused():
    cell = build("gru")
    with pytest.raises(ValueError, match="slots of cell 'gru'"):
        layout(cell._replace(slots=(cell.slots[1], cell.slots[3], cell.slots[0], cell.slots[2])))


def test_bad_names_and_options():
    with pytest.raises(ValueError, match="cell: one of 'gru'.*got 'lstn'"):
        build("lstn")
    with pytest.raises(TypeError, match="cell_options: for 'gru'.*got 'peepholes'"):
        build("gru", peepholes=True)
    with pytest.raises(ValueError, match="activation: one of 'tanh'.*got 'swish'"):
        build("rnn", activation="swish")
    with pytest.raises(ValueError, match="gate_activation"):
        build("lstm", gate_activation=None)
    with pytest.raises(ValueError, match="clip: a number greater than 0"):
        build("lstm", clip=-1.0)
    with pytest.raises(ValueError, match="tau"):
        build("leaky", tau=0.0)

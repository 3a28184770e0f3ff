"""A cell of one's own: the update-gate RNN [Collins, Sohl-Dickstein & Sussillo 2017]. Run it: ``python own_cell.py``."""

import numpy as np

import fastrnn as fr
from fastrnn.math import sigmoid, sigmoid_backward, tanh, tanh_backward

BIAS = 1.0  # g begins open: what is remembered is kept


@fr.pointwise
def step(a, s, p):
    """One unit, one step: pre-activations and old state to new state and tape. h' = g h + (1 - g) n."""
    (a_n, a_g), (h,) = a, s
    n, g = tanh(a_n), sigmoid(a_g + type(h)(BIAS))
    return (n + g * (h - n),), (n, g)


@fr.pointwise
def step_backward(saved, s, s_new, p, ds_new):
    """From dL/dh' to the gradients by the pre-activations, the old state, and the unit parameters (of which there are none)."""
    (n, g), (h,), (dh,) = saved, s, ds_new
    one = type(h)(1.0)
    return (dh * (one - g) * tanh_backward(n), dh * (h - n) * sigmoid_backward(g)), (dh * g,), ()


ugrnn = fr.Cell("ugrnn", gates=("n", "g"), slots=fr.both("n", "g"), states=("h",), saved=("n", "g"), step=step, step_backward=step_backward)


if __name__ == "__main__":
    task = fr.data.TemporalOrder(20)
    x, target, lengths = task.sample(2000, np.random.default_rng(0))
    network = fr.Recurrent(ugrnn, task.input_size, 32)
    model = fr.Model(network, fr.Linear(32, task.output_size), loss=fr.CrossEntropy())
    fr.fit(model, (x, target, lengths), epochs=5, optimizer=fr.Adam(1e-2, clip_norm=1.0), progress=True)
    fresh = task.sample(1000, np.random.default_rng(1))
    print(f"accuracy {model.evaluate(*fresh)['accuracy']:.3f} (chance {1 / task.output_size})")

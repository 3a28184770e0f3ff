"""TensorFlow: Keras' recurrent layers, each pass a compiled graph."""

import numpy as np
import tensorflow as tf

from ..cases import Case, Data
from . import Built, Lacking

ORDER = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 1, 2, 3]}  # where Keras' gates (z r h; i f c o) are among PyTorch's
LAYERS = {"rnn": tf.keras.layers.SimpleRNN, "gru": tf.keras.layers.GRU, "lstm": tf.keras.layers.LSTM}


def set_threads(n: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(n)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def build(case: Case, data: Data) -> Built:
    """Keras has batch first; the arrays are turned beforehand. Of the gradients dx is compared, through which all weights went."""
    if case.variant in ("training", "generation"):
        raise Lacking(f"no {case.variant} is written for it here")
    layers = [_layer(case, data, k) for k in range(case.layers)]
    x, dy = (tf.constant(array.swapaxes(0, 1)) for array in (data.x, data.dy))
    mask = None if data.lengths is None else tf.sequence_mask(data.lengths, case.T)
    weights = [weight for layer in layers for weight in layer.trainable_variables]

    def run(x):
        for layer in layers:
            x = layer(x, mask=mask)
        return x

    forward = tf.function(run)

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = run(x)
        return y, tape.gradient(y, [x, *weights], output_gradients=dy)

    def arrays():
        y, (dx, *_) = gradient(x)
        inside = 1.0 if mask is None else mask[..., None].numpy()  # past its end Keras repeats a sequence's last output
        return {"y": (y.numpy() * inside).swapaxes(0, 1), "dx": dx.numpy().swapaxes(0, 1)}

    return Built({"forward": lambda: forward(x).numpy(), "both": lambda: [array.numpy() for array in tf.nest.flatten(gradient(x))]}, arrays)


def _layer(case: Case, data: Data, layer: int):
    options = {"return_sequences": True, "dtype": case.dtype} | ({"reset_after": True} if case.cell == "gru" else {})
    one, width = LAYERS[case.cell](case.H, **options), case.widths()[layer]
    if case.directions == 2:
        one = tf.keras.layers.Bidirectional(one, dtype=case.dtype)
    one.build((case.B, case.T, width))
    one.set_weights([array for suffix in ("", "_reverse")[: case.directions] for array in _weights(case, data, f"_l{layer}{suffix}")])
    return one


def _weights(case: Case, data: Data, suffix: str) -> list[np.ndarray]:
    """Kernel (D, G H), recurrent kernel (H, G H) and bias: the sum (G H,), or both (2, G H) where n takes them apart."""
    order = np.concatenate([case.H * gate + np.arange(case.H) for gate in ORDER[case.cell]])
    kernels = [data.weights[name + suffix][order].T for name in ("weight_ih", "weight_hh")]
    biases = np.stack([data.weights[name + suffix][order] for name in ("bias_ih", "bias_hh")])
    return [*kernels, biases if case.cell == "gru" else biases.sum(axis=0)]

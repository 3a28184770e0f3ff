"""fastrnn itself."""

import numpy as np

from ..._threads import set_num_threads
from ...bptt import Full
from ...layers.feedforward import Linear
from ...layers.networks import GRU, LSTM, RNN
from ...losses import CrossEntropy, MeanSquaredError
from ...model import Model
from ...optimizers import Adam
from ...train import fit
from ..cases import Case, Data
from . import Built

LAYERS = {"rnn": RNN, "gru": GRU, "lstm": LSTM}
FIT_STEPS = 50  # in a call of fit, whose own beginning then does not count
CHECKPOINTS = 24  # arrays (sqrt(T), B, H) beside the outputs: tape of a segment, and the states between segments

set_threads = set_num_threads


def build(case: Case, data: Data) -> Built:
    if case.variant == "training":
        return _training(case, data)
    if case.variant == "generation":
        return _generation(case, data)
    network = _network(case, data)

    def both():
        y, _, tape = network.forward(data.x, lengths=data.lengths)
        return y, network.backward(tape, data.dy)

    def arrays():
        y, gradients = both()
        return {"y": y, "dx": gradients.x} | {name: gradients.params[name] for name in data.weights}

    return Built({"forward": lambda: network(data.x, lengths=data.lengths), "both": both}, arrays)


def _network(case: Case, data: Data):
    options = {"num_layers": case.layers, "bidirectional": case.directions == 2, "dtype": case.dtype}
    network = LAYERS[case.cell](case.D, case.H, **options)
    network.load_state_dict(data.weights)
    return network


def _model(case: Case, data: Data, **options) -> Model:
    readout = Linear(case.H, len(data.readout["bias"]), dtype=case.dtype)
    for name, array in data.readout.items():
        readout.params[name] = array
    return Model(_network(case, data), readout, **options)


def gradient(case: Case, data: Data, checkpoints: bool = False):
    """Loss and gradient of the trained network, to see what memory they take; with `checkpoints`, within y and some sqrt(T) steps' tape."""
    model, bptt = _model(case, data, loss=CrossEntropy()), Full()
    if checkpoints:
        step = case.B * case.H * np.dtype(case.dtype).itemsize
        bptt = Full(memory=int(step * (case.T + CHECKPOINTS * case.T**0.5)))
    return lambda: model.gradient(data.x, data.target, bptt=bptt)


def _optimizer() -> Adam:
    return Adam(1e-3, clip_norm=1.0)


def _training(case: Case, data: Data) -> Built:
    def beginning():
        model, rule = _model(case, data, loss=CrossEntropy()), _optimizer()
        state = rule.init(model.params)

        def step():
            nonlocal state
            found = model.gradient(data.x, data.target)
            state, _ = rule.update(model.params, found.grads, state)
            return found.loss

        return model, step

    def arrays():
        model, step = beginning()
        losses = [step() for _ in range(3)]
        return {"loss": np.array(losses), "params": np.concatenate([model.layers[0].params[name].ravel() for name in data.weights])}

    (_, step), model = beginning(), _model(case, data, loss=CrossEntropy())
    batches = [(data.x, data.target)] * FIT_STEPS
    passes = {"step": step, "fit": lambda: fit(model, batches, optimizer=_optimizer(), progress=False)}
    return Built(passes, arrays, {"fit": FIT_STEPS})


def _generation(case: Case, data: Data) -> Built:
    model = _model(case, data, loss=MeanSquaredError(), readout="every")
    prefix = np.zeros((1, case.B, case.D), case.dtype)

    def generate():
        return model.generate(prefix, case.T)

    return Built({"generate": generate}, lambda: {"outputs": generate().outputs})

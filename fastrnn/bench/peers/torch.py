"""PyTorch, eager, as its users write it: oneDNN is its affair."""

import numpy as np
import torch

from ..cases import OUTPUTS, Case, Data
from . import Built


def set_threads(n: int) -> None:
    torch.set_num_threads(n)
    torch.set_num_interop_threads(1)


def build(case: Case, data: Data) -> Built:
    if case.variant == "training":
        return _training(case, data)
    if case.variant == "generation":
        return _generation(case, data)
    network = _network(case, data)
    fixed, x, dy = torch.from_numpy(data.x), torch.from_numpy(data.x).requires_grad_(True), torch.from_numpy(data.dy)
    lengths = None if data.lengths is None else torch.from_numpy(data.lengths)

    def run(x):
        if lengths is None:
            return network(x)[0]
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return torch.nn.utils.rnn.pad_packed_sequence(network(packed)[0], total_length=case.T)[0]

    def forward():
        with torch.inference_mode():
            return run(fixed)

    def both():
        network.zero_grad(set_to_none=True)
        x.grad = None
        y = run(x)
        y.backward(dy)
        return y

    def arrays():
        y = both()
        return {"y": y.detach().numpy(), "dx": x.grad.numpy()} | {name: p.grad.numpy() for name, p in network.named_parameters()}

    return Built({"forward": forward, "both": both}, arrays)


def _network(case: Case, data: Data):
    kind = getattr(torch.nn, case.cell.upper())
    network = kind(case.D, case.H, case.layers, bidirectional=case.directions == 2, dtype=getattr(torch, case.dtype))
    network.load_state_dict(_tensors(data.weights))
    return network


def _tensors(arrays: dict) -> dict:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _training(case: Case, data: Data) -> Built:
    x, target = torch.from_numpy(data.x), torch.from_numpy(data.target)

    def beginning():
        network, readout = _trained(case, data)
        weights = [*network.parameters(), *readout.parameters()]
        rule, loss = torch.optim.Adam(weights, lr=1e-3, fused=True), torch.nn.CrossEntropyLoss()  # the fastest of its three forms here

        def step():
            rule.zero_grad(set_to_none=True)
            value = loss(readout(network(x)[0][-1]), target)
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            rule.step()
            return value.item()  # a training loop wants to know it

        return network, step

    def arrays():
        network, step = beginning()
        losses = [step() for _ in range(3)]
        return {"loss": np.array(losses), "params": np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])}

    return Built({"step": beginning()[1]}, arrays)


def gradient(case: Case, data: Data):
    """Loss and gradient of the trained network, to see what memory they take."""
    network, readout, x, target = *_trained(case, data), torch.from_numpy(data.x), torch.from_numpy(data.target)
    return lambda: torch.nn.functional.cross_entropy(readout(network(x)[0][-1]), target).backward()


def _trained(case: Case, data: Data):
    readout = torch.nn.Linear(case.H, OUTPUTS, dtype=getattr(torch, case.dtype))
    readout.load_state_dict(_tensors(data.readout))
    return _network(case, data), readout


def _generation(case: Case, data: Data) -> Built:
    """A loop over the cell, which is how PyTorch feeds outputs back."""
    dtype = getattr(torch, case.dtype)
    kind = {"rnn": "RNNCell", "gru": "GRUCell", "lstm": "LSTMCell"}[case.cell]
    cell, readout = getattr(torch.nn, kind)(case.D, case.H, dtype=dtype), torch.nn.Linear(case.H, case.D, dtype=dtype)
    cell.load_state_dict(_tensors({name.removesuffix("_l0"): array for name, array in data.weights.items()}))
    readout.load_state_dict(_tensors(data.readout))

    def generate():
        x, state, outputs = torch.zeros(case.B, case.D, dtype=dtype), None, []
        with torch.inference_mode():
            for _ in range(case.T):
                state = cell(x, state)
                x = readout(state[0] if case.cell == "lstm" else state)
                outputs.append(x)
            return torch.stack(outputs)

    return Built({"generate": generate}, lambda: {"outputs": generate().numpy()})

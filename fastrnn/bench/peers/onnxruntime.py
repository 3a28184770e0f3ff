"""ONNX Runtime: its recurrent operators, forward only."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from ..cases import GATES, Case, Data
from . import Built, Lacking

ORDER = {"rnn": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}  # where ONNX's gates (z r h; i o f c) are among PyTorch's
_threads = 1


def set_threads(n: int) -> None:
    global _threads
    _threads = n


def build(case: Case, data: Data) -> Built:
    if case.variant in ("training", "generation"):
        raise Lacking(f"no {case.variant}: operators run forward, over a given input")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = _threads, 1, 4
    given = {"x": data.x} | ({} if data.lengths is None else {"lengths": data.lengths.astype(np.int32)})

    def forward():
        return session.run(None, given)[0]

    try:  # some operators lack a dtype, and some of these say so only when they run
        session = onnxruntime.InferenceSession(_model(case, data).SerializeToString(), options, providers=["CPUExecutionProvider"])
        forward()
    except (errors.NotImplemented, errors.RuntimeException):
        raise Lacking(f"no {case.cell.upper()} in {case.dtype}") from None
    return Built({"forward": forward}, lambda: {"y": forward().transpose(0, 2, 1, 3).reshape(case.T, case.B, -1)})


def _model(case: Case, data: Data) -> onnx.ModelProto:
    """Layers of one operator each; between two the directions' axis (T, directions, B, H) goes."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    nodes, tensors, source = [], [], "x"
    for layer in range(case.layers):
        if layer:
            nodes.append(helper.make_node("Squeeze", [source, "axis"], [f"x{layer}"]))
            tensors.append(numpy_helper.from_array(np.array([1]), "axis"))
            source = f"x{layer}"
        names = [f"W{layer}", f"R{layer}", f"B{layer}"]
        tensors += [numpy_helper.from_array(array, name) for array, name in zip(_weights(case, data, layer), names)]
        options = {"hidden_size": case.H, "direction": "bidirectional" if case.directions == 2 else "forward"}
        options |= {"linear_before_reset": 1} if case.cell == "gru" else {}
        inputs = [source, *names] + ([] if data.lengths is None else ["lengths"])
        source = f"y{layer}"
        nodes.append(helper.make_node(case.cell.upper(), inputs, [source], **options))
    inputs = [helper.make_tensor_value_info("x", kind, [case.T, case.B, case.D])]
    if data.lengths is not None:
        inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [case.B]))
    outputs = [helper.make_tensor_value_info(source, kind, [case.T, case.directions, case.B, case.H])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def _weights(case: Case, data: Data, layer: int) -> list[np.ndarray]:
    """W (directions, G H, D), R (directions, G H, H) and B (directions, 2 G H) of one layer."""

    def ordered(array):
        blocks = array.reshape(GATES[case.cell], case.H, -1)[ORDER[case.cell]]
        return blocks.reshape(array.shape)

    ways = [f"_l{layer}{suffix}" for suffix in ("", "_reverse")[: case.directions]]
    W, R = (np.stack([ordered(data.weights[name + way]) for way in ways]) for name in ("weight_ih", "weight_hh"))
    both = [np.concatenate([ordered(data.weights[name + way]) for name in ("bias_ih", "bias_hh")]) for way in ways]
    return [W, R, np.stack(both)]

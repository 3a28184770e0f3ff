"""Layers without memory on the GPU: what `feedforward` computes on the CPU, for E models, with the same contract."""

from ..kernels.cuda import units
from ..kernels.cuda.product import Parts, add_columns, add_transposed, product


def linear(layer, params, x):
    """y (E, N, O) of x (E or 1, N, D)."""
    O, device = layer.output_size, layer.device
    weight, bias = _weight(layer, params), params.at("bias").part(slice(0, O))
    y = device.empty((len(weight), x.shape[1], O), layer.dtype)
    contiguous = device.xp.ascontiguousarray
    product(x, 0, contiguous(weight.swapaxes(1, 2)), contiguous(bias), y, 0, O, device.precision)
    if layer.activation != "identity":
        units.activate(layer.activation, y)
    return y


def linear_backward(layer, params, x, y, dy, grads):
    """dx (E, N, D) from dL/dy (E, N, O); adds to `grads`."""
    (E, N, O), D, device = y.shape, layer.input_size, layer.device
    if layer.activation != "identity":
        dy = dy.copy()
        units.activate_backward(layer.activation, y, dy)
    dx = device.empty((E, N, D), layer.dtype)
    product(dy, 0, device.xp.ascontiguousarray(_weight(layer, params)), device.zeros((E, D), layer.dtype), dx, 0, D, device.precision)
    dweight, dbias = device.zeros((E, D, O), layer.dtype), device.zeros((E, O), layer.dtype)
    add_transposed(x, dy, 0, dweight, device.empty, Parts(), device.precision)
    add_columns(dy, dbias, device.empty, Parts())
    _weight(layer, grads)[...] += dweight.swapaxes(1, 2)
    grads.at("bias").part(slice(0, O))[...] += dbias
    return dx


def _weight(layer, params):
    """The weight (E, O, D) of a `Linear`, where it lies."""
    O, D = layer.output_size, layer.input_size
    part = params.at("weight").part(slice(0, O * D))
    return part.reshape(-1, O, D)


def embed(layer, params, tokens):
    """y (E, N, dimension) of tokens (E or 1, N)."""
    table = params.at("weight").part(slice(0, layer.num_symbols * layer.dimension)).reshape(-1, layer.num_symbols, layer.dimension)
    members = layer.device.xp.arange(len(table))[:, None]
    return table[members, layer.device.put(tokens)]


def embed_backward(layer, tokens, dy, grads) -> None:
    """Add to `grads`, from dL/dy (E, N, dimension)."""
    part = grads.at("weight").part(slice(0, layer.num_symbols * layer.dimension))
    found = layer.device.zeros((len(part), layer.num_symbols, layer.dimension), dy.dtype)
    units.embed_backward(layer.device.put(tokens), dy, found)
    part[...] += found.reshape(part.shape)

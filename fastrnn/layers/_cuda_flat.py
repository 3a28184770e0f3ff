"""Layers without memory on the GPU: what `feedforward` computes on the CPU, for E models, with the same contract."""

from ..kernels.cuda import packing, units
from ..kernels.cuda.packing import ADD, Piece
from ..kernels.cuda.product import Parts, Term, add_terms, product


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
    (E, N, O), D, device, dtype = y.shape, layer.input_size, layer.device, layer.dtype
    if layer.activation != "identity":
        dy = dy.copy()
        units.activate_backward(layer.activation, y, dy)
    dx, total = device.empty((E, N, D), dtype), device.zeros((E, D * O + O), dtype)
    nothing = layer.made.once(("zeros", E), lambda: device.zeros((E, D), dtype))
    product(dy, 0, device.xp.ascontiguousarray(_weight(layer, params)), nothing, dx, 0, D, device.precision)
    add_terms([Term(x, dy, 0, 0, O, O), Term(None, dy, D * O)], total, device.empty, Parts(), device.precision)
    (flat, start), (_, bias) = grads.at("weight"), grads.at("bias")
    key = flat.shape[1], start, bias
    pieces = layer.made.once(("gradients", *key), lambda: packing.on_device(device, _pieces(D, O, *key)))
    packing.move(pieces, E, total, total, flat)
    return dx


def _pieces(D: int, O: int, n: int, weight: int, bias: int) -> list[Piece]:
    """What sums for a weight (D, O) and a bias (O,) add to gradients that begin there in rows of n numbers."""
    step = D * O + O
    return [Piece(ADD, O, D, weight, D, 1, n, 1, O, ((0, 0, step),)), Piece(ADD, 1, O, bias, 0, 1, n, 0, 1, ((0, D * O, step),))]


def _weight(layer, params):
    """The weight (E, O, D) of a `Linear`, where it lies."""
    O, D = layer.output_size, layer.input_size
    part = params.at("weight").part(slice(0, O * D))
    return part.reshape(-1, O, D)


def embed(layer, params, tokens):
    """y (E, N, dimension) of tokens (E or 1, N)."""
    flat, start = params.at("weight")
    y = layer.device.empty((len(flat), tokens.shape[1], layer.dimension), layer.dtype)
    units.embed(layer.device.put(tokens), flat, start, y)
    return y


def embed_backward(layer, tokens, dy, grads) -> None:
    """Add to `grads`, from dL/dy (E, N, dimension)."""
    units.embed_backward(layer.device.put(tokens), dy, *grads.at("weight"), layer.num_symbols)

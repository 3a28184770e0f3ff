"""Layers without memory on the GPU: what `feedforward` computes on the CPU, for E models, with the same contract."""

from ..kernels.cuda import packing, units
from ..kernels.cuda.packing import ADD, COPY, Piece
from ..kernels.cuda.product import Parts, Term, add_terms, product
from ..kernels.cuda.program import again


def linear(layer, params, x):
    """y (E, N, O) of x (E or 1, N, D)."""
    (flat, start), bias, device = params.at("weight"), params.at("bias").start, layer.device
    y = device.empty((len(flat), x.shape[1], layer.output_size), layer.dtype)

    def forward(x, flat, y):
        weight, added = _operands(layer, flat, start, bias, k_first=True)
        product(x, 0, weight, added, y, 0, layer.output_size, device.precision)
        if layer.activation != "identity":
            units.activate(layer.activation, y)

    again(layer.made, ("linear", layer.activation, start, bias), forward, (x, flat, y))
    return y


def linear_backward(layer, params, x, y, dy, grads):
    """dx (E, N, D) from dL/dy (E, N, O); adds to `grads`."""
    (E, N, O), D, device, dtype = y.shape, layer.input_size, layer.device, layer.dtype
    places = params.at("weight").start, params.at("bias").start, grads.at("weight").start, grads.at("bias").start
    if layer.activation != "identity":
        dy = dy.copy()
        units.activate_backward(layer.activation, y, dy)
    dx = device.empty((E, N, D), dtype)

    def backward(x, dy, flat, dx, found):
        weight, _ = _operands(layer, flat, *places[:2], k_first=False)
        product(dy, 0, weight, layer.made.once(("zeros", E), lambda: device.zeros((E, D), dtype)), dx, 0, D, device.precision)
        total = device.zeros((E, D * O + O), dtype)
        add_terms([Term(x, dy, 0, 0, O, O), Term(None, dy, D * O)], total, device.empty, Parts(), device.precision)
        key = found.shape[1], *places[2:]
        pieces = layer.made.once(("gradients", *key), lambda: packing.on_device(device, _pieces(D, O, *key)))
        packing.move(pieces, E, total, total, found)

    again(layer.made, ("linear back", *places), backward, (x, dy, params.at("weight").flat, dx, grads.at("weight").flat))
    return dx


def _operands(layer, flat, weight: int, bias: int, *, k_first: bool):
    """The weight (E, D, O), or (E, O, D), and the bias (E, O) of a `Linear`, which begin there in each row of `flat`."""
    (E, n), D, O, device = flat.shape, layer.input_size, layer.output_size, layer.device
    whole, size = device.empty((E * (D + 1) * O,), layer.dtype), E * D * O
    row, column = (1, O) if k_first else (D, 1)

    def pieces():
        own = Piece(COPY, O, D, 0, row, column, D * O, D, 1, ((0, weight, n),))
        return packing.on_device(device, [own, Piece(COPY, 1, O, size, 0, 1, O, 0, 1, ((0, bias, n),))])

    packing.move(layer.made.once(("operands", E, n, weight, bias, k_first), pieces), E, flat, flat, whole)
    return whole[:size].reshape((E, D, O) if k_first else (E, O, D)), whole[size:].reshape(E, O)


def _pieces(D: int, O: int, n: int, weight: int, bias: int) -> list[Piece]:
    """What sums for a weight (D, O) and a bias (O,) add to gradients that begin there in rows of n numbers."""
    step = D * O + O
    return [Piece(ADD, O, D, weight, D, 1, n, 1, O, ((0, 0, step),)), Piece(ADD, 1, O, bias, 0, 1, n, 0, 1, ((0, D * O, step),))]


def embed(layer, params, tokens):
    """y (E, N, dimension) of tokens (E or 1, N)."""
    flat, start = params.at("weight")
    y = layer.device.empty((len(flat), tokens.shape[1], layer.dimension), layer.dtype)
    units.embed(layer.device.put(tokens), flat, start, y)
    return y


def embed_backward(layer, tokens, dy, grads) -> None:
    """Add to `grads`, from dL/dy (E, N, dimension)."""
    units.embed_backward(layer.device.put(tokens), dy, *grads.at("weight"), layer.num_symbols)

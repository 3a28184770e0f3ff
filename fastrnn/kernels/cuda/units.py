"""What layers without memory need beside products on the GPU: activations, in place, and the gradient of an embedding."""

from functools import cache

from numba import cuda

from ..._math import ACTIVATIONS
from . import target
from .target import kernel

THREADS = 256


@cache
def make_activations(name: str):
    """Kernels y[:] = f(y), and dy[:] *= f'(.) with f' a function of the output y."""
    f, df = ACTIVATIONS[name]

    @kernel
    def apply(y):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < y.shape[0]:
            y[i] = f(y[i])

    @kernel
    def apply_backward(y, dy):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if i < y.shape[0]:
            dy[i] *= df(y[i])

    return apply, apply_backward


@cache
def make_embed_backward():
    @kernel
    def embed_backward(tokens, dy, dweight):
        """dweight[e, s, j] += sum over n, ascending, of dy[e, n, j] where tokens[e, n] is s. tokens (E or 1, N), dy (E, N, D)."""
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        e, D = cuda.blockIdx.y, dy.shape[2]
        symbol, j, member = i // D, i % D, e if tokens.shape[0] > 1 else 0
        if symbol < dweight.shape[1]:
            total = dweight[e, symbol, j]
            for n in range(tokens.shape[1]):
                if tokens[member, n] == symbol:
                    total += dy[e, n, j]
            dweight[e, symbol, j] = total

    return embed_backward


def activate(name: str, y) -> None:
    y = y.reshape(-1)
    if y.size:
        target.launch(make_activations(name)[0], -(-y.size // THREADS), THREADS, 0, y)


def activate_backward(name: str, y, dy) -> None:
    y, dy = y.reshape(-1), dy.reshape(-1)
    if y.size:
        target.launch(make_activations(name)[1], -(-y.size // THREADS), THREADS, 0, y, dy)


def embed_backward(tokens, dy, dweight) -> None:
    """Add to dweight (E, symbols, D)."""
    E, symbols, D = dweight.shape
    if dweight.size:
        target.launch(make_embed_backward(), (-(-symbols * D // THREADS), E), THREADS, 0, tokens, dy, dweight)

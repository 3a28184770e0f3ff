"""What layers without memory need beside products on the GPU: activations, in place, and the gradient of an embedding."""

from functools import cache

from numba import cuda

from ..._math import ACTIVATIONS
from . import target
from .target import kernel, number

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
def make_embed(dtype):
    """Kernels of tokens (E or 1, N), y (E, N, D), and a table (symbols, D) that begins at `start` in each row of `flat` (E, n)."""

    real = number(dtype)

    @kernel
    def embed(tokens, flat, start, y):
        i, e = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, cuda.blockIdx.y
        D = y.shape[2]
        if i < y.shape[1] * D:
            n, j = i // D, i % D
            y[e, n, j] = flat[e, start + tokens[e if tokens.shape[0] > 1 else 0, n] * D + j]

    @kernel
    def embed_backward(tokens, dy, flat, start, symbols):
        """Add to the table's row s the sum over n, ascending, of dy[e, n] where tokens[e, n] is s."""
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        e, D = cuda.blockIdx.y, dy.shape[2]
        symbol, j, member = i // D, i % D, e if tokens.shape[0] > 1 else 0
        if symbol < symbols:
            total = real(0.0)
            for n in range(tokens.shape[1]):
                if tokens[member, n] == symbol:
                    total += dy[e, n, j]
            flat[e, start + i] += total

    return embed, embed_backward


def activate(name: str, y) -> None:
    y = y.reshape(-1)
    if y.size:
        target.launch(make_activations(name)[0], -(-y.size // THREADS), THREADS, 0, y)


def activate_backward(name: str, y, dy) -> None:
    y, dy = y.reshape(-1), dy.reshape(-1)
    if y.size:
        target.launch(make_activations(name)[1], -(-y.size // THREADS), THREADS, 0, y, dy)


def embed(tokens, flat, start: int, y) -> None:
    """Fill y (E, N, D), see the kernels."""
    if y.size:
        blocks = -(-y.shape[1] * y.shape[2] // THREADS), len(y)
        target.launch(make_embed(y.dtype)[0], blocks, THREADS, 0, tokens, flat, start, y)


def embed_backward(tokens, dy, flat, start: int, symbols: int) -> None:
    """Add to the tables' gradients, see the kernels."""
    if len(dy):
        blocks = -(-symbols * dy.shape[2] // THREADS), len(dy)
        target.launch(make_embed(dy.dtype)[1], blocks, THREADS, 0, tokens, dy, flat, start, symbols)

"""Between two steps of a closed loop on the GPU: a thread a sequence. The rules are `_feedback`'s, the steps are `loop`'s."""

from functools import cache
from typing import NamedTuple

from numba import cuda

from .. import _feedback
from . import target
from .target import kernel

THREADS = 64  # arithmetic is serial within a sequence: blocks are small so that there are many


class Closed(NamedTuple):
    """The kernels."""

    enter: object
    leave: object
    emit: object
    extend: object


@cache
def make_closed() -> Closed:
    @kernel
    def enter(feedback, lengths, t):
        """The output of step t - 1 into the input of step t, where `feedback.own` says so."""
        b = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if b < lengths.shape[0] and t < lengths[b] and feedback.own[t, b]:
            _feedback.put_output(feedback, t - 1, t, b)

    @kernel
    def leave(feedback, lengths, dx, doutput, shares, t):
        """The way back of `enter`: dx, doutput (T, B, .); shares (T, B, O), or (0, B, O), of the table's rows in what went in."""
        b = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if b < lengths.shape[0] and t < lengths[b] and feedback.own[t, b]:
            _feedback.pass_back(feedback, dx[t, b], doutput[t - 1, b], t, b)
            if shares.shape[0] > 0:
                for k in range(shares.shape[2]):
                    shares[t, b, k] = feedback.weight[b, 0, k]

    @kernel
    def emit(feedback, outputs, inputs, stop, ends, s):
        b = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        if b < ends.shape[0]:
            _feedback.emit(feedback, outputs, inputs, stop, ends, s, b)

    @kernel
    def extend(feedback, stop, scores, best, parents, symbols, whence, s):
        """Step s of every beam search: scores, best (B, W), parents, symbols (steps, B, W); whence (B W,), whose state each beam takes."""
        item, width = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, scores.shape[1]
        if item < scores.shape[0]:
            first = item * width
            for w in range(width):
                whence[first + w] = first + w
            if _feedback.running(feedback, first, width, scores[item]):
                found = _feedback.extend(feedback, first, width, scores[item], best[item], parents[s, item], symbols[s, item])
                for w in range(found):
                    whence[first + w] = first + parents[s, item, w]
                _feedback.settle(feedback, first, width, found, stop, scores[item], best[item], symbols[s, item])

    return Closed(enter, leave, emit, extend)


def run(name: str, count: int, *arguments) -> None:
    """One of the kernels, over `count` sequences."""
    if count:
        target.launch(getattr(make_closed(), name), -(-count // THREADS), THREADS, 0, *arguments)

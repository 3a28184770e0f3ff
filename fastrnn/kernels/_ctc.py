"""What CTC is computed from, on every device; see `cpu.ctc` for the formulas."""

from typing import NamedTuple

import numpy as np

NORMALIZE = 16  # steps until mantissas are brought back to [1, 2); a step takes them by at most a factor of 5 from there


class Labellings(NamedTuple):
    """What is to be found in what: labels (B, S), counts (B,) of them valid, in steps (B,) of the logits; int64."""

    labels: np.ndarray
    counts: np.ndarray
    steps: np.ndarray

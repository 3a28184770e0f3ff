"""How the outputs of two directions become one."""

import numpy as np

MERGES = ("concat", "sum", "mean", "product")


def merged(merge: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One output from a (..., H) and b (..., H'), which only "concat" allows to differ in size."""
    if merge == "concat":
        return np.concatenate([a, b], axis=-1)
    if merge == "product":
        return a * b
    return a + b if merge == "sum" else (a + b) * a.dtype.type(0.5)


def merged_backward(merge: str, a: np.ndarray, b: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(da, db) from the gradient of the merged output."""
    if merge == "concat":
        return dy[..., : a.shape[-1]], dy[..., a.shape[-1] :]
    if merge == "product":
        return dy * b, dy * a
    share = dy if merge == "sum" else dy * dy.dtype.type(0.5)
    return share, share

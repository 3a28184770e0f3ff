"""The kernels on the GPU. Only `target` knows who compiles and launches them."""

import numpy as np

if not hasattr(np, "row_stack"):  # NumPy 2.5 has dropped it; numba-cuda asks for it when it is imported
    np.row_stack = np.vstack

"""The one table of tolerances: name, number, and what was observed (a tolerance is at most 100 times that)."""

TOLERANCES = {
    "gradient_normwise": 1e-12,
    "gradient_elementwise": 1e-9,
    "torch": 1e-12,
    "float32_gradient": 5e-6,
    "float32_gradient_long": 5e-5,
    "tanh_ulp_float32": 2.5,
    "tanh_ulp_float64": 4.0,
    "sigmoid_ulp_float32": 2.5,
    "sigmoid_ulp_float64": 4.0,
    "exp_ulp": 1.5,
    "expm1_ulp": 2.5,
    "plain_twin_eps": 4.0,
    "interpreter": 1e-13,
    "reference_identity": 1e-13,
    "finite_differences": 1e-6,
}

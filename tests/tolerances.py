"""The one table of tolerances: name, number, and what was observed (a tolerance is at most 100 times that)."""

TOLERANCES = {
    "gradient_normwise": 1e-12,  # 2.6e-15; the bound is the project's promise, wider than 100 times
    "gradient_elementwise": 1e-9,  # 8e-12, elements below a millionth of the largest held to that; the project's promise
    "torch": 1e-12,  # 2.4e-15, three layers both ways; the project's promise
    "float32_gradient": 5e-6,  # 3.7e-7, three layers both ways
    "float32_gradient_long": 5e-5,
    "devices": 1e-13,  # 2.1e-15 of the largest
    "devices_float32": 1e-5,  # 4.1e-7
    "tf32": 5e-3,  # 7e-4 of the largest
    "bf16": 5e-2,  # 9e-3
    "forcing_gradient": 1e-9,  # 1e-10 against fourth-order differences; the project's promise
    "tanh_ulp_float32": 2.5,
    "tanh_ulp_float64": 4.0,
    "sigmoid_ulp_float32": 2.5,
    "sigmoid_ulp_float64": 4.0,
    "exp_ulp": 1.5,
    "expm1_ulp": 2.5,
    "plain_twin_eps": 4.0,
    "interpreter": 1e-13,
    "reference_identity": 1e-13,  # 3.3e-15, error / (1 + |value|)
    "finite_differences": 5e-7,  # 5.9e-9, relative, step 1e-6
    "ctc_gradient": 1e-14,  # 3.3e-16, elementwise, against complex step through every alignment
    "ctc_logs": 1e-13,  # 2.4e-14 at logits of size 1, by their size: the rounding of the twin's logarithms
    "ctc_reversal": 1e-13,  # 4.7e-15, T = 3000
    "ctc_differences": 1e-9,  # 3.4e-11, relative, along one direction, step 1e-3
    "ctc_scores": 1e-13,  # 1.5e-14, relative
    "runge_kutta": 1e-5,  # 8.4e-7, a hundred samples of Lorenz 1996 against DOP853
    "measures": 1e-12,  # 4.5e-13, which the oracle of D_H loses in 1 - 1
}

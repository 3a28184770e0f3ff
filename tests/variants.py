"""The cells that the tests go through: every file of fastrnn/cells with its defaults, and the options worth a case of their own."""

from fastrnn.cells import CELLS

OPTIONS = {
    "rnn": [{"activation": name} for name in ("relu", "sigmoid", "hard_sigmoid", "elu", "selu", "identity")],
    "lstm": [
        {"peepholes": True},
        {"coupled": True},
        {"peepholes": True, "coupled": True, "clip": 0.4},
        {"clip": 0.5, "gate_activation": "hard_sigmoid", "activation": "elu", "output_activation": "identity"},
        {"gate_activation": "hard_sigmoid", "activation": "relu", "output_activation": "selu"},
    ],
    "gru": [{"reset_after": False}, {"gate_activation": "hard_sigmoid", "activation": "identity"}],
    "indrnn": [{"activation": "tanh"}],
    "leaky": [{"learn_tau": True}],
}
VARIANTS = [(name, {}) for name in CELLS] + [(name, options) for name, several in OPTIONS.items() for options in several]
# compiled end to end: what differs in its kernels, not only in an activation
COMPILED = [(name, {}) for name in CELLS] + [
    ("rnn", {"activation": "identity"}),
    ("lstm", {"peepholes": True, "coupled": True}),
    ("lstm", {"clip": 0.5, "gate_activation": "hard_sigmoid", "activation": "elu", "output_activation": "identity"}),
    ("gru", {"reset_after": False}),
    ("leaky", {"learn_tau": True}),
]


def label(variant) -> str:
    """A test's name for a variant."""
    name, options = variant
    return "-".join([name] + [f"{key}={value}" for key, value in options.items()])

"""The recurrent networks by name: `Recurrent` with a built-in cell and its options spelt out."""

from .. import _check
from .recurrent import Recurrent


class RNN(Recurrent):
    """Elman network: h_t = f(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh) [Goodfellow et al. 2016, eq. 10.8-10.9].

    Parameters
    ----------
    input_size, hidden_size : int
    activation : {"tanh", "relu", "sigmoid", "hard_sigmoid", "elu", "selu", "identity"}
    **options
        See `Recurrent`.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, h = fr.RNN(3, 4, activation="relu")(np.ones((5, 2, 3)))
    >>> y.shape
    (5, 2, 4)
    """

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "tanh", **options):
        super().__init__("rnn", input_size, hidden_size, cell_options={"activation": activation}, **options)


class LSTM(Recurrent):
    """Long short-term memory [Hochreiter & Schmidhuber 1997], gate order i, f, g, o [Goodfellow et al. 2016, eq. 10.40-10.44].

    i, f, o = σ(W x + U h + b), g = tanh(W x + U h + b), c' = f c + i g, h' = o tanh(c').

    Parameters
    ----------
    input_size, hidden_size : int
    peepholes : bool
        i and f also see c, and o sees c' [Gers & Schmidhuber 2000]; parameters ``peephole_i_l0``, ...
    coupled : bool
        f = 1 - i, and no block f in the weights [Greff et al. 2017].
    clip : float, optional
        Every pre-activation is bounded to [-clip, clip], as in ONNX.
    gate_activation, activation, output_activation : str
        Of i, f, o; of g; of c'.
    forget_bias : float, optional
        Initial bias of f, all of it in ``bias_ih``; as drawn where not given.
    **options
        See `Recurrent`. The state is the tuple (h, c).

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> lstm = fr.LSTM(3, 4, num_layers=2, bidirectional=True, dtype="float64", seed=1)
    >>> y, (h, c), tape = lstm.forward(np.ones((5, 2, 3)), lengths=[5, 3])
    >>> tape.gate("f").shape  # (layer, direction), time, batch, unit
    (4, 5, 2, 4)
    >>> grads = lstm.backward(tape, np.ones_like(y))
    >>> grads.x.shape, grads.params["weight_hh_l1_reverse"].shape
    ((5, 2, 3), (16, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        peepholes: bool = False,
        coupled: bool = False,
        clip: float | None = None,
        gate_activation: str = "sigmoid",
        activation: str = "tanh",
        output_activation: str = "tanh",
        forget_bias: float | None = None,
        **options,
    ):
        cell_options = {
            "peepholes": peepholes, "coupled": coupled, "clip": clip,
            "gate_activation": gate_activation, "activation": activation, "output_activation": output_activation,
        }  # fmt: skip
        super().__init__("lstm", input_size, hidden_size, cell_options=cell_options, **options)
        if forget_bias is not None:
            if coupled:
                raise ValueError("forget_bias: None is required with coupled=True, which has no forget gate of its own")
            forget, block = _check.real("forget_bias", forget_bias), slice(hidden_size, 2 * hidden_size)
            for suffix in self._suffixes:
                self.params["bias_ih" + suffix][block], self.params["bias_hh" + suffix][block] = forget, 0.0


class GRU(Recurrent):
    """Gated recurrent unit [Cho et al. 2014], gate order r, z, n: h' = (1 - z) n + z h.

    Parameters
    ----------
    input_size, hidden_size : int
    reset_after : bool
        True: n = tanh(W x + b + r (U h + b')), as PyTorch and cuDNN. False: n = tanh(W x + b + U (r h) + b'), as the paper.
    gate_activation, activation : str
        Of r, z; of n.
    **options
        See `Recurrent`.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, h = fr.GRU(3, 4)(np.ones((5, 2, 3)))
    >>> bool((y[-1] == h[0]).all())
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        reset_after: bool = True,
        gate_activation: str = "sigmoid",
        activation: str = "tanh",
        **options,
    ):
        cell_options = {"reset_after": reset_after, "gate_activation": gate_activation, "activation": activation}
        super().__init__("gru", input_size, hidden_size, cell_options=cell_options, **options)


class IndRNN(Recurrent):
    """Independently recurrent network [Li et al. 2018, eq. 2]: h_t = f(W_ih x_t + b_ih + w_hh * h_{t-1}), w_hh one weight a unit.

    Parameters
    ----------
    input_size, hidden_size : int
    activation : str
    **options
        See `Recurrent`.

    Examples
    --------
    >>> import fastrnn as fr
    >>> fr.IndRNN(3, 4).params["weight_hh_l0"].shape
    (4,)
    """

    def __init__(self, input_size: int, hidden_size: int, *, activation: str = "relu", **options):
        super().__init__("indrnn", input_size, hidden_size, cell_options={"activation": activation}, **options)


class Leaky(Recurrent):
    """Leaky units in continuous time: τ dh/dt = -h + f(W_ih x + b_ih + W_hh h + b_hh), solved exactly over steps of length dt.

    h_t = (1 - k) h_{t-1} + k f(...), k = 1 - exp(-dt / τ).

    Parameters
    ----------
    input_size, hidden_size : int
    tau : float
        Time constant of every unit, in seconds; its initial value where it is learned.
    dt : float
        Length of a step, in seconds.
    learn_tau : bool
        Adds parameters ``log_tau_l0``, ...: the natural logarithm of τ in seconds, one a unit.
    activation : str
    **options
        See `Recurrent`.

    Examples
    --------
    >>> import numpy as np, fastrnn as fr
    >>> y, h = fr.Leaky(1, 2, tau=0.05, dt=0.01)(np.zeros((3, 1, 1)), state=np.ones((1, 1, 2)))
    >>> y.shape
    (3, 1, 2)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        tau: float = 0.1,
        dt: float = 0.01,
        learn_tau: bool = False,
        activation: str = "tanh",
        **options,
    ):
        cell_options = {"tau": tau, "dt": dt, "learn_tau": learn_tau, "activation": activation}
        super().__init__("leaky", input_size, hidden_size, cell_options=cell_options, **options)

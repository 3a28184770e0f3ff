"""What a `Model` and its users may ask of every recurrent network, whatever it is made of."""

import numpy as np

from .. import _check
from .._device import CPU, Device
from .._params import Params


class Network:
    """A recurrent network: ``net(x, state, lengths=)``, `forward`, `backward`, and the readout of its final state.

    Attributes
    ----------
    input_size, output_size : int
    params : Params
        A `Model` puts views of its own buffer in its place.
    device : Device
        Where it runs, and its parameters are.
    causal : bool
        Whether y at step t depends on x up to step t alone, so that a sequence may be cut in time.
    """

    params: Params
    device: Device = CPU
    dtype: np.dtype
    causal: bool

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all parameters by PyTorch's names."""
        return {name: self.device.get(array).copy() for name, array in self.params.items()}

    def load_state_dict(self, arrays) -> None:
        """Take all parameters from a mapping of the same names (arrays, or CPU tensors of PyTorch)."""
        missing, unknown = self.params.keys() - arrays.keys(), arrays.keys() - self.params.keys()
        if missing or unknown:
            got = f"missing {sorted(missing)}, unknown {sorted(unknown)}"
            raise ValueError(f"arrays: exactly the names {list(self.params)} are required; {got}")
        checked = {name: _check.array(name, arrays[name], self.params.shapes[name], self.dtype) for name in self.params}
        for name, value in checked.items():
            self.params[name] = self.device.put(value)


class Combined(Network):
    """A network made of others, `networks`, which are alike in dtype, device and input size."""

    networks: tuple
    causal = False
    batch_first = False

    @property
    def dtype(self) -> np.dtype:
        return self.networks[0].dtype

    @property
    def device(self) -> Device:
        return self.networks[0].device

    @property
    def input_size(self) -> int:
        return self.networks[0].input_size

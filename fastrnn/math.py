"""Scalar functions to write cells with: in the precision of their argument, vectorizable, and plain Python where not compiled.

Every activation f has a derivative `f_backward(y)`, written as a function of the output y = f(a).
"""

from ._math import ACTIVATIONS as ACTIVATIONS
from ._math import activations as activations
from ._math import elu as elu
from ._math import elu_backward as elu_backward
from ._math import exp as exp
from ._math import expm1 as expm1
from ._math import hard_sigmoid as hard_sigmoid
from ._math import hard_sigmoid_backward as hard_sigmoid_backward
from ._math import identity as identity
from ._math import identity_backward as identity_backward
from ._math import relu as relu
from ._math import relu_backward as relu_backward
from ._math import selu as selu
from ._math import selu_backward as selu_backward
from ._math import sigmoid as sigmoid
from ._math import sigmoid_backward as sigmoid_backward
from ._math import tanh as tanh
from ._math import tanh_backward as tanh_backward

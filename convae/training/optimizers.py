"""Optimizers over one flat vector of parameters. Learning rates are per step.

An optimizer belongs to one model: its state has the shape of the first vector that it updates.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from convae.engine import Array, Backend, array_module, backend_for
from convae.errors import UserError, UserTypeError, check_range


@dataclass
class Optimizer:
    """What all optimizers share.

    Parameters
    ----------
    learning_rate : float
        Size of a step; may be changed between steps.
    weight_decay : float
        Strength of the decay of the parameters.

    Attributes
    ----------
    steps : int
        Updates done so far.
    state : dict
        The method's vectors, such as moments, by name.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    steps: int = field(default=0, init=False)
    state: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    _owner: weakref.ref[object] | None = field(default=None, init=False, repr=False, compare=False)

    vectors: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("learning_rate", self.learning_rate, over=0)
        check_range("weight_decay", self.weight_decay, at_least=0)

    def claim(self, model: object) -> None:
        """Reserve the optimizer for a model, whose moments it keeps.

        Parameters
        ----------
        model : object
            The model.

        Raises
        ------
        UserError
            If it already serves another model.
        """
        if self._owner is not None and self._owner() is not model:
            raise UserError("optimizer: it already serves another model; make one for each model")
        self._owner = weakref.ref(model)

    def __getstate__(self) -> dict[str, object]:
        """Leave the model out of a copy, which may serve another one."""
        return {**self.__dict__, "_owner": None}

    def update(self, parameters: Array, gradient: Array, backend: Backend | None = None) -> None:
        """Do one step.

        Parameters
        ----------
        parameters : (M,) ndarray
            Overwritten with the new values.
        gradient : (M,) ndarray
            The loss's gradient; overwritten with scratch.
        backend : Backend, optional
            What computes; by default that of the arrays.

        Raises
        ------
        UserError
            If the optimizer has already served parameters of another length.
        """
        xp = array_module(parameters, gradient, names="parameters and gradient")
        for name in self.vectors:
            if name not in self.state:
                self.state[name] = xp.zeros_like(parameters)
            kept = self.state[name]
            if kept.shape != parameters.shape or kept.dtype != parameters.dtype:
                raise UserError(
                    f"optimizer: it has served {kept.size} parameters of {kept.dtype} and cannot "
                    f"serve {parameters.size} of {parameters.dtype}; make one for each model"
                )
        self.steps += 1
        self._update(backend or backend_for(parameters), parameters, gradient)

    def _update(self, backend: Backend, parameters: Array, gradient: Array) -> None:
        raise UserTypeError("optimizer: Optimizer itself has no method; use SGD, Adam or AdamW")


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent, plain or with (Nesterov) momentum.

    ``v = momentum * v + g``, ``w -= learning_rate * v``; Nesterov's variant steps along
    ``g + momentum * v`` (Sutskever et al. 2013, in PyTorch's form).

    Parameters
    ----------
    learning_rate : float
        Size of a step.
    weight_decay : float
        Added to the gradient as ``weight_decay * w``.
    momentum : float
        Fraction of the velocity kept, in [0, 1).
    nesterov : bool
        Whether to use Nesterov's variant; needs momentum.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.0
    nesterov: bool = False

    vectors: ClassVar[tuple[str, ...]] = ("velocity",)

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_range("momentum", self.momentum, at_least=0, below=1)
        if not isinstance(self.nesterov, bool):
            raise UserTypeError(f"nesterov: {self.nesterov!r} is neither True nor False")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov: it needs a momentum over 0")

    def _update(self, backend: Backend, parameters: Array, gradient: Array) -> None:
        if self.weight_decay:
            backend.axpy(self.weight_decay, parameters, gradient)
        velocity = self.state["velocity"]
        velocity *= self.momentum
        backend.axpy(1, gradient, velocity)
        if self.nesterov:
            backend.axpy(self.momentum, velocity, gradient)
        step = gradient if self.nesterov else velocity
        backend.axpy(-self.learning_rate, step, parameters)


@dataclass
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015, algorithm 1), with weight decay as an L2 penalty.

    Parameters
    ----------
    learning_rate : float
        Size of a step.
    weight_decay : float
        Added to the gradient as ``weight_decay * w``.
    beta1, beta2 : float
        Fractions of the first and second moment kept from step to step, in [0, 1).
    epsilon : float
        Added to the root of the second moment.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    vectors: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_range("beta1", self.beta1, at_least=0, below=1)
        check_range("beta2", self.beta2, at_least=0, below=1)
        check_range("epsilon", self.epsilon, over=0)

    def _decay(self, backend: Backend, parameters: Array, gradient: Array) -> None:
        if self.weight_decay:
            backend.axpy(self.weight_decay, parameters, gradient)

    def _update(self, backend: Backend, parameters: Array, gradient: Array) -> None:
        self._decay(backend, parameters, gradient)
        xp, t = backend.xp, self.steps
        first, second = self.state["first_moment"], self.state["second_moment"]
        first *= self.beta1
        backend.axpy(1 - self.beta1, gradient, first)
        xp.square(gradient, out=gradient)
        second *= self.beta2
        backend.axpy(1 - self.beta2, gradient, second)
        # gradient now serves as scratch: step = first / (sqrt(second) / correction + epsilon)
        step = gradient
        xp.sqrt(second, out=step)
        step *= (1 - self.beta2**t) ** -0.5
        step += self.epsilon
        xp.divide(first, step, out=step)
        backend.axpy(-self.learning_rate / (1 - self.beta1**t), step, parameters)


@dataclass
class AdamW(Adam):
    """Adam with weight decay decoupled from the gradient (Loshchilov and Hutter 2019).

    Parameters
    ----------
    learning_rate : float
        Size of a step.
    weight_decay : float
        Each step first subtracts ``learning_rate * weight_decay * w`` from the parameters.
    beta1, beta2, epsilon : float
        As in `Adam`.
    """

    weight_decay: float = 1e-2

    def _decay(self, backend: Backend, parameters: Array, gradient: Array) -> None:
        parameters *= 1 - self.learning_rate * self.weight_decay


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""All optimizers by name."""

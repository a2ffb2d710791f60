"""Optimizers over one flat vector of parameters. Learning rates are per step.

An optimizer belongs to one model: its state takes the shape of the first vector that it updates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from numbers import Real
from typing import Any, ClassVar

from convae.engine import Array, array_module


def _check(name: str, value: float, good: Callable[[float], bool], wanted: str) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name}: {value!r} is no number; use {wanted}")
    if not good(value):
        raise ValueError(f"{name}: {value!r} will not do; use {wanted}")


@dataclass
class Optimizer:
    """What all optimizers share.

    Parameters
    ----------
    learning_rate : float
        Size of a step; may be changed between steps.
    weight_decay : float
        Strength of the pull towards zero.

    Attributes
    ----------
    steps : int
        Updates done so far.
    state : dict
        Vectors that the method carries from step to step, by name.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    steps: int = field(default=0, init=False)
    state: dict[str, Array] = field(default_factory=dict, init=False, repr=False)

    vectors: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Check the values."""
        _check("learning_rate", self.learning_rate, lambda x: 0 < x < inf, "a positive number")
        _check("weight_decay", self.weight_decay, lambda x: 0 <= x < inf, "0 or more")

    def update(self, parameters: Array, gradient: Array) -> None:
        """Do one step.

        Parameters
        ----------
        parameters : (M,) ndarray
            Overwritten with the new values.
        gradient : (M,) ndarray
            The loss's gradient; overwritten with scratch.

        Raises
        ------
        ValueError
            If the optimizer has already served parameters of another length.
        """
        xp = array_module(parameters, gradient, names="parameters and gradient")
        for name in self.vectors:
            if name not in self.state:
                self.state[name] = xp.zeros_like(parameters)
            if self.state[name].shape != parameters.shape:
                raise ValueError(
                    f"optimizer: it has served {self.state[name].size} parameters and cannot "
                    f"serve {parameters.size}; make one optimizer for each model"
                )
        self.steps += 1
        self._update(xp, parameters, gradient)

    def _update(self, xp: Any, parameters: Array, gradient: Array) -> None:
        raise TypeError("optimizer: Optimizer itself has no method; use SGD, Adam or AdamW")


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
        Whether to look ahead; needs momentum.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.0
    nesterov: bool = False

    vectors: ClassVar[tuple[str, ...]] = ("velocity",)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        _check("momentum", self.momentum, lambda x: 0 <= x < 1, "a number in [0, 1)")
        _check("nesterov", self.nesterov, lambda on: self.momentum > 0 or not on, "momentum > 0")

    def _update(self, xp: Any, parameters: Array, gradient: Array) -> None:
        if self.weight_decay:
            gradient += self.weight_decay * parameters
        velocity = self.state["velocity"]
        velocity *= self.momentum
        velocity += gradient
        if self.nesterov:
            gradient += self.momentum * velocity
            parameters -= self.learning_rate * gradient
        else:
            parameters -= self.learning_rate * velocity


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
        """Check the values."""
        super().__post_init__()
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            _check(name, beta, lambda x: 0 <= x < 1, "a number in [0, 1)")
        _check("epsilon", self.epsilon, lambda x: 0 < x < inf, "a positive number")

    def _decay(self, parameters: Array, gradient: Array) -> None:
        if self.weight_decay:
            gradient += self.weight_decay * parameters

    def _update(self, xp: Any, parameters: Array, gradient: Array) -> None:
        self._decay(parameters, gradient)
        first, second = self.state["first_moment"], self.state["second_moment"]
        first *= self.beta1
        first += (1 - self.beta1) * gradient
        xp.square(gradient, out=gradient)
        gradient *= 1 - self.beta2
        second *= self.beta2
        second += gradient
        # gradient now serves as scratch for the denominator
        xp.sqrt(second, out=gradient)
        gradient *= (1 - self.beta2**self.steps) ** -0.5
        gradient += self.epsilon
        xp.divide(first, gradient, out=gradient)
        gradient *= self.learning_rate / (1 - self.beta1**self.steps)
        parameters -= gradient


@dataclass
class AdamW(Adam):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter 2019).

    Parameters
    ----------
    learning_rate : float
        Size of a step.
    weight_decay : float
        Each step first takes ``learning_rate * weight_decay * w`` off the parameters.
    beta1, beta2, epsilon : float
        As in `Adam`.
    """

    weight_decay: float = 1e-2

    def _decay(self, parameters: Array, gradient: Array) -> None:
        parameters *= 1 - self.learning_rate * self.weight_decay


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}

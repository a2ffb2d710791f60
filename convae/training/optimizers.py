"""Optimizers over one flat vector of parameters. Learning rates are per step.

An optimizer belongs to one model: its state has the shape of the first vector that it updates.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

from convae.engine import Array, Backend, array_module, backend_for, updates
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
    count: ClassVar[int] = 0  # of the method's numbers

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
        array_module(parameters, gradient, names="parameters and gradient")
        self.prepare(parameters)
        self.steps += 1
        backend = backend or backend_for(parameters)
        backend.update(self.method, parameters, gradient, self.numbers(), self.state)

    def prepare(self, parameters: Array) -> None:
        """Make the state's vectors, zeros, where there are none yet.

        Parameters
        ----------
        parameters : (M,) ndarray
            What is to be updated.

        Raises
        ------
        UserError
            If the optimizer has already served parameters of another length.
        """
        xp = array_module(parameters)
        for name in self.vectors:
            kept = self.state.setdefault(name, xp.zeros_like(parameters))
            if kept.shape != parameters.shape or kept.dtype != parameters.dtype:
                raise UserError(
                    f"optimizer: it has served {kept.size} parameters of {kept.dtype} and cannot "
                    f"serve {parameters.size} of {parameters.dtype}; make one for each model"
                )

    @property
    def method(self) -> Callable[..., None]:
        """What does a step: one of `convae.engine.updates`."""
        raise UserTypeError("optimizer: Optimizer itself has no method; use SGD, Adam or AdamW")

    def numbers(self) -> list[float]:
        """Return the method's numbers for the step that `steps` counts."""
        raise NotImplementedError


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
    count: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_range("momentum", self.momentum, at_least=0, below=1)
        if not isinstance(self.nesterov, bool):
            raise UserTypeError(f"nesterov: {self.nesterov!r} is neither True nor False")
        if self.nesterov and not self.momentum:
            raise UserError("nesterov: it needs a momentum over 0")

    @property
    def method(self) -> updates.Momentum:
        """See `Optimizer`."""
        return updates.Momentum(self.momentum, self.nesterov, self.weight_decay)

    def numbers(self) -> list[float]:
        """See `Optimizer`: the size of the step."""
        return [self.learning_rate]


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
    count: ClassVar[int] = 3

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        check_range("beta1", self.beta1, at_least=0, below=1)
        check_range("beta2", self.beta2, at_least=0, below=1)
        check_range("epsilon", self.epsilon, over=0)

    @property
    def method(self) -> updates.Moments:
        """See `Optimizer`."""
        return updates.Moments(self.beta1, self.beta2, self.epsilon, self.weight_decay, False)

    def numbers(self) -> list[float]:
        """See `Optimizer`: the size of the step and the corrections of the moments' beginnings."""
        rate, t = self.learning_rate, self.steps
        first, second = 1 - self.beta1**t, 1 - self.beta2**t
        return [rate / first, second**-0.5, 1 - rate * self.weight_decay]


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

    @property
    def method(self) -> updates.Moments:
        """See `Optimizer`."""
        return replace(super().method, penalty=0.0, decays=True)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
"""All optimizers by name."""

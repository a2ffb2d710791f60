"""Penalties that regularise an autoencoder: terms added to its loss, and their gradients.

With H the code, N the examples of a batch, K the kernels and strengths >= 0, the terms are

    l1           * mean |H|                                    sparse codes
    kl           * mean over filters of KL(target || rho)      sparse codes (Ng 2011), rho being a
                                                               filter's mean activation
    contractive  * sum over layers, mean over examples, of |dH/dV|^2     (Rifai et al. 2011)
    weight_decay * sum K^2 / 2                                 small kernels

The Jacobian of a layer ``H = f(c(K, V) + b)`` has the entry ``f'(Z_i) K_ij`` for the code's
element i and the input's element j. So its squared Frobenius norm is ``sum f'(Z)^2 * W`` with
``W = c(K*K, 1)``, and its gradient is c and g once more, for every kind of sharing. This holds
where no position of the input meets a kernel twice at one output, as it can at mirrored edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convae.engine import Array, array_module
from convae.errors import UserError, check_range
from convae.models.layers import TiedConvolution
from convae.models.parameters import Arrays

STRENGTHS = ("l1", "kl", "contractive", "weight_decay")
"""Terms that a penalty can have."""


@dataclass(frozen=True)
class Penalty:
    """Terms added to the loss, in any combination; a strength of 0 leaves one out.

    Parameters
    ----------
    l1 : float
        Strength of the mean absolute value of the code.
    kl : float
        Strength of the divergence of the filters' mean activations from `target`; the code's
        activation has to be a sigmoid. The batch is encoded once more to measure these means.
    target : float
        The mean activation that `kl` asks for, between 0 and 1.
    contractive : float
        Strength of the squared Frobenius norms of the layers' Jacobians.
    weight_decay : float
        Strength of half the sum of the kernels' squares; biases are not penalised.

    Raises
    ------
    UserError
        If a strength is negative, or the target is not between 0 and 1.
    """

    l1: float = 0.0
    kl: float = 0.0
    target: float = 0.05
    contractive: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in STRENGTHS:
            check_range(f"penalty.{name}", getattr(self, name), at_least=0)
        check_range("penalty.target", self.target, over=0, below=1)

    def strengths(self) -> dict[str, float]:
        """Return the strengths that are not 0.

        Returns
        -------
        dict
            Strengths by name.
        """
        return {name: getattr(self, name) for name in STRENGTHS if getattr(self, name)}

    def check(self, layers: tuple[TiedConvolution, ...]) -> None:
        """Refuse a model for which a term has no meaning.

        Parameters
        ----------
        layers : tuple of TiedConvolution
            The model's layers.

        Raises
        ------
        UserError
            If `kl` is used and the code is not an output of a sigmoid, or `contractive` with
            padding that copies positions into the reach of a kernel that sees them already.
        """
        for index, layer in enumerate(layers):
            if self.contractive and layer.pooling is not None:
                raise UserError(
                    f"penalty.contractive: layer {index} pools, which its closed form does not "
                    "cover"
                )
            if self.contractive and not layer.geometry.meets_each_once:
                raise UserError(
                    f"penalty.contractive: layer {index}'s padding_mode "
                    f"{layer.spec.padding_mode!r} puts a position of the input under several "
                    "elements of the kernel, which its closed form does not cover; use 'zeros'"
                )
        name = layers[-1].hidden_activation.name
        if self.kl and name != "sigmoid":
            raise UserError(
                f"penalty.kl: it reads the code as probabilities, but the last layer's activation "
                f"is {name!r}; use 'sigmoid' there (or penalty.l1)"
            )

    def of_code(self, H: Array, mean: Array | None, count: int) -> tuple[Array, Array]:
        """Penalise the codes of a chunk of a batch.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            The codes.
        mean : (O,) ndarray or None
            Mean activation of each filter over the whole batch and all positions; for `kl` only.
        count : int
            Numbers in the codes of the whole batch.

        Returns
        -------
        J : 0-d ndarray
            The term of `l1` for this chunk. That of `kl` is `divergence`, once a batch.
        dH : ndarray
            Gradient of both in H; it broadcasts to H's shape.
        """
        xp = array_module(H)
        J = xp.abs(H).sum(dtype=xp.float64) * (self.l1 / count)
        dH = xp.sign(H) * (self.l1 / count)
        if mean is not None:
            slope = (1 - self.target) / (1 - mean) - self.target / mean
            dH += (slope * (self.kl / count)).reshape(-1, *(1 for _ in H.shape[2:]))
        return J, dH

    def divergence(self, mean: Array) -> Array:
        """Measure how far mean activations are from the target.

        Parameters
        ----------
        mean : (O,) ndarray
            Mean activation of each filter, between 0 and 1.

        Returns
        -------
        0-d ndarray
            ``kl * mean(t log(t / rho) + (1 - t) log((1 - t) / (1 - rho)))``.
        """
        xp, t = array_module(mean), self.target
        terms = t * xp.log(t / mean) + (1 - t) * xp.log((1 - t) / (1 - mean))
        return self.kl * terms.mean(dtype=xp.float64)

    def of_layer(
        self, layer: TiedConvolution, H: Array, gradients: Arrays, count: int
    ) -> tuple[Array, Array | None]:
        """Penalise the slope of a layer's map, for a chunk of a batch.

        Parameters
        ----------
        layer : TiedConvolution
            The layer.
        H : (N, O, *output) ndarray
            Its code.
        gradients : mapping
            The layer's gradients; the kernel's is added to.
        count : int
            Examples in the whole batch.

        Returns
        -------
        J : 0-d ndarray
            ``contractive * sum(f'(Z)^2 * W) / count``.
        dH : (N, O, *output) ndarray or None
            What becomes J's gradient in Z when it is taken back through f; None where f'' is 0.
        """
        xp, f, K = array_module(H), layer.hidden_activation, layer.parameters["kernel"]
        strength = self.contractive / count
        ones = xp.ones((1, *layer.input_shape), H.dtype)
        slope = xp.ones_like(H) if f.derivative is None else f.derivative(xp, H).astype(H.dtype)
        squares = xp.square(slope).sum(axis=0, keepdims=True)  # over examples: W is for all of them
        W = layer.c(K * K, ones)  # (1, O, *output)
        J = (squares * W).sum(dtype=xp.float64) * strength
        dK = gradients["kernel"]
        dK += (2 * strength) * K * layer.g(squares, ones)
        if f.curvature is None:
            return J, None
        return J, (2 * strength) * f.curvature(xp, H) * W

    def of_kernels(self, parameters: Mapping[str, Array], gradients: Mapping[str, Array]) -> Array:
        """Penalise a model's kernels.

        Parameters
        ----------
        parameters, gradients : mapping
            The model's arrays; to the kernels' gradients is added.

        Returns
        -------
        0-d ndarray
            ``weight_decay * sum(K^2) / 2``.
        """
        J = 0.0
        for name, K in parameters.items():
            if name.endswith("kernel"):
                dK = gradients[name]
                dK += self.weight_decay * K
                J = J + (self.weight_decay / 2) * (K * K).sum(dtype="float64")
        return J


NONE = Penalty()
"""No penalty."""

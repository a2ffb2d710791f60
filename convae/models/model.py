"""What the section's models have in common: a loss of a batch, and its gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from convae.engine import Array
from convae.errors import UserError
from convae.models.coder import Coder
from convae.models.penalties import NONE, STRENGTHS, Penalty


class Model(Coder, ABC):
    """A stack of tied layers that can learn.

    Models differ in what they minimise, and in how they find a code. Parameters and attributes are
    those of `convae.models.stack.Stack`.
    """

    penalties: ClassVar[tuple[str, ...]] = STRENGTHS
    """Terms that can be added to the loss."""

    @abstractmethod
    def _gradients(self, x: Array, target: Array, penalty: Penalty) -> Any:
        """Leave the gradients of a checked batch in `flat_gradients`; returns the loss.

        The kernels' decay is left to the caller.
        """

    @abstractmethod
    def _evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        """Do what `evaluate` does, of a checked batch."""

    def _check_target(self, x: Array, target: Array | None) -> Array:
        """Refuse a target that does not fit; without one it is x."""
        if target is None:
            return x
        target = self._check("target", target, self.input_shape)
        if target.shape != x.shape:
            raise UserError(f"target: shape {target.shape}, but x has {x.shape}")
        return target

    def accumulate_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> Array:
        """Do the work of `loss_and_gradients`, leaving the gradients in `flat_gradients`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : ndarray, optional
            What the model's output is compared with: of an autoencoder images (N, C, *size), x
            itself if not given; of a classifier the classes, (N,) of int. Other kinds have none.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        0-d ndarray
            The loss, on the device, penalties included. It is the number that the gradients are
            of, except for an RBM's, whose likelihood nobody can compute: see `evaluate`.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        x, target = self.check_batch(x, target)
        self.check_penalty(penalty)
        with self.lock:
            J = self._gradients(x, target, penalty)
            if penalty.weight_decay:
                J = J + penalty.of_kernels(self.parameters, self.gradients)
            return self.xp.asarray(J)

    def evaluate(self, x: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Measure the loss of a batch, without penalties and gradients.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : ndarray, optional
            As in `accumulate_gradients`.

        Returns
        -------
        loss : 0-d ndarray
            On the device; reading it waits for it. Of an autoencoder its loss, a mean over all
            elements; of sparse codes their objective, per element; of a classifier the
            cross-entropy, a mean over the images, in nats. Of an RBM with binary units the negative
            pseudo-likelihood (Besag 1975) per unit, of a unit of each image drawn at random; of one
            with real units score matching (Hyvarinen 2005), the mean of
            ``1/2 (dF/dV)^2 - d2F/dV2``, which may be negative.
        R : ndarray
            The model's output: reconstructions (N, C, *size), or a classifier's probabilities
            (N, classes).

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        return self._evaluate(*self.check_batch(x, target))

    def check_penalty(self, penalty: Penalty) -> None:
        """Refuse a penalty that cannot be computed for this model.

        Parameters
        ----------
        penalty : Penalty
            The terms to be added to the loss.

        Raises
        ------
        UserError
            If it has a term that this kind of model has not, does not fit the layers, or needs
            codes of full precision.
        """
        for name in penalty.strengths():
            if name not in self.penalties:
                raise UserError(
                    f"penalty.{name}: a model of the kind {self.kind} has no such term; leave it "
                    f"out ({', '.join(self.penalties)} can be added)"
                )
        penalty.check(self.layers)
        if self.storage is not None and (penalty.l1 or penalty.kl or penalty.contractive):
            raise UserError(
                f"penalty: l1, kl and contractive need float32 codes, not storage={self.storage!r}"
            )

    def check_batch(self, x: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Refuse a batch, or a target, that the model does not take.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : ndarray, optional
            As in `accumulate_gradients`.

        Returns
        -------
        x, target : ndarray
            Ordinary arrays; where there is no target, x twice.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape, at_least=1)
        return x, self._check_target(x, target)

    @classmethod
    def state_shapes(
        cls, configuration: Mapping[str, Any]
    ) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return shape and type of each array of `state`, of a model of a configuration.

        Parameters
        ----------
        configuration : mapping
            As `configuration` returns it.

        Returns
        -------
        dict
            Pairs by name; here none.
        """
        return {}

    def quantities(self, x: Array) -> dict[str, float]:
        """Measure what is worth watching of this kind of model while it trains; here nothing.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.

        Returns
        -------
        dict
            Numbers by name.
        """
        return {}

    def start_from(self, images: Array) -> None:
        """Give the model the initial parameters of its kind; here those that it has already.

        Parameters
        ----------
        images : (N, C, *size) ndarray
            Training images, in random order.
        """

    def freeze(self) -> None:
        """Keep what is not to learn as it is now; a `convae.TrainingStep` begins with it."""

    def constrain(self) -> None:
        """Bring the parameters back to where they may be, after each update; here anywhere."""

    def loss_and_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> tuple[float, dict[str, Array]]:
        """Measure the loss of a batch and its gradient in every parameter.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : ndarray, optional
            What the model's output is compared with; of an autoencoder x itself if not given.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        loss : float
            The mean over the batch, penalties included.
        gradients : dict
            Arrays by the names of `parameters`, the caller's own.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        with self.lock:
            loss = self.accumulate_gradients(x, target, penalty)
            return float(loss), {name: array.copy() for name, array in self.gradients.items()}

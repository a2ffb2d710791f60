"""The autoencoder: encode upwards, decode downwards, and the gradients of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from convae.engine import Array, Backend
from convae.engine.geometry import per_axis
from convae.errors import UserError
from convae.models import backpropagation, losses
from convae.models.backpropagation import Backpropagation, Batch
from convae.models.model import Model
from convae.models.parameters import per_layer
from convae.models.penalties import NONE, Penalty
from convae.models.specification import Layer
from convae.models.winners import Winners


class Autoencoder(Model):
    """A convolutional autoencoder whose decoder mirrors its encoder.

    Layer l's visible side takes the activation of layer l - 1, and the lowest one
    `output_activation`. Parameters are drawn from `seed` alone, the same on every device.
    Attributes and the methods that all models share are those of `convae.models.model.Model`.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of Layer, or of mappings of its arguments
        From the image upwards.
    output_activation : str
        Activation of the reconstruction; "sigmoid" for images in [0, 1].
    loss : {"mse", "bce", "l1", "ssim"}
        What `loss_and_gradients` measures: a mean over all elements.
    seed : int
        Seed of the initial kernels.
    dtype : {"float32", "float64"}
        Type of the parameters and of all sums; NumPy's own types of these names, too.
    device : {"cpu", "gpu", "auto"}
        Where the parameters live; "auto" takes a GPU if one works.
    storage : {"float16", "bfloat16"}, optional
        Type of the activations where it is shorter than the parameters'; on a GPU only.
    spatial : bool
        Whether reconstructions are made of the strongest position of each filter alone.
    lifetime : float, optional
        The part of a batch's numbers that each filter keeps for reconstructions, over 0 and at most
        1; with `spatial`, of its strongest positions. Both are winner-take-all (Makhzani and Frey
        2015); `encode` returns codes as they are.
    backend : Backend, optional
        What computes; by default that of the device. See `convae.engine.backend_for`.

    Raises
    ------
    UserTypeError, UserError
        If an argument is malformed or the layers do not fit; the message names the argument.
    DeviceError
        If the device is "gpu" and there is none.
    """

    kind = "autoencoder"
    has_program = True

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str = "sigmoid",
        loss: str = "mse",
        seed: int = 0,
        dtype: str | type | np.dtype[Any] = "float32",
        device: str = "cpu",
        storage: str | None = None,
        spatial: bool = False,
        lifetime: float | None = None,
        *,
        backend: Backend | None = None,
    ) -> None:
        self.loss = losses.loss(loss, output_activation)
        super().__init__(
            input_shape, layers, output_activation, seed, dtype, device, storage, backend
        )
        if storage is not None and self.loss.name in ("bce", "ssim"):
            raise UserError(
                f"storage: logarithms and variances need float32, and {self.loss.name} has them; "
                "leave it out, or use mse"
            )
        self.of_logits = self.loss.of_logits
        self.winners = Winners(spatial, lifetime)
        self.has_program = not self.winners
        self._backpropagation = Backpropagation(
            self.layers, self.loss, self._sums, storage or self.dtype, self.winners
        )

    def configuration(self) -> dict[str, Any]:
        """Describe the model in plain values.

        Returns
        -------
        dict
            The arguments that make a model of the same kind and shape.
        """
        return super().configuration() | {
            "loss": self.loss.name,
            "spatial": self.winners.spatial,
            "lifetime": self.winners.lifetime,
        }

    @property
    def objective(self) -> str:
        """Name of the loss."""
        return self.loss.name

    def _reconstruct(self, x: Array) -> Array:
        if not len(x):
            return self.xp.empty_like(x)
        if self._planned is not None and self.of_logits and not self.winners and not self.pools:
            return self.decode(self.encode(x))
        R = self._output(x)
        return self.backend.activate(R, None, self.output_activation) if self.of_logits else R

    def _decode_of(self, x: Array, H: Array) -> Array:
        return self.decode(self.winners(H), self.switches(x) if self.pools else ())

    def _output(self, x: Array) -> Array:
        """Reconstruct images, but for the output activation where the loss is of its argument."""
        if self._planned is not None and not self.winners:
            return self._planned.reconstruct(x)
        if self._planned is not None and not self.pools and not self.of_logits:
            return self._planned.decode(self.winners(self._encode(x, [len(self.layers)])[0]))
        x = x.astype(self.storage or self.dtype, copy=False)
        codes, switches, _ = backpropagation.encode_up(self.layers, x)
        H = self.winners(codes[-1])
        R = backpropagation.decode(self.layers, H, not self.of_logits, switches)
        return R.astype(self.dtype, copy=False)

    def _evaluate(self, x: Array, target: Array) -> tuple[Array, Array]:
        return self.loss_of(self._output(x), target)

    def _gradients(self, x: Array, target: Array, penalty: Penalty) -> Any:
        # a mean over other processes' examples, too, is not known to a program
        is_planned = self._planned is not None and self.has_program
        if is_planned and not (penalty.kl and self.group.size > 1):
            assert self._planned is not None
            return self._planned.gradients(x, target, penalty)
        return self._backpropagation(x, target, penalty, self.group)

    def loss_of(self, R: Array, target: Array) -> tuple[Array, Array]:
        """Compare reconstructions with what they should be.

        Parameters
        ----------
        R : (N, C, *size) ndarray
            The reconstructions; what goes into the output activation, if the loss is of that, which
            is then applied in place.
        target : (N, C, *size) ndarray
            What they are compared with.

        Returns
        -------
        loss : 0-d ndarray
            Mean over all elements, on the device.
        R : (N, C, *size) ndarray
            The reconstructions.
        """
        f_out = self.output_activation
        J, _ = self.loss(self.backend, R, target, f_out)
        return J, self.backend.activate(R, None, f_out) if self.loss.of_logits else R

    def plan(self, examples: int) -> list[str]:
        """Say how the gradients of a batch are computed.

        Parameters
        ----------
        examples : int
            Examples of the batch.

        Returns
        -------
        list of str
            Into how many chunks it is divided, then every node of a chunk's program and the way in
            which it is computed.

        Raises
        ------
        UserError
            If there are no examples, or the model computes by array code.
        """
        (examples,) = per_axis("examples", examples, 1)
        if self._planned is None or not self.has_program:
            raise UserError(
                "plan: this model computes by array code; only one on the CPU has a plan"
            )
        return self._planned.describe(examples)

    def gradient_halves(
        self, x: Array, target: Array | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Measure the encoder's and the decoder's halves of the gradient separately.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, a small batch: it is not divided into chunks.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.

        Returns
        -------
        encoder, decoder : dict
            Arrays by the names of `parameters`, which add up to the gradient of
            `loss_and_gradients`.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x, target = self.check_batch(x, target)
        encoder, decoder = (self._allocate()[1] for _ in range(2))
        batch = Batch(len(x), NONE)
        self._backpropagation.chunk(x, target, batch, per_layer(encoder), per_layer(decoder))
        return dict(encoder), dict(decoder)

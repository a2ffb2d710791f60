"""A stack of tied layers: encode upwards, decode downwards, and the gradients of both."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from threading import RLock
from typing import Any

import numpy as np

from convae.engine import Array, Backend, array_module, backend_for, to_numpy
from convae.engine.arrays import plain
from convae.engine.geometry import per_axis
from convae.errors import UserError, UserTypeError, check_choice
from convae.models import backpropagation, checkpoint, losses
from convae.models.activations import activation
from convae.models.backpropagation import Backpropagation, Batch
from convae.models.initialisation import initialise
from convae.models.layers import Layer, parameter_shapes, stack
from convae.models.parameters import Arrays, allocate, per_layer, views
from convae.models.penalties import NONE, Penalty
from convae.models.planned import Planned

DTYPES = ("float32", "float64")
STORAGES = ("float16", "bfloat16")


class Autoencoder:
    """A convolutional autoencoder whose decoder mirrors its encoder.

    Layer l's visible side takes the activation of layer l - 1, and the lowest one
    `output_activation`. Parameters are drawn from `seed` alone, the same on every device.

    Parameters
    ----------
    input_shape : (C, *size) sequence of int
        Shape of one example; 1, 2 or 3 axes of positions.
    layers : sequence of Layer, or of mappings of its arguments
        From the image upwards.
    output_activation : str
        Activation of the reconstruction; "sigmoid" for images in [0, 1].
    loss : {"mse", "bce"}
        What `loss_and_gradients` measures: a mean over all elements.
    seed : int
        Seed of the initial kernels.
    dtype : {"float32", "float64"}
        Type of the parameters and of all sums; NumPy's own types of these names, too.
    device : {"cpu", "gpu", "auto"}
        Where the parameters live; "auto" takes a GPU if one works.
    storage : {"float16", "bfloat16"}, optional
        Type of the activations where it is shorter than the parameters'; on a GPU only.
    backend : Backend, optional
        What computes; by default that of the device. See `convae.engine.backend_for`.

    Attributes
    ----------
    parameters : mapping
        The live arrays: "0.kernel", "0.hidden_bias", "0.visible_bias" and so on. They can be
        changed in place, not replaced.
    flat_parameters : (M,) ndarray
        The buffer on which they are views.
    flat_gradients : (M,) ndarray
        The gradients of the last batch, in the same layout.
    layers : tuple of TiedConvolution
        The layers, from the image upwards.
    backend : Backend
        What computes.
    metadata : dict
        What its file keeps beside all this, in plain values; of a run's model its ``run``, its
        ``epoch``, how pictures (``preprocessing``) or ``arrays`` become its input, ``classes``,
        ``score`` and ``thresholds``.
    extras : dict
        Arrays of the host that its file keeps beside the parameters; of a run's model what normal
        images are like (`convae.report.anomaly`).
    code_shape : (O, *output) tuple of int
        Shape of one example's code.
    lock : threading.RLock
        Held while gradients are computed, since they share buffers: threads that call
        `loss_and_gradients` or a `TrainingStep` of one model take turns. `encode`, `decode` and
        `reconstruct` can be called from any number of threads while nothing changes the parameters.

    Raises
    ------
    UserTypeError, UserError
        If an argument is malformed or the layers do not fit; the message names the argument.
    DeviceError
        If the device is "gpu" and there is none.
    """

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
        *,
        backend: Backend | None = None,
    ) -> None:
        dtype = _dtype_name(dtype)
        if isinstance(input_shape, np.ndarray):
            input_shape = input_shape.tolist()
        if isinstance(layers, (Layer, Mapping)) or not isinstance(layers, Sequence):
            raise UserTypeError(f"layers: {layers!r} is not a list of layers")
        if not isinstance(input_shape, Sequence) or not 2 <= len(input_shape) <= 4:
            raise UserError(
                f"input_shape: {input_shape!r} is not (channels, *positions) "
                "with 1 to 3 axes of positions"
            )
        if not layers:
            raise UserError("layers: none given; expected at least one Layer")
        (self.seed,) = per_axis("seed", seed, 1, minimum=0)
        self.input_shape = per_axis("input_shape", tuple(input_shape), len(input_shape))
        self.output_activation = activation(output_activation, "output_activation")
        self.loss = losses.loss(loss, output_activation)
        self.dtype = dtype
        self.backend = backend_for(device) if backend is None else backend
        self.storage = storage
        self.metadata: dict[str, Any] = {}
        self.extras: dict[str, np.ndarray[Any, Any]] = {}
        self._check_storage()
        self.layers = stack(layers, self.input_shape, self.output_activation.name, self.backend)
        shapes, axes = parameter_shapes(self.layers), len(self.input_shape) - 1
        self._allocate = partial(allocate, self.backend, shapes, dtype, axes)
        self.flat_parameters, self.parameters = self._allocate()
        for layer, arrays in zip(self.layers, per_layer(self.parameters), strict=True):
            layer.parameters = arrays
        initialise(self, "he")
        self._backpropagation = Backpropagation(
            self.layers, self.loss, self.backend, self._allocate, storage or dtype
        )
        self.flat_gradients = self._backpropagation.flat_gradients
        self._planned = Planned(self) if self.backend.runs_programs else None
        self.lock = RLock()

    def _check_storage(self) -> None:
        """Refuse a storage that there is not, and load the type where it is an extension's."""
        storage = self.storage
        if storage is None:
            return
        check_choice("storage", storage, STORAGES)
        if storage not in self.backend.dtypes or self.dtype != "float32":
            raise UserError(
                f"storage: {storage!r} is for float32 models on a GPU, and this one is "
                f"{self.dtype} on the {self.device}; leave it out"
            )
        if self.loss.name in ("bce", "ssim"):
            raise UserError(
                f"storage: logarithms and variances need float32, and {self.loss.name} has them; "
                "leave it out, or use mse"
            )
        if storage == "bfloat16":
            try:
                import ml_dtypes  # noqa: F401 - NumPy and CuPy know the name from now on
            except ImportError:
                raise UserError("storage: 'bfloat16' needs the package ml_dtypes") from None

    def __repr__(self) -> str:
        """Say what goes in, what the code is, and how large the model is."""
        count = sum(array.size for array in self.parameters.values())
        return (
            f"Autoencoder({self.input_shape} -> {self.code_shape}, {count:,} parameters, "
            f"{self.dtype}, {self.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a model by its configuration and its parameters."""
        parameters = to_numpy(self.flat_parameters)
        return _revive, (
            self.configuration(),
            self.storage,
            self.backend,
            parameters,
            dict(self.metadata),
            dict(self.extras),
        )

    def views(self, flat: Array) -> Arrays:
        """View a flat vector in the layout of the parameters by their names.

        Parameters
        ----------
        flat : (M,) ndarray
            As long as `flat_parameters`.

        Returns
        -------
        mapping
            Arrays by the names of `parameters`.
        """
        axes = len(self.input_shape) - 1
        return views(self.backend, parameter_shapes(self.layers), flat, axes)

    @property
    def gradients(self) -> Arrays:
        """The gradients of the last batch by the names of `parameters`: views on one buffer."""
        return self._backpropagation.gradients

    @property
    def xp(self) -> Any:
        """The array library of the model, ``numpy`` or ``cupy``."""
        return self.backend.xp

    @property
    def code_shape(self) -> tuple[int, ...]:
        """Shape of one example's code."""
        return self.layers[-1].output_shape

    @property
    def code_size(self) -> int:
        """Numbers in one example's code."""
        return prod(self.code_shape)

    @property
    def device(self) -> str:
        """Where the parameters live, "cpu" or "gpu"."""
        return self.backend.device

    def _check(self, name: str, array: Array, shape: tuple[int, ...], at_least: int = 0) -> Array:
        """Refuse what the model does not take, and return the rest as an ordinary array."""
        array = plain(name, array)
        module = array_module(array)
        if module is not self.xp:
            raise UserTypeError(
                f"{name}: a {module.__name__} array, but the model lives on the {self.device}; "
                f"convert it with {self.xp.__name__}.asarray, or build the model with device="
            )
        if array.dtype != self.dtype:
            raise UserTypeError(
                f"{name}: dtype {array.dtype}, but the model's is {self.dtype}; convert it with "
                f".astype('{self.dtype}')" + (" / 255" if array.dtype == np.uint8 else "")
            )
        if array.ndim != len(shape) + 1 or array.shape[1:] != shape or len(array) < at_least:
            least = " with at least one example" if at_least else ""
            raise UserError(
                f"{name}: shape {array.shape}, but the model takes "
                f"(N, {', '.join(map(str, shape))}){least}{_hint(array, shape)}"
            )
        return array

    def encode(self, x: Array) -> Array:
        """Encode images.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N, O, *output) ndarray
            Their codes H.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        return self._encode(x, [len(self.layers)])[0].astype(self.dtype, copy=False)

    def codes(self, x: Array) -> list[Array]:
        """Encode images and keep what every layer makes of them.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        list of (N, O, *output) ndarray
            The layers' codes, from the image upwards.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape)
        levels = range(1, len(self.layers) + 1)
        return [H.astype(self.dtype, copy=False) for H in self._encode(x, levels)]

    def _encode(self, x: Array, levels: Sequence[int]) -> list[Array]:
        """Return the codes of some levels, 1 the lowest, in the type of the activations."""
        if not len(x):
            shapes = (self.layers[level - 1].output_shape for level in levels)
            return [self.xp.empty((0, *shape), self.dtype) for shape in shapes]
        if self._planned is not None:
            return self._planned.encode(x, levels)
        x = x.astype(self.storage or self.dtype, copy=False)
        codes = backpropagation.encode(self.layers, x)
        return [codes[level] for level in levels]

    def decode(self, H: Array) -> Array:
        """Decode codes.

        Parameters
        ----------
        H : (N, O, *output) ndarray
            Codes, as `encode` returns them.

        Returns
        -------
        (N, C, *size) ndarray
            Reconstructions R.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        H = self._check("H", H, self.code_shape)
        if not len(H):
            return self.xp.empty((0, *self.input_shape), self.dtype)
        if self._planned is not None:
            return self._planned.decode(H)
        R = backpropagation.decode(self.layers, H.astype(self.storage or self.dtype, copy=False))
        return R.astype(self.dtype, copy=False)

    def reconstruct(self, x: Array) -> Array:
        """Encode and decode images.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images, of the model's dtype and on its device.

        Returns
        -------
        (N, C, *size) ndarray
            Their reconstructions R.

        Warns
        -----
        UserWarning
            If x is outside the output activation's range, or has NaN.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        if self._planned is None or self.loss.of_logits or not len(x):
            R = self.decode(self.encode(x))
        else:
            R = self._planned.reconstruct(self._check("x", x, self.input_shape))
        self.compare_range("x", x)
        return R

    def compare_range(self, name: str, x: Array, stacklevel: int = 3) -> None:
        """Warn of images that no reconstruction can equal.

        Parameters
        ----------
        name : str
            What they are called in the warning.
        x : (N, C, *size) ndarray
            Images.
        stacklevel : int
            As in `warnings.warn`: which caller the warning is about.

        Warns
        -----
        UserWarning
            If a value is outside the output activation's range, or NaN.
        """
        if not len(x):
            return
        low, high = self.output_activation.range
        least, largest = float(x.min()), float(x.max())
        if low <= least and largest <= high:  # false where either is NaN
            return
        warnings.warn(
            f"{name}: values range from {least:g} to {largest:g}, but output_activation "
            f"{self.output_activation.name!r} only ranges from {low:g} to {high:g}; scale the "
            "images, or use 'identity'",
            stacklevel=stacklevel,
        )

    def evaluate(self, x: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Reconstruct images and measure the loss, without penalties and gradients.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.

        Returns
        -------
        loss : 0-d ndarray
            Mean over all elements of the batch, on the device; reading it waits for it.
        R : (N, C, *size) ndarray
            The reconstructions.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x, target = self.check_batch(x, target)
        if self._planned is not None:
            return self.loss_of(self._planned.reconstruct(x), target)
        (H,) = self._encode(x, [len(self.layers)])
        R = backpropagation.decode(self.layers, H, not self.loss.of_logits)
        return self.loss_of(R.astype(self.dtype, copy=False), target)

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

    def loss_and_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> tuple[float, dict[str, Array]]:
        """Measure the loss of a batch and its gradient in every parameter.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with; x itself if not given.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        loss : float
            Mean over all elements of the batch, penalties included.
        gradients : dict
            Arrays by the names of `parameters`, the caller's own.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        with self.lock:
            loss = self.accumulate_gradients(x, target, penalty)
            gradients = self._backpropagation.gradients
            return float(loss), {name: array.copy() for name, array in gradients.items()}

    def accumulate_gradients(
        self, x: Array, target: Array | None = None, penalty: Penalty = NONE
    ) -> Array:
        """Do the work of `loss_and_gradients`, leaving the gradients in `flat_gradients`.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with.
        penalty : Penalty
            What is added to the loss.

        Returns
        -------
        0-d ndarray
            The loss, on the device.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit, or the penalty does not fit the model.
        """
        x, target = self.check_batch(x, target)
        self.check_penalty(penalty)
        with self.lock:
            if self._planned is not None:
                J = self._planned.gradients(x, target, penalty)
            else:
                J = self._backpropagation(x, target, penalty)
            if penalty.weight_decay:
                J = J + penalty.of_kernels(self.parameters, self._backpropagation.gradients)
            return self.xp.asarray(J)

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
        if self._planned is None:
            raise UserError(
                "plan: this model computes by array code; only one on the CPU has a plan"
            )
        return self._planned.describe(examples)

    def check_penalty(self, penalty: Penalty) -> None:
        """Refuse a penalty that cannot be computed for this model.

        Parameters
        ----------
        penalty : Penalty
            The terms to be added to the loss.

        Raises
        ------
        UserError
            If it does not fit the layers, or needs codes of full precision.
        """
        penalty.check(self.layers)
        if self.storage is not None and (penalty.l1 or penalty.kl or penalty.contractive):
            raise UserError(
                f"penalty: l1, kl and contractive need float32 codes, not storage={self.storage!r}"
            )

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

    def check_batch(self, x: Array, target: Array | None = None) -> tuple[Array, Array]:
        """Refuse a batch, or a target, that the model does not take.

        Parameters
        ----------
        x : (N, C, *size) ndarray
            Images.
        target : (N, C, *size) ndarray, optional
            What the reconstructions are compared with.

        Returns
        -------
        x, target : (N, C, *size) ndarray
            Ordinary arrays; the target is x if none is given.

        Raises
        ------
        UserTypeError, UserError
            If dtype, device or shape do not fit.
        """
        x = self._check("x", x, self.input_shape, at_least=1)
        if target is None:
            return x, x
        target = self._check("target", target, self.input_shape)
        if target.shape != x.shape:
            raise UserError(f"target: shape {target.shape}, but x has {x.shape}")
        return x, target

    def configuration(self) -> dict[str, Any]:
        """Describe the model in plain values.

        Returns
        -------
        dict
            The arguments that make a model of the same shape.
        """
        return {
            "input_shape": list(self.input_shape),
            "layers": [layer.spec.configuration() for layer in self.layers],
            "output_activation": self.output_activation.name,
            "loss": self.loss.name,
            "seed": self.seed,
            "dtype": self.dtype,
        }

    def description(self) -> dict[str, Any]:
        """Describe what a file of the model holds beside its arrays.

        Returns
        -------
        dict
            ``model``, its configuration, and ``metadata``, if there is any.
        """
        described = {"model": self.configuration()}
        return described | {"metadata": dict(self.metadata)} if self.metadata else described

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, parameters and configuration, to one safetensors file, atomically.

        Parameters
        ----------
        path : path
            Where it goes.

        Raises
        ------
        OSError
            If it cannot be written; an earlier file of that name is then untouched.
        """
        arrays = {name: to_numpy(array) for name, array in self.parameters.items()}
        arrays |= {f"{checkpoint.EXTRA}{name}": array for name, array in self.extras.items()}
        checkpoint.write(path, arrays, self.description())


def _hint(array: Array, shape: tuple[int, ...]) -> str:
    """Guess what a wrong shape means."""
    if array.shape == shape:
        return "; this is a single example: give it an axis of examples, x[None]"
    if array.shape[1:] == (*shape[1:], shape[0]):
        return "; this looks channels-last: numpy.moveaxis(x, -1, 1)"
    return ""


def _dtype_name(dtype: Any) -> str:
    """Accept a dtype by its name or as NumPy's type."""
    name = dtype if isinstance(dtype, str) else getattr(np.dtype(dtype), "name", dtype)
    check_choice("dtype", name, DTYPES)
    return str(name)


def _revive(
    configuration: dict[str, Any],
    storage: str | None,
    backend: Backend,
    parameters: np.ndarray[Any, Any],
    metadata: dict[str, Any],
    extras: dict[str, np.ndarray[Any, Any]],
) -> Autoencoder:
    model = Autoencoder(**configuration, storage=storage, backend=backend)
    model.metadata, model.extras = metadata, extras
    model.flat_parameters[...] = model.xp.asarray(parameters)
    return model

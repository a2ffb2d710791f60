"""A stack of tied layers with parameters on one buffer, and the file that keeps it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from threading import RLock
from typing import Any, ClassVar, TypeVar

import numpy as np

from convae.engine import Array, Backend, backend_for, to_numpy
from convae.engine.geometry import per_axis
from convae.errors import UserError, UserTypeError
from convae.models import checkpoint, checks
from convae.models.activations import activation
from convae.models.layers import parameter_shapes, stack
from convae.models.parameters import Arrays, GradientSums, allocate, per_layer, views
from convae.models.specification import Layer
from convae.processes import ALONE, Group

Same = TypeVar("Same", bound="Stack")


class Stack:
    """A stack of tied layers, with parameters of its own.

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
    gradients : mapping
        The gradients of the last batch by the names of `parameters`.
    flat_gradients : (M,) ndarray
        The buffer on which these are views.
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
    state : dict
        Arrays beside the parameters on which the next gradients depend, such as chains of samples.
    group : Group
        The processes that share each batch with this one.
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

    kind: ClassVar[str]
    """The name of the class in files and configurations."""

    arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of a kind alone, which are attributes, too."""

    has_program: bool = False
    """Whether its training step can be one program (`convae.models.programs`)."""

    of_logits: bool = False
    """Whether its loss is of what goes into the output activation."""

    def __init__(
        self,
        input_shape: Sequence[int],
        layers: Sequence[Layer | Mapping[str, Any]],
        output_activation: str,
        seed: int,
        dtype: str | type | np.dtype[Any],
        device: str,
        storage: str | None,
        backend: Backend | None,
    ) -> None:
        self.dtype = checks.dtype_name(dtype)
        if isinstance(layers, (Layer, Mapping)) or not isinstance(layers, Sequence):
            raise UserTypeError(f"layers: {layers!r} is not a list of layers")
        if not layers:
            raise UserError("layers: none given; expected at least one Layer")
        self.input_shape = checks.input_shape_of(input_shape)
        (self.seed,) = per_axis("seed", seed, 1, minimum=0)
        self.output_activation = activation(output_activation, "output_activation")
        self.backend = backend_for(device) if backend is None else backend
        self.storage = storage
        checks.check_storage(storage, self.dtype, self.backend)
        self.metadata: dict[str, Any] = {}
        self.extras: dict[str, np.ndarray[Any, Any]] = {}
        self.state: dict[str, Array] = {}
        self.group: Group = ALONE
        self.layers = stack(layers, self.input_shape, self.output_activation.name, self.backend)
        shapes, axes = parameter_shapes(self.layers), len(self.input_shape) - 1
        self._allocate = partial(allocate, self.backend, shapes, self.dtype, axes)
        self.flat_parameters, self.parameters = self._allocate()
        self.flat_gradients, self.gradients = self._allocate()
        self._sums = GradientSums(self.backend, self._allocate, self.flat_gradients, self.gradients)
        for layer, arrays in zip(self.layers, per_layer(self.parameters), strict=True):
            layer.parameters = arrays
        self.lock = RLock()

    def configuration(self) -> dict[str, Any]:
        """Describe the model in plain values.

        Returns
        -------
        dict
            The arguments that make a model of the same kind and shape.
        """
        return {
            "input_shape": list(self.input_shape),
            "layers": [layer.spec.configuration() for layer in self.layers],
            "output_activation": self.output_activation.name,
            "seed": self.seed,
            "dtype": self.dtype,
            **{name: getattr(self, name) for name in self.arguments},
        }

    @property
    def objective(self) -> str:
        """Name of what it minimises."""
        return self.kind

    def __repr__(self) -> str:
        """Say what goes in, what the code is, and how large the model is."""
        count = sum(array.size for array in self.parameters.values())
        return (
            f"{type(self).__name__}({self.input_shape} -> {self.code_shape}, {count:,} parameters, "
            f"{self.dtype}, {self.device})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle a model by its configuration and its parameters."""
        how = self.configuration() | {"storage": self.storage, "backend": self.backend}
        kept = to_numpy(self.flat_parameters), dict(self.metadata), dict(self.extras)
        return _revive, (type(self), how, *kept)

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

    def description(self) -> dict[str, Any]:
        """Describe what a file of the model holds beside its arrays.

        Returns
        -------
        dict
            ``kind``, ``model``, its configuration, and ``metadata``, if there is any.
        """
        described = {"kind": self.kind, "model": self.configuration()}
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


def _revive(
    kind: type[Same],
    how: dict[str, Any],
    parameters: np.ndarray[Any, Any],
    metadata: dict[str, Any],
    extras: dict[str, np.ndarray[Any, Any]],
) -> Same:
    model = kind(**how)
    model.metadata, model.extras = metadata, extras
    model.flat_parameters[...] = model.xp.asarray(parameters)
    return model

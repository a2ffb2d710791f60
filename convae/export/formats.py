"""Models for other runtimes: ONNX, PyTorch's exported programs, and state dicts.

Every file is compared with the model before it is written; the largest difference is in its
metadata.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from convae.engine import to_numpy
from convae.errors import MissingPackageError, UserError, UserTypeError
from convae.files import write_bytes
from convae.models import checkpoint
from convae.models.autoencoder import Autoencoder
from convae.models.classifier import Classifier
from convae.models.model import Model
from convae.models.sparse_coding import SparseCoding
from convae.version import __version__

if TYPE_CHECKING:
    from convae.export.torch_module import TorchAutoencoder

Floats: TypeAlias = np.ndarray[Any, Any]

Exported: TypeAlias = tuple[list[Floats], Callable[[dict[str, str]], bytes]]

EXAMPLES = 4
"""Random images or codes on which a file is compared with the model."""

AXES = {
    3: ["batch", "length"],
    4: ["batch", "height", "width"],
    5: ["batch", "depth", "height", "width"],
}
"""Names of the dynamic axes of images, but for the channels, by their number."""

TOLERANCE = 1e-5
"""Differences beyond this are an error, for values of the order of 1."""


def export(model: Model, path: Path) -> float:
    """Write a model for another runtime, which the file's suffix selects.

    Parameters
    ----------
    model : Model
        The model.
    path : Path
        ``.onnx``: input ``images``, outputs ``code`` and ``reconstruction``, float32, any number
        of images (the axis ``batch``); where all kernels are shared and every stride divides its
        input, of any height and width that the strides divide, too. Other kinds have other inputs
        and outputs, see `convae.to_torch`.
        ``.pt2``: the same as a `torch.export` program. ``.safetensors``: the state dict of
        `convae.to_torch`'s module. The file's metadata has the model's configuration and, of a
        run's model, how pictures become its input, its classes and its threshold for anomalies.

    Returns
    -------
    float
        The largest absolute difference between the file's results and the model's.

    Raises
    ------
    UserError
        If the suffix is none of these, or the file is one of convae's own.
    MissingPackageError
        If ONNX's packages are not installed.
    RuntimeError
        If the file does not agree with the model; nothing is written.
    OSError
        If the file cannot be written.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
    if _is_ours(path):
        raise UserError(f"{path}: holds a model or a state of convae; export to another file")
    if path.suffix not in EXPORTERS:
        raise UserError(f"{path}: unknown suffix; expected one of {', '.join(EXPORTERS)}")
    rng = np.random.default_rng(0)
    x = rng.random((EXAMPLES, *_given_shape(model))).astype(model.dtype)
    expected = _expected(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        results, finish = EXPORTERS[path.suffix](model, x)
    error = difference(results, expected)
    scale = max(1.0, *(float(np.abs(array).max()) for array in expected))
    if not error <= TOLERANCE * scale:
        raise RuntimeError(f"{path}: not written, as its results differ by {error:.1e}")
    write_bytes(path, finish(_metadata(model, error)))
    return error


def to_torch(model: Model) -> TorchAutoencoder:
    """Copy a model to PyTorch, on the CPU.

    Parameters
    ----------
    model : Model
        Any model of this package.

    Returns
    -------
    TorchAutoencoder
        A module with copies of the parameters, and a ``state_dict`` of the same names;
        ``module(images)`` returns codes and reconstructions, ``module.encode`` and
        ``module.decode`` one of them. Of a `convae.Classifier` it returns ``(probabilities,)``.
        Where a reconstruction takes more than a code, as pooling's switches and winners of a batch
        are, it returns ``(code,)``. Sparse codes are searched for, which it does not do: of
        `convae.SparseCoding` it is the decoder, and ``module(code)`` returns ``(reconstruction,)``.

    Raises
    ------
    UserTypeError
        If it is something else.
    """
    if not isinstance(model, Model):
        raise UserTypeError(f"model: {model!r} is not a model of convae")
    return form_of(model)(model)


def form_of(model: Model) -> type[TorchAutoencoder]:
    """Choose the module of a model, which says what it takes and returns; see `to_torch`."""
    from convae.export import torch_module

    if isinstance(model, Classifier):
        return torch_module.TorchClassifier
    if isinstance(model, SparseCoding):
        return torch_module.TorchDecoder
    if model.pools or (isinstance(model, Autoencoder) and model.winners):
        return torch_module.TorchEncoder
    return torch_module.TorchAutoencoder


def difference(results: Sequence[Floats], expected: Sequence[Floats]) -> float:
    """Return the largest difference between another program's results and the model's."""
    largest = [np.abs(other - own).max() for other, own in zip(results, expected, strict=True)]
    return float(np.max(largest))  # NaN, if there is one


def _expected(model: Model, x: Floats) -> list[Floats]:
    """Compute what a file should return for its input."""
    form, given = form_of(model), model.xp.asarray(x)
    if isinstance(model, Classifier):
        return [to_numpy(model.probabilities(given))]
    if form.takes == "code":
        return [to_numpy(model.decode(given))]
    H = model.encode(given)
    both = [H] if form.names == ("code",) else [H, model.decode(H)]
    return [to_numpy(array) for array in both]


def _is_ours(path: Path) -> bool:
    try:
        checkpoint.read(path)
    except (FileNotFoundError, ValueError):
        return False
    return True


def _metadata(model: Model, error: float) -> dict[str, str]:
    return {
        "producer": f"convae {__version__}",
        "configuration": json.dumps(model.configuration()),
        "maximal_difference": f"{error:.3e}",
        **{name: json.dumps(value) for name, value in model.metadata.items()},
    }


def _given_shape(model: Model) -> tuple[int, ...]:
    """Shape of one example of what a file is given."""
    return model.code_shape if form_of(model).takes == "code" else model.input_shape


def _program(model: Model) -> Any:
    import torch

    module = to_torch(model).eval()
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    for axis, multiple in enumerate(module.size_multiples or (), start=2):
        units = torch.export.Dim(f"units{axis}", min=1)
        dynamic[axis] = multiple * units if multiple > 1 else units
    example = torch.zeros((2, *_given_shape(model)), dtype=getattr(torch, model.dtype))
    return torch.export.export(module, (example,), dynamic_shapes=(dynamic,), strict=False)


def _onnx(model: Model, x: Floats) -> Exported:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ModuleNotFoundError as missing:
        raise MissingPackageError(
            f"ONNX needs the package {missing.name}: pip install -e '.[export]'"
        ) from None
    import torch

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    form = form_of(model)
    given, names = form.takes, list(form.names)
    exported = torch.onnx.export(
        _program(_in_float32(model)),  # ONNX Runtime's CPU has no other convolution
        input_names=[given],
        output_names=names,
        dynamo=True,
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    _name_axes(proto.graph)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )

    def finish(metadata: dict[str, str]) -> bytes:
        onnx.helper.set_model_props(proto, metadata)
        onnx.checker.check_model(proto)
        return bytes(proto.SerializeToString())

    return session.run(names, {given: x.astype("float32")}), finish


def _in_float32(model: Model) -> Model:
    """Copy a model of float64 to float32; return any other as it is."""
    if model.dtype == "float32":
        return model
    copy = type(model)(**{**model.configuration(), "dtype": "float32"})
    for name, array in model.parameters.items():
        copy.parameters[name][...] = to_numpy(array)
    return copy


def _name_axes(graph: Any) -> None:
    """Name the dynamic axes of input and output, and wherever the same symbol stands alone."""
    shape = graph.input[0].type.tensor_type.shape.dim
    symbols = [axis.dim_param for n, axis in enumerate(shape) if n != 1]
    batch, *positions = AXES[len(shape)]
    sides = positions, [f"code_{name}" for name in positions]
    below, above = sides if graph.input[0].name == "images" else sides[::-1]
    names = dict(zip(symbols, (batch, *below), strict=True))
    output = graph.output[0].type.tensor_type.shape.dim
    # a classifier's output has no positions
    for name, axis in zip(above, output[2:], strict=False):
        names.setdefault(axis.dim_param, name)
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names.get(axis.dim_param, axis.dim_param)


def _pt2(model: Model, x: Floats) -> Exported:
    import torch

    program = _program(model)
    with torch.no_grad():
        results = [output.numpy() for output in program.module()(torch.tensor(x))]

    def finish(metadata: dict[str, str]) -> bytes:
        buffer, extra = io.BytesIO(), {"metadata.json": json.dumps(metadata)}
        torch.export.save(program, buffer, extra_files=extra)
        return buffer.getvalue()

    return results, finish


def _state_dict(model: Model, x: Floats) -> Exported:
    import torch
    from safetensors.torch import load, save

    state = to_torch(model).state_dict()
    fresh = to_torch(type(model)(**model.configuration()))
    fresh.load_state_dict(load(save(state)))
    with torch.no_grad():
        results = [output.numpy() for output in fresh(torch.tensor(x))]
    return results, lambda metadata: save(state, metadata)


EXPORTERS: dict[str, Callable[[Model, Floats], Exported]] = {
    ".onnx": _onnx,
    ".pt2": _pt2,
    ".safetensors": _state_dict,
}
"""Exporters by suffix: from a model and its input to results, and what then makes the content."""

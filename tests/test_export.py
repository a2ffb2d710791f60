"""Other runtimes' results against the model's own, for every kind of kernel."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import convae
from convae import Layer, export
from tests.test_autoencoder import fits, layers

MODELS = {
    "shared": (
        (1, 12, 12),
        [Layer(8, 5, stride=2, padding="same"), Layer(6, "input", activation="identity")],
    ),
    "groups, dilation, uneven": (
        (2, 9, 8),
        [Layer(4, (2, 3), (2, 3), ((1, 0), (0, 2)), dilation=(2, 1), groups=2, activation="tanh")],
    ),
    "tiled": (
        (2, 9, 8),
        [
            Layer(4, 3, 2, "same", groups=2, sharing="tiled", tile=2, activation="softplus"),
            Layer(3, 2, padding=1, activation="leaky_relu"),
        ],
    ),
    "local": ((3, 8, 8), [Layer(4, 3, 2, "same", sharing="local"), Layer(3, "input")]),
    "untied": ((1, 8, 8), [Layer(4, 3, 2, "same", tied=False, hidden_bias="position")]),
    "1 axis": ((2, 11), [Layer(4, 3, 2, "same"), Layer(3, 3, sharing="tiled", tile=2)]),
    "3 axes": ((1, 5, 6, 4), [Layer(4, 3, 2, "same", sharing="local")]),
}


def build(name: str) -> convae.Autoencoder:
    shape, layers = MODELS[name]
    model = convae.Autoencoder(shape, layers)
    rng = np.random.default_rng(1)
    model.flat_parameters += 0.1 * rng.standard_normal(model.flat_parameters.size).astype("f")
    return model


@pytest.mark.parametrize("name", MODELS)
def test_the_pytorch_module_agrees(rng, name: str) -> None:
    model = build(name)
    x = rng.random((5, *model.input_shape), dtype="float32")
    module = convae.to_torch(model)
    with torch.no_grad():
        code, R = module(torch.tensor(x))
    np.testing.assert_allclose(code, model.encode(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=0, atol=1e-6)
    assert list(module.state_dict()) == list(model.parameters)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_pytorch_module_of_any_layer_agrees(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    size = tuple(data.draw(st.integers(3, (12, 7, 4)[axes - 1])) for _ in range(axes))
    groups = data.draw(st.integers(1, 2))
    layer = data.draw(layers(size, groups).filter(lambda layer: fits(layer, (2, *size))))
    model = convae.Autoencoder((2, *size), [layer], "identity", dtype="float64")
    rng = np.random.default_rng(0)
    model.flat_parameters[...] = rng.standard_normal(model.flat_parameters.size)
    x = rng.standard_normal((3, 2, *size))
    with torch.no_grad():
        code, R = convae.to_torch(model)(torch.tensor(x))
    np.testing.assert_allclose(code, model.encode(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=1e-9, atol=1e-9)


def test_the_modules_parameters_are_its_own_and_can_be_trained(rng) -> None:
    model = build("tiled")
    before = model.flat_parameters.copy()
    module = convae.to_torch(model)
    x = torch.tensor(rng.random((5, *model.input_shape), dtype="float32"))
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.mse_loss(module(x)[1], x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.flat_parameters == before).all()


@pytest.mark.parametrize("name", MODELS)
def test_onnx_agrees_in_onnxruntime(rng, tmp_path, name: str) -> None:
    model = build(name)
    path = tmp_path / "model.onnx"
    error = export.export(model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = rng.random((7, *model.input_shape), dtype="float32")  # another batch size
    code, R = session.run(["code", "reconstruction"], {"images": x})
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=0, atol=1e-5)
    np.testing.assert_allclose(code, model.encode(x), rtol=1e-5, atol=1e-5)
    metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert float(metadata["maximal_difference"]) == pytest.approx(error, rel=1e-2)
    expected = json.loads(json.dumps(model.configuration()))
    assert json.loads(metadata["configuration"]) == expected


def test_shared_kernels_become_convolutions(tmp_path) -> None:
    export.export(build("shared"), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Conv") == operators.count("ConvTranspose") == 2


@pytest.mark.parametrize("name", ["shared", "local"])
def test_exported_programs_agree(rng, tmp_path, name: str) -> None:
    model = build(name)
    path = tmp_path / "model.pt2"
    error = export.export(model, path)
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    x = rng.random((7, *model.input_shape), dtype="float32")
    with torch.no_grad():
        _, R = program.module()(torch.tensor(x))
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=0, atol=1e-6)
    written = float(json.loads(extra["metadata.json"])["maximal_difference"])
    assert written == pytest.approx(error, 0.01)


def test_state_dicts_fit_the_module(tmp_path) -> None:
    model = build("untied")
    export.export(model, tmp_path / "state.safetensors")
    other = convae.to_torch(convae.Autoencoder(**{**model.configuration(), "seed": 5}))
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for name, tensor in other.state_dict().items():
        assert (tensor.numpy() == model.parameters[name]).all()


def test_other_endings_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"model.h5: the ending has to be one of .onnx, .pt2"):
        export.export(build("shared"), tmp_path / "model.h5")


def test_a_file_that_does_not_agree_is_not_written(tmp_path, monkeypatch) -> None:
    wrong = convae.to_torch(build("shared"))
    with torch.no_grad():
        wrong.get_parameter("0.kernel").add_(0.01)
    monkeypatch.setattr(export, "to_torch", lambda model: wrong)
    with pytest.raises(RuntimeError, match=r"model.pt2: not written, as its results differ by"):
        export.export(build("shared"), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())

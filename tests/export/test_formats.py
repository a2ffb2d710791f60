"""Exported files in other runtimes, against the model's own results."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import convae
from convae import Layer
from convae.data.pictures import Preprocessing
from convae.export import formats
from convae.export.formats import export
from tests.helpers import EXPORTED, REPOSITORY, exported_model


@pytest.mark.parametrize(
    "name",
    [
        "tiled",
        *(pytest.param(name, marks=pytest.mark.slow) for name in EXPORTED if name != "tiled"),
    ],
)
def test_onnx_agrees_in_onnxruntime(rng, tmp_path, name: str) -> None:
    model = exported_model(name)
    path = tmp_path / "model.onnx"
    error = export(model, path)
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
    export(exported_model("shared"), tmp_path / "model.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert operators.count("Conv") == operators.count("ConvTranspose") == 2


@pytest.mark.parametrize("name", ["shared", "local"])
def test_exported_programs_agree(rng, tmp_path, name: str) -> None:
    model = exported_model(name)
    path = tmp_path / "model.pt2"
    error = export(model, path)
    extra = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=extra)
    x = rng.random((7, *model.input_shape), dtype="float32")
    with torch.no_grad():
        _, R = program.module()(torch.tensor(x))
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=0, atol=1e-6)
    written = float(json.loads(extra["metadata.json"])["maximal_difference"])
    assert written == pytest.approx(error, 0.01)


def test_state_dicts_fit_the_module(tmp_path) -> None:
    model = exported_model("untied")
    export(model, tmp_path / "state.safetensors")
    other = convae.to_torch(convae.Autoencoder(**{**model.configuration(), "seed": 5}))
    other.load_state_dict(load_file(tmp_path / "state.safetensors"))
    for name, tensor in other.state_dict().items():
        assert (tensor.numpy() == model.parameters[name]).all()


def test_what_cannot_be_written_is_refused(tmp_path) -> None:
    model = exported_model("shared")
    model.save(tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    for path, says in (
        (tmp_path / "model.h5", r"model.h5: unknown suffix; expected one of .onnx, .pt2"),
        (tmp_path, "is a folder"),
        (tmp_path / "model.safetensors", "holds a model or a state of convae"),
    ):
        with pytest.raises(ValueError, match=says):
            export(model, path)
    assert (tmp_path / "model.safetensors").read_bytes() == content
    with pytest.raises(TypeError, match="model: None is not a model of convae"):
        convae.to_torch(None)


def test_a_file_that_does_not_agree_is_not_written(tmp_path, monkeypatch) -> None:
    wrong = convae.to_torch(exported_model("shared"))
    with torch.no_grad():
        wrong.get_parameter("0.kernel").add_(0.01)
    monkeypatch.setattr(formats, "to_torch", lambda model: wrong)
    with pytest.raises(RuntimeError, match=r"model.pt2: not written, as its results differ by"):
        export(exported_model("shared"), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_onnx_of_a_float64_model_computes_in_float32(tmp_path) -> None:
    layers = [convae.Layer(3, 3, stride=2, padding="same"), convae.Layer(2, "input")]
    model = convae.Autoencoder((1, 8, 8), layers, dtype="float64")
    assert export(model, tmp_path / "m.onnx") < 1e-6
    graph = onnx.load(tmp_path / "m.onnx").graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def resized(model: convae.Autoencoder, *size: int) -> convae.Autoencoder:
    """The same layers and parameters, for images of another size."""
    layers = [layer.spec for layer in model.layers]
    other = convae.Autoencoder((model.input_shape[0], *size), layers)
    other.flat_parameters[...] = model.flat_parameters
    return other


SAME = {"padding": "same", "activation": "tanh"}
RESIZABLE = {
    "strided": (
        (3, 16, 24),
        [{"filters": 4, "kernel": 5, "stride": 2}, {"filters": 3, "kernel": 3}],
    ),
    "anisotropic": ((1, 12, 9), [{"filters": 4, "kernel": (3, 4), "stride": (2, 3)}]),
    "dilated": ((2, 10, 10), [{"filters": 4, "kernel": 3, "dilation": 2, "groups": 2}]),
}


@pytest.mark.parametrize("name", RESIZABLE)
def test_height_and_width_are_dynamic_where_the_model_allows_it(rng, tmp_path, name: str) -> None:
    shape, layers = RESIZABLE[name]
    model = convae.Autoencoder(shape, [layer | SAME for layer in layers], seed=1)
    path = tmp_path / "model.onnx"
    export(model, path)
    graph = onnx.load(path).graph
    named = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert named == ["batch", shape[0], "height", "width"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((24, 36), (60, 12)):
        other = resized(model, *size)
        x = rng.random((2, shape[0], *size), dtype="float32")
        code, R = session.run(["code", "reconstruction"], {"images": x})
        np.testing.assert_allclose(code, other.encode(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(R, other.reconstruct(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        {"filters": 4, "kernel": "input"},
        {"filters": 4, "kernel": 3, "padding": "valid"},
        {"filters": 4, "kernel": 3, "stride": 3, "padding": "same"},  # does not divide 10
        {"filters": 4, "kernel": 3, "padding": "same", "visible_bias": "position"},
        {"filters": 4, "kernel": 3, "padding": "same", "sharing": "tiled", "tile": 2},
    ],
)
def test_other_models_have_one_size(layer: dict) -> None:
    module = convae.to_torch(convae.Autoencoder((1, 10, 12), [layer]))
    assert module.size_multiples is None
    with pytest.raises(ValueError, match=r"shape \(1, 1, 20, 24\), but the layer takes"):
        module(torch.zeros(1, 1, 20, 24))


def test_sizes_that_a_stride_does_not_divide_are_refused() -> None:
    shape, layers = RESIZABLE["strided"]
    module = convae.to_torch(convae.Autoencoder(shape, [layer | SAME for layer in layers]))
    assert module.size_multiples == (2, 2)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 15, 16\)"):
        module(torch.zeros(1, 3, 15, 16))


def test_what_a_runs_model_knows_is_in_every_file(tmp_path) -> None:
    model = exported_model("shared")
    model.metadata = {"threshold": 0.125, "classes": ["a"], "preprocessing": {"channels": 1}}
    for ending in ("onnx", "pt2", "safetensors"):
        export(model, tmp_path / f"model.{ending}")
    extra = {"metadata.json": ""}
    torch.export.load(tmp_path / "model.pt2", extra_files=extra)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        found = file.metadata()
    onnx_metadata = {p.key: p.value for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    for metadata in (found, onnx_metadata, json.loads(extra["metadata.json"])):
        for name, value in model.metadata.items():
            assert json.loads(metadata[name]) == value


def test_the_documentations_script_without_convae(tmp_path, monkeypatch, capsys) -> None:
    page = (REPOSITORY / "docs" / "using_a_model.md").read_text()
    script = re.search(r"^```python notest\n(.*?)^```", page, re.M | re.S)[1]
    assert "convae" not in script
    model = exported_model("shared")
    how = Preprocessing(model.input_shape[0], model.input_shape[1:])
    model.metadata = {"thresholds": {"squared_error": 0.01}, "preprocessing": how.plain()}
    export(model, tmp_path / "model.onnx")
    Image.effect_noise((90, 70), 80).convert("RGB").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(script, found)
    x = convae.read_image("picture.png", model)
    np.testing.assert_allclose(found["x"], x, rtol=1e-6)
    np.testing.assert_allclose(found["code"], model.encode(x), rtol=1e-4, atol=1e-5)
    assert "anomaly" in capsys.readouterr().out


def test_a_file_with_nan_is_not_written(tmp_path) -> None:
    model = exported_model("shared")
    model.parameters["0.visible_bias"][0] = np.nan
    for ending in ("safetensors", "pt2"):
        with pytest.raises(RuntimeError, match="not written, as its results differ by nan"):
            export(model, tmp_path / f"model.{ending}")
    assert not list(tmp_path.iterdir())


def test_padding_follows_the_modules_device() -> None:
    layer = convae.Layer(2, 3, padding=1, padding_mode="reflect")
    module = convae.to_torch(convae.Autoencoder((1, 6, 6), [layer])).to("meta")
    _, R = module(torch.empty(2, 1, 6, 6, device="meta"))
    assert R.shape == (2, 1, 6, 6)


def test_a_classifier_gives_probabilities(tmp_path, rng) -> None:
    layers = [
        Layer(filters=4, kernel=3, padding="same", pool=2),
        Layer(filters=3, kernel="input", activation="identity"),
    ]
    model = convae.Classifier((1, 6, 8), layers, seed=2)
    x = rng.random((5, 1, 6, 8), dtype="float32")
    expected = model.probabilities(x)
    (found,) = convae.to_torch(model)(torch.tensor(x))
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-6)
    assert export(model, tmp_path / "model.pt2") < 1e-5
    assert export(model, tmp_path / "model.safetensors") < 1e-5
    assert export(model, tmp_path / "model.onnx") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["probabilities"]
    (found,) = session.run(None, {"images": x})
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_an_rbm_is_exported_as_any_tied_layer(tmp_path) -> None:
    layer = Layer(filters=3, kernel=3, activation="sigmoid")
    assert export(convae.RBM((1, 6, 6), [layer]), tmp_path / "model.pt2") < 1e-5


POOLING = {"layers": [Layer(filters=3, kernel=3, padding="same", pool=2)]}
WINNERS = {"layers": [Layer(filters=3, kernel=3, padding="same")], "spatial": True}


@pytest.mark.parametrize("how", [POOLING, WINNERS], ids=["pooling", "winners"])
def test_only_codes_where_a_reconstruction_takes_more(tmp_path, rng, how: dict) -> None:
    model = convae.Autoencoder((1, 6, 8), **how)
    x = rng.random((5, 1, 6, 8), dtype="float32")
    for ending in ("pt2", "safetensors", "onnx"):
        assert export(model, tmp_path / f"model.{ending}") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["code"]
    (found,) = session.run(None, {"images": x})
    np.testing.assert_allclose(found, model.encode(x), atol=1e-6)


@pytest.mark.parametrize("padding", ["full", "same"])
def test_of_sparse_coding_the_decoder_is_exported(tmp_path, rng, padding: str) -> None:
    layer = Layer(
        filters=3, kernel=4, stride=2, padding=padding, activation="identity", hidden_bias="none"
    )
    model = convae.SparseCoding((2, 6, 8), [layer], seed=3)
    model.parameters["0.visible_bias"][...] = 0.25
    H = rng.random((5, *model.code_shape), dtype="float32")
    for ending in ("pt2", "safetensors", "onnx"):
        assert export(model, tmp_path / f"model.{ending}") < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ((given,), (output,)) = session.get_inputs(), session.get_outputs()
    assert (given.name, output.name) == ("code", "reconstruction")
    if padding == "same":
        assert given.shape[2:] == ["code_height", "code_width"]
        assert output.shape[2:] == ["height", "width"]
        assert session.run(None, {"code": np.zeros((1, 3, 9, 5), "float32")})[0].shape[2] == 18
    (found,) = session.run(None, {"code": H})
    np.testing.assert_allclose(found, model.decode(H), atol=1e-6)

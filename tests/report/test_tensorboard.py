"""What the board writes, read back with TensorBoard's own reader."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.plugins.hparams import plugin_data_pb2

import convae
from convae.report.tensorboard import Board
from tests.helpers import events

LAYERS = [
    convae.Layer(4, 3, padding="same"),
    convae.Layer(3, "input", activation="identity", tied=False),
]


@pytest.fixture
def model() -> convae.Autoencoder:
    return convae.Autoencoder((1, 8, 8), LAYERS)


def test_panels(model, rng, tmp_path) -> None:
    x = rng.random((5, 1, 8, 8), dtype="float32")
    model.parameters["0.kernel"][0] = -1  # such a filter never answers to anything
    with Board(tmp_path) as board:
        board.panels(3, model, x, None)
        board.dead_filters(3, [1, 0])
    shown = events(tmp_path)
    pictures = shown.Tags()["images"]
    assert set(pictures) == {"reconstructions", "filters", "feature_maps/0"}
    assert shown.Images("reconstructions")[0].height > 2 * shown.Images("filters")[0].height / 2
    names = list(model.parameters)
    expected = {f"{kind}/{name}" for kind in ("parameters", "gradients") for name in names}
    assert set(shown.Tags()["histograms"]) == expected | {"activations/0", "activations/1"}
    histogram = shown.Histograms("activations/0")[0].histogram_value
    assert histogram.num == 5 * 4 * 8 * 8
    assert shown.Scalars("dead_filters/0")[0].value == 1
    assert 0.25 <= shown.Scalars("zeros_in_code/0")[0].value < 1
    assert -1 <= shown.Scalars("tied_gradient/0/cosine")[0].value <= 1
    assert "tied_gradient/1/cosine" not in shown.Tags()["scalars"]  # this layer is not tied


def test_panels_of_a_lost_model_leave_histograms_out(model, rng, tmp_path) -> None:
    x = rng.random((5, 1, 8, 8), dtype="float32")
    model.parameters["1.hidden_bias"][...] = np.inf
    with Board(tmp_path) as board, np.errstate(all="ignore"):
        board.panels(0, model, x, None)
    assert "parameters/1.hidden_bias" not in events(tmp_path).Tags()["histograms"]


def test_embeddings_have_images_and_labels(rng, tmp_path) -> None:
    x = rng.random((6, 1, 8, 8), dtype="float32")
    with Board(tmp_path) as board:
        board.embeddings(7, rng.random((6, 3, 1, 1)), x, np.arange(6))
    (folder,) = tmp_path.glob("*/codes")
    assert (folder / "metadata.tsv").read_text().split() == list("012345")
    assert len((folder / "tensors.tsv").read_text().splitlines()) == 6
    assert (folder / "sprite.png").stat().st_size > 100
    assert "codes" in (tmp_path / "projector_config.pbtxt").read_text()


def test_hyperparameters_are_in_the_runs_own_event_file(tmp_path) -> None:
    configuration = {"seed": 3, "optimizer": {"name": "adam", "momentum": None}, "layers": [8, 16]}
    with Board(tmp_path, configuration) as board:
        board.validation(1, 0.5)
    assert len(list(tmp_path.iterdir())) == 1
    metadata = events(tmp_path).summary_metadata["_hparams_/session_start_info"]
    start = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
    values = start.session_start_info.hparams
    assert set(values) == {"seed", "optimizer.name", "layers.0", "layers.1"}
    assert values["optimizer.name"].string_value == "adam"
    assert values["seed"].number_value == 3

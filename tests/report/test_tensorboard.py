"""What the board writes, read back with TensorBoard's own reader."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

import convae
from convae.report.tensorboard import Board
from tests.helpers import curve, events, hyperparameters

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
        board.reconstructions(3, model, x, None)
        board.dead_filters(3, [1, 0])
    shown = events(tmp_path)
    pictures = shown.Tags()["images"]
    assert set(pictures) == {"reconstructions", "weights/filters", "units/feature_maps/0"}
    names = list(model.parameters)
    expected = {f"weights/{kind}/{name}" for kind in ("parameters", "gradients") for name in names}
    expected |= {"units/activations/0", "units/activations/1"}
    assert set(shown.Tags()["histograms"]) == expected
    histogram = shown.Histograms("units/activations/0")[0].histogram_value
    assert histogram.num == 5 * 4 * 8 * 8
    assert shown.Scalars("units/dead_filters/0")[0].value == 1
    assert 0.25 <= shown.Scalars("units/zeros_in_code/0")[0].value < 1
    assert -1 <= shown.Scalars("tied_gradient/0/cosine")[0].value <= 1
    assert "tied_gradient/1/cosine" not in shown.Tags()["scalars"]  # this layer is not tied


def test_panels_of_a_lost_model_leave_histograms_out(model, rng, tmp_path) -> None:
    x = rng.random((5, 1, 8, 8), dtype="float32")
    model.parameters["1.hidden_bias"][...] = np.inf
    with Board(tmp_path) as board, np.errstate(all="ignore"):
        board.reconstructions(0, model, x, None)
    assert "weights/parameters/1.hidden_bias" not in events(tmp_path).Tags()["histograms"]


def test_losses_come_first_and_reconstructions_next(model, rng, tmp_path) -> None:
    """In the order of the alphabet, in which TensorBoard shows cards."""
    with Board(tmp_path) as board:
        board.training(1, 0.5, 0.001, 100.0)
        board.validation(1, 0.5, {})
        board.reconstructions(1, model, rng.random((5, 1, 8, 8), dtype="float32"), None)
        board.dead_filters(1, [1, 0])
        board.figures(1, {"test_mse": 0.5})
    tags = events(tmp_path).Tags()
    cards = sorted(tags["scalars"] + tags["images"] + tags["histograms"])
    assert cards[:3] == ["loss/train", "loss/validation", "reconstructions"]
    groups = list(dict.fromkeys(card.partition("/")[0] for card in cards[3:]))
    assert groups == ["summary", "tied_gradient", "training", "units", "weights"]


def test_embeddings_have_images_and_labels(rng, tmp_path) -> None:
    x, codes = rng.random((6, 1, 8, 8), dtype="float32"), rng.random((6, 3, 1, 1))
    with Board(tmp_path) as board:
        board.embeddings(codes, x, np.arange(6))
    config = ProjectorConfig()
    text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), config)
    (shown,) = config.embeddings
    assert (tmp_path / shown.metadata_path).read_text().split() == list("012345")
    np.testing.assert_allclose(np.loadtxt(tmp_path / shown.tensor_path), codes[..., 0, 0], 1e-5)
    assert list(shown.sprite.single_image_dim) == [8, 8]
    with Image.open(tmp_path / shown.sprite.image_path) as sprite:
        assert sprite.size == (24, 24)  # the projector expects a square of them
        fifth = np.asarray(sprite)[8:16, 8:16, 0]
    np.testing.assert_allclose(fifth, x[4, 0] * 255, atol=0.51)


def test_later_embeddings_replace_earlier_ones(rng, tmp_path, capsys) -> None:
    x, codes = rng.random((6, 1, 8, 8), dtype="float32"), rng.random((2, 6, 3, 1, 1))
    files = []
    for some, after in zip(codes, (0, 9), strict=True):
        with Board(tmp_path, after=after) as board:
            board.embeddings(some, x, np.arange(6))
        files.append({path for path in tmp_path.rglob("*") if "events" not in path.name})
    assert files[0] == files[1]
    (table,) = (path for path in files[1] if path.name == "codes.tsv")
    np.testing.assert_allclose(np.loadtxt(table), codes[1, ..., 0, 0], 1e-5)
    assert "warning" not in capsys.readouterr().out


def test_hyperparameters_are_in_the_runs_own_event_file(tmp_path) -> None:
    with Board(tmp_path) as board:
        board.hyperparameters({"optimizer": "adam", "seed": 3.0})
        board.validation(1, 0.5, {})
    assert len(list(tmp_path.iterdir())) == 1
    # a list of columns, the tag "_hparams_/experiment", would hold for all runs beside this one
    tags = [tag for tag in events(tmp_path).summary_metadata if tag.startswith("_hparams_")]
    assert tags == ["_hparams_/session_start_info"]
    assert hyperparameters(tmp_path) == {"optimizer": "adam", "seed": 3}


def test_the_configuration_is_a_text_in_a_block_of_code(tmp_path) -> None:
    with Board(tmp_path) as board:
        board.configuration("seed: 0\ndevice: cpu\n")
    shown = events(tmp_path)
    assert shown.summary_metadata["configuration"].plugin_data.plugin_name == "text"
    (event,) = shown.Tensors("configuration")
    assert event.tensor_proto.string_val == [b"```yaml\nseed: 0\ndevice: cpu\n```"]


def test_a_resumed_run_hides_the_figures_of_its_earlier_end(tmp_path) -> None:
    with Board(tmp_path) as board:
        board.configuration("seed: 0\n")
        board.validation(9, 0.5, {})
        board.figures(9, {"test_mse": 0.25, "best_epoch": 3.0})
    assert events(tmp_path).Scalars("summary/test_mse")[0].value == 0.25
    time.sleep(1.1)  # TensorBoard orders event files by the second in their names
    with Board(tmp_path, after=9) as board:
        board.flush()
        assert "summary/test_mse" not in points(tmp_path)
        board.figures(9, {"test_mse": 0.125, "best_epoch": 4.0})
    assert points(tmp_path) == {
        "loss/validation": [0.5],
        "summary/test_mse": [0.125],
        "summary/best_epoch": [4.0],
    }
    assert "configuration" in events(tmp_path).Tags()["tensors"]


def points(folder: Path) -> dict[str, list[float]]:
    """The curves that have points."""
    curves = {tag: curve(folder, tag) for tag in events(folder).Tags()["scalars"]}
    return {tag: values for tag, values in curves.items() if values}

"""Layer-wise pretraining: what a stage does, and that it goes on after a stop."""

from __future__ import annotations

import signal
from dataclasses import asdict, replace

import numpy as np
import pytest

import convae
from convae.configuration import PenaltyConfig
from convae.report.evaluation import measure
from convae.training import trainer
from convae.training.pretraining import Encoded, pretrain
from convae.training.signals import Interrupted, StopSignals
from tests.test_state import CONFIG, data, fresh  # noqa: F401 (data is a fixture)

EPOCHS = 4
PRETRAINED = replace(CONFIG, trainer=replace(CONFIG.trainer, pretrain_epochs=EPOCHS))


def test_codes_are_those_of_the_lower_layers(data) -> None:  # noqa: F811
    model, _ = fresh()
    encoded = Encoded(data.test, model, 1)
    (batch,) = encoded.batches(8)
    x = (data.test.pixels / 255).astype("float32")
    H, _ = model.layers[0].encode(x)
    np.testing.assert_allclose(batch, H, rtol=1e-6)
    assert encoded.shape == H.shape[1:]
    assert len(encoded) == len(data.test)
    assert len(encoded.select(np.arange(3))) == 3


def test_every_stage_learns_and_is_taken_over(data, tmp_path) -> None:  # noqa: F811
    model, _ = fresh()
    before = measure(model, data.validation, 8).loss
    pretrain(model, data, PRETRAINED, tmp_path)
    assert measure(model, data.validation, 8).loss < before
    for index in range(2):
        best = convae.load(tmp_path / "pretraining" / str(index))
        for name, array in model.layers[index].parameters.items():
            assert (array == best.parameters[f"0.{name}"]).all()


def test_a_stopped_pretraining_goes_on_to_the_bit(data, tmp_path, monkeypatch) -> None:  # noqa: F811
    whole, _ = fresh()
    pretrain(whole, data, PRETRAINED, tmp_path / "whole")
    stops = [3, 17, 29, 33]  # steps over both stages, of 5 * EPOCHS steps each
    seen = iter(range(10_000))

    class StopAt(StopSignals):
        @property
        def received(self) -> int:
            return signal.SIGTERM if next(seen) in stops else 0

    monkeypatch.setattr(trainer, "StopSignals", StopAt)
    interruptions = 0
    while True:
        model, _ = fresh()
        try:
            pretrain(model, data, PRETRAINED, tmp_path / "stopped")
        except Interrupted:
            interruptions += 1
            continue
        break
    assert interruptions >= 2
    assert (model.flat_parameters == whole.flat_parameters).all()


def test_penalties_of_the_code_are_for_the_uppermost_layer(data, tmp_path) -> None:  # noqa: F811
    """kl asks for a sigmoid, which only the last layer has here."""
    layers = [convae.Layer(4, 3, stride=2), convae.Layer(3, "input", activation="sigmoid")]
    model = convae.Autoencoder((1, 6, 6), layers)
    config = replace(PRETRAINED, penalty=PenaltyConfig(kl=0.01))
    pretrain(model, data, config, tmp_path)
    assert asdict(config)["penalty"]["kl"] == 0.01


def test_a_run_pretrains_once(data, tmp_path) -> None:  # noqa: F811
    model, _ = fresh()
    pretrain(model, data, PRETRAINED, tmp_path)
    states = sorted((tmp_path / "pretraining").rglob("state-*"))
    times = [state.stat().st_mtime_ns for state in states]
    again, _ = fresh()
    pretrain(again, data, PRETRAINED, tmp_path)
    assert [state.stat().st_mtime_ns for state in states] == times
    assert (again.flat_parameters == model.flat_parameters).all()


@pytest.mark.parametrize("ema", [0.5])
def test_a_stopped_run_with_an_average_goes_on_to_the_bit(data, tmp_path, ema: float) -> None:  # noqa: F811
    from convae.training.state import read_state, restore

    config = replace(CONFIG, trainer=replace(CONFIG.trainer, ema=ema, panels_every=50))
    whole, optimizer = fresh()
    trainer.fit(whole, optimizer, data, config, tmp_path / "whole")
    first = replace(config, trainer=replace(config.trainer, epochs=2))
    model, optimizer = fresh()
    trainer.fit(model, optimizer, data, first, tmp_path / "parts")
    model, optimizer = fresh()
    progress = restore(*read_state(tmp_path / "parts"), model, optimizer)
    trainer.fit(model, optimizer, data, config, tmp_path / "parts", progress)
    for name in ("best.safetensors", "last.safetensors"):
        whole_bytes = (tmp_path / "whole" / name).read_bytes()
        assert (tmp_path / "parts" / name).read_bytes() == whole_bytes
    last = convae.load(tmp_path / "whole" / "last.safetensors")
    assert (last.flat_parameters != whole.flat_parameters).any()  # it is the average that is kept

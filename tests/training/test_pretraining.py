"""Layer-wise pretraining: what a stage does, and that it resumes after a stop."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np

import convae
from convae.configuration import PenaltyConfig
from convae.processes import ALONE
from convae.report.evaluation import measure
from convae.training import trainer
from convae.training.pretraining import STAGES, Encoded, pretrain
from convae.training.signals import Interrupted, StopSignals
from tests.helpers import NOISE_CONFIG, noise_model

EPOCHS = 4
CONFIG = replace(NOISE_CONFIG, trainer=replace(NOISE_CONFIG.trainer, pretrain_epochs=EPOCHS))


def test_codes_are_those_of_the_lower_layers(noise) -> None:
    model = noise_model()
    encoded = Encoded(noise.test, model, 1)
    (batch,) = encoded.batches(8)
    x = (noise.test.pixels / 255).astype("float32")
    H, _ = model.layers[0].encode(x)
    np.testing.assert_allclose(batch, H, rtol=1e-6)
    assert encoded.shape == H.shape[1:]
    assert len(encoded) == len(noise.test)
    assert len(encoded.select(np.arange(3))) == 3


def test_every_stage_learns_and_becomes_the_models(noise, tmp_path) -> None:
    model = noise_model()
    before = measure(model, noise.validation, 8).loss
    pretrain(model, noise, CONFIG, tmp_path, ALONE)
    assert measure(model, noise.validation, 8).loss < before
    for index in range(2):
        best = convae.load(tmp_path / STAGES / str(index))
        for name, array in model.layers[index].parameters.items():
            assert (array == best.parameters[f"0.{name}"]).all()


def test_a_stopped_pretraining_resumes_to_the_bit(noise, tmp_path, monkeypatch) -> None:
    whole = noise_model()
    pretrain(whole, noise, CONFIG, tmp_path / "whole", ALONE)
    stops = [3, 17, 29, 33]  # steps over both stages, of 5 * EPOCHS steps each
    seen = iter(range(10_000))

    class StopAt(StopSignals):
        @property
        def received(self) -> int:
            return signal.SIGTERM if next(seen) in stops else 0

    monkeypatch.setattr(trainer, "StopSignals", StopAt)
    interruptions = 0
    while True:
        model = noise_model()
        try:
            pretrain(model, noise, CONFIG, tmp_path / "stopped", ALONE)
        except Interrupted:
            interruptions += 1
            continue
        break
    assert interruptions >= 2
    assert (model.flat_parameters == whole.flat_parameters).all()


def test_penalties_of_the_code_are_for_the_uppermost_layer(noise, tmp_path) -> None:
    """kl asks for a sigmoid, which only the last layer has here."""
    layers = [convae.Layer(4, 3, stride=2), convae.Layer(3, "input", activation="sigmoid")]
    model = convae.Autoencoder((1, 6, 6), layers)
    before = model.flat_parameters.copy()
    pretrain(model, noise, replace(CONFIG, penalty=PenaltyConfig(kl=0.01)), tmp_path, ALONE)
    assert (model.flat_parameters != before).any()


def test_a_run_pretrains_once(noise, tmp_path) -> None:
    model = noise_model()
    pretrain(model, noise, CONFIG, tmp_path, ALONE)
    states = sorted((tmp_path / STAGES).rglob("state-*"))
    times = [state.stat().st_mtime_ns for state in states]
    again = noise_model()
    pretrain(again, noise, CONFIG, tmp_path, ALONE)
    assert [state.stat().st_mtime_ns for state in states] == times
    assert (again.flat_parameters == model.flat_parameters).all()

"""The step on a GPU: recorded, certified, compared with the plain step."""

from __future__ import annotations

import numpy as np
import pytest

import convae
from convae import AdamW, Layer, engine
from convae.errors import DeviceError
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import Penalty
from convae.models.programs import ReconstructionProgram, StackProgram
from convae.training.averaging import MovingAverage
from tests.helpers import error

pytestmark = pytest.mark.gpu

LAYERS = [
    Layer(4, 3, stride=2, padding="same"),
    Layer(6, 3, padding="same", sharing="local", activation="sigmoid"),
]


def step_of(gpu_engine: str = "fast", layers=LAYERS, **other) -> convae.TrainingStep:
    model = convae.Autoencoder((1, 6, 6), layers, device="gpu", **other)
    return convae.TrainingStep(model, AdamW(0.01), gpu_engine=gpu_engine)


def batches(rng, sizes=(5, 5, 3, 5, 3)) -> list[np.ndarray]:
    return [rng.random((n, 1, 6, 6), dtype="float32") for n in sizes]


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"clip_norm": 1e-3, "penalty": Penalty(l1=0.1, kl=0.1, contractive=0.1)},
        {"penalty": Penalty(weight_decay=0.1), "ema": 0.9},
    ],
    ids=["plain", "penalties", "average"],
)
def test_it_follows_float64_on_the_cpu(cupy, other: dict, rng) -> None:
    """Ragged batches, targets and all; the plain step follows PyTorch's, see test_step.py."""
    losses, models = [], []
    ema = other.get("ema")
    for device, dtype in (("cpu", "float64"), ("gpu", "float32")):
        model = convae.Autoencoder((1, 6, 6), LAYERS, device=device, dtype=dtype)
        average = None if ema is None else MovingAverage(model, ema)
        own = {name: value for name, value in other.items() if name != "ema"}
        step = convae.TrainingStep(
            model,
            AdamW(0.01),
            average=average,
            gpu_engine="fast" if device == "gpu" else "auto",
            **own,
        )
        xs = [model.xp.asarray(x.astype(dtype)) for x in batches(np.random.default_rng(1))]
        losses.append([float(step(x, 1 - x)) for x in xs])
        models.append(model.flat_parameters if ema is None else average.parameters)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert error(models[1], models[0]) < 1e-5


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_short_storage_follows_the_plain_step(cupy, storage: str, rng) -> None:
    xs = list(map(cupy.asarray, batches(rng)))
    losses = [
        [float(step(x)) for x in xs]
        for step in (step_of("portable", storage=storage), step_of(storage=storage))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-2)


def test_parameters_changed_between_steps_are_read(cupy, rng) -> None:
    """Also where the products read short copies of them."""
    for storage in (None, "bfloat16"):
        step = step_of(storage=storage)
        x = cupy.asarray(batches(rng)[0])
        for _ in range(3):
            step(x)
        for array in step.model.parameters.values():
            array[...] = 0
        R = step.model.reconstruct(x)
        np.testing.assert_allclose(float(step(x)), float(((R - x) ** 2).mean()), rtol=1e-3)


def test_two_runs_are_the_same_to_the_bit(cupy, rng) -> None:
    xs = list(map(cupy.asarray, batches(rng)))
    steps = [step_of(), step_of()]
    losses = [[float(step(x)) for x in xs] for step in steps]
    assert losses[0] == losses[1]
    assert (steps[0].model.flat_parameters == steps[1].model.flat_parameters).all()


def test_a_step_is_one_graph(cupy, rng) -> None:
    step = step_of()
    for x in map(cupy.asarray, batches(rng)):
        step(x)
    plans = list(step._planned.program.plans.kept.values())
    assert [len(plan.run.graphs) for plan in plans] == [1, 1]  # of whole and of ragged batches
    ways = {way.name for plan in plans for _, way, _ in plan.executable.calls}
    assert "portable" not in ways


def test_a_step_that_pools_is_one_graph(cupy, rng) -> None:
    layers = [Layer(4, 3, padding="same", pool=2), Layer(5, 2, padding="same", pool=(1, 3))]
    step = step_of("fast", layers)
    model = convae.Autoencoder((1, 6, 6), layers, dtype="float64")
    plain = convae.TrainingStep(model, AdamW(0.01))
    for x in batches(rng):
        np.testing.assert_allclose(
            float(step(cupy.asarray(x))), float(plain(x.astype(float))), rtol=1e-5
        )
    assert error(step.model.flat_parameters, model.flat_parameters) < 1e-5
    plans = step._planned.program.plans.kept.values()
    assert [len(plan.run.graphs) for plan in plans] == [1, 1]


def test_float64_and_other_padding_are_computed_by_array_code(cupy, rng) -> None:
    layers = [Layer(3, 3, padding="same", padding_mode="reflect")]
    step = step_of("fast", layers, dtype="float64")
    x = rng.random((4, 1, 6, 6))
    plain = convae.TrainingStep(convae.Autoencoder((1, 6, 6), layers, dtype="float64"), AdamW(0.01))
    for _ in range(3):
        np.testing.assert_allclose(float(step(cupy.asarray(x))), float(plain(x)), rtol=1e-10)


def test_a_wrong_step_is_not_used(cupy, rng, monkeypatch, caplog) -> None:
    """A planted fault that no certificate can see: slopes of the code, not of what is decoded."""
    right = GradientProgram._error_upwards

    def wrong(self: GradientProgram, k: int, extra: str | None) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(self, "_decoded", lambda k: f"H{k}")
            right(self, k, extra)

    monkeypatch.setattr(GradientProgram, "_error_upwards", wrong)
    xs = list(map(cupy.asarray, batches(rng)))
    step, plain = step_of("auto"), step_of("portable")
    assert [float(step(x)) for x in xs] == [float(plain(x)) for x in xs]
    lines = [record.message for record in caplog.records if "whole step" in record.message]
    assert len(lines) == 1
    assert "array code is used" in lines[0]
    with pytest.raises(DeviceError, match=r"gpu_engine: a whole step differs.*portable"):
        step_of("fast")(xs[0])


@pytest.mark.parametrize("loss", ["mse", "bce", "l1", "ssim"])
@pytest.mark.parametrize("storage", [None, "float16"])
def test_evaluations_follow_the_model(cupy, rng, loss: str, storage: str | None) -> None:
    if storage and loss in ("bce", "ssim"):
        pytest.skip("bce and ssim need float32")
    step = step_of(loss=loss, storage=storage)
    for x in map(cupy.asarray, batches(rng)):
        step(x)
        for target in (x, 1 - x):
            (J, R), (expected, right) = (own.evaluate(x, target) for own in (step, step.model))
            np.testing.assert_allclose(
                float(J), float(expected), rtol=1e-5 if not storage else 1e-2
            )
            assert error(R, engine.to_numpy(right)) < (1e-5 if not storage else 1e-2)


def test_a_wrong_evaluation_is_not_used(cupy, rng, monkeypatch, caplog) -> None:
    """A planted fault: the wrong activation at the end."""
    monkeypatch.setattr(ReconstructionProgram, "_decode", wrong_decode)
    x = cupy.asarray(batches(rng)[0])
    step = step_of("auto")
    J, _ = step.evaluate(x)
    assert float(J) == float(step.model.evaluate(x)[0])
    assert "an evaluation differs from array code's" in caplog.text
    with pytest.raises(DeviceError, match="gpu_engine: an evaluation differs"):
        step_of("fast").evaluate(x)


def wrong_decode(self: ReconstructionProgram, k: int, activate: bool = True) -> None:
    StackProgram._decode(self, k, activate=False)


def test_a_loss_that_diverges_is_not_the_programs_fault(cupy, rng, caplog) -> None:
    step = step_of("fast")
    x = cupy.asarray(batches(rng)[0])
    step.model.flat_parameters[...] = np.nan
    assert not np.isfinite(float(step(x)))
    assert "whole step" not in caplog.text


def test_an_unknown_engine_is_refused() -> None:
    model = convae.Autoencoder((1, 6, 6), LAYERS)
    with pytest.raises(ValueError, match="gpu_engine: 'fastest'"):
        convae.TrainingStep(model, AdamW(), gpu_engine="fastest")
    with pytest.raises(ValueError, match=r"gpu_engine: 'fast' is for a GPU.*leave it out"):
        convae.TrainingStep(model, AdamW(), gpu_engine="fast")


def test_training_goes_on_from_a_state_to_the_bit(cupy, rng) -> None:
    """The optimizer's vectors are the program's, so a copy of them is all that it takes."""
    xs = list(map(cupy.asarray, batches(rng, (5, 5, 5, 5))))
    whole = step_of()
    for x in xs:
        whole(x)
    first, second = step_of(), step_of()
    for x in xs[:2]:
        first(x)
    second.model.flat_parameters[...] = first.model.flat_parameters
    second.optimizer.state.update({n: a.copy() for n, a in first.optimizer.state.items()})
    second.optimizer.steps = first.optimizer.steps
    for x in xs[2:]:
        second(x)
    found = engine.to_numpy(second.model.flat_parameters)
    assert found.tobytes() == engine.to_numpy(whole.model.flat_parameters).tobytes()


def test_training_images_are_kept_on_the_gpu_where_they_fit(cupy, monkeypatch, noise) -> None:
    from convae.training import trainer

    model = convae.Autoencoder(noise.train.shape, LAYERS, device="gpu")
    kept = trainer.on_device(noise.train, model)
    order = np.random.default_rng(3).permutation(len(kept))
    pairs = zip(
        kept.batches(8, order, skip=1),
        noise.train.batches(8, order, skip=1),
        strict=True,
    )
    assert all(type(own) is cupy.ndarray and (own.get() == other).all() for own, other in pairs)
    monkeypatch.setattr(trainer, "MEMORY_PART", 1e-12)
    assert trainer.on_device(noise.train, model) is noise.train
    on_cpu = convae.Autoencoder(noise.train.shape, LAYERS)
    assert trainer.on_device(noise.train, on_cpu) is noise.train


@pytest.mark.parametrize("storage", [None, "bfloat16"])
def test_a_batch_in_parts(cupy, rng, storage: str | None) -> None:
    """The gradients of each part by the program, the update by array code."""
    xs = list(map(cupy.asarray, batches(rng)))
    found = []
    for engine_name, accumulate in (("portable", 1), ("fast", 2)):
        model = convae.Autoencoder((1, 6, 6), LAYERS, device="gpu", storage=storage)
        step = convae.TrainingStep(
            model, AdamW(0.01), 0.1, gpu_engine=engine_name, accumulate=accumulate
        )
        found.append([float(step(x)) for x in xs])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5 if storage is None else 2e-2)

"""How good a model is: its loss, and how alike images and their reconstructions are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from convae.data.corruption import CLEAN, Corruption, Use
from convae.data.pictures import to_floats
from convae.data.splits import Split, own_batches
from convae.engine import Array
from convae.models.model import Model
from convae.processes import ALONE, Group
from convae.report.quality import Quality

Evaluate: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""``evaluate(x, target)`` returns the loss and the reconstructions."""


@dataclass(frozen=True)
class Errors:
    """Reconstruction errors against clean images.

    Parameters
    ----------
    loss : float
        The model's own loss, a mean over all elements.
    mse : float
        The mean squared error, in units of the range [0, 1] squared.
    input_mse : float
        The same of the model's input: 0 without corruption.
    """

    loss: float
    mse: float
    input_mse: float


def measure(
    model: Model,
    split: Split,
    batch_size: int,
    use: Use = Use.TEST,
    corruption: Corruption = CLEAN,
    evaluate: Evaluate | None = None,
    group: Group = ALONE,
) -> Errors:
    """Measure a model on all images of a split, as means; `use` and `corruption` give the noise.

    `evaluate` does what the model's `evaluate` does, by default that itself. The processes of a
    group share each batch.
    """
    sums: list[Any] = [0.0, 0.0, 0.0]  # on the device, which is not waited for
    for x, given, examples in _batches(model, split, batch_size, use, corruption, group):
        J, R = (evaluate or model.evaluate)(given, x)
        squares = [((image - x) ** 2).mean(dtype="float64") for image in (R, given)]
        sums = [total + examples * mean for total, mean in zip(sums, (J, *squares), strict=True)]
    return Errors(*(total / len(split) for total in group.sum(sums)))


def measure_quality(
    model: Model,
    split: Split,
    batch_size: int,
    use: Use = Use.TEST,
    corruption: Corruption = CLEAN,
    group: Group = ALONE,
) -> dict[str, float]:
    """Measure what a run reports of a model, on all images of a split.

    Returns ``test_loss``, ``test_mse``, ``test_psnr``, ``test_ssim`` and ``input_mse``; with noise
    also ``input_psnr`` and ``input_ssim``. See `convae.report.quality.Quality`. The processes of a
    group share each batch.
    """
    loss, of_output, of_input = 0.0, Quality(), Quality()
    for x, given, examples in _batches(model, split, batch_size, use, corruption, group):
        J, R = model.evaluate(given, x)
        loss += float(J) * examples / len(split)
        of_output.add(x[:examples], R[:examples])
        if corruption:
            of_input.add(x[:examples], given[:examples])
    noisy = of_input.figures("input", group) if corruption else {"input_mse": 0.0}
    (loss,) = group.sum([loss])
    return {"test_loss": loss, **of_output.figures("test", group), **noisy}


def _batches(
    model: Model,
    split: Split,
    batch_size: int,
    use: Use,
    corruption: Corruption,
    group: Group = ALONE,
) -> Iterator[tuple[Array, Array, int]]:
    """Iterate over images, what the model is given of them, and how many count."""
    for index, batch in enumerate(own_batches(split, batch_size, group)):
        x = to_floats(batch.pixels, model.backend, model.dtype)
        yield x, corruption(x, use, index, batch.share), batch.share.count

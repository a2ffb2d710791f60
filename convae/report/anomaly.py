"""Anomalies: a model, what normal images are like, and how unlike them others are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convae.data.pictures import to_floats
from convae.data.splits import Split, groups_of, sample
from convae.engine import Array, to_numpy
from convae.errors import UserError, check_choice, check_range
from convae.models.model import Model
from convae.report.scores import SCORES, Normal, Seen, logarithms

DEFAULT = "combined"
"""The score that is used where none is named."""

WITHOUT_NORMAL = "squared_error"
"""The same for a model that no run has trained."""

IMAGES = 10_000
"""Training images, at most, by which it is known what is normal."""

LONGEST = 512
"""Numbers of a code whose whole covariance is estimated; of longer ones the leading directions."""

DIRECTIONS = 128
"""So many of them."""

PEAKS = 1000
"""Validation images, at most, whose maps' highest values are averaged."""

HOTTEST = 4.0
"""So many times their mean is white in pictures of maps."""

MOST_QUANTILES = 1001
"""Numbers that sum up the scores of a split, at most."""

Floats = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Detector:
    """Scores images by a model that was trained on normal ones.

    Parameters
    ----------
    model : Model
        The model.
    normal : Normal, optional
        What normal images are like; without, some scores cannot be computed.
    validation : dict
        For each score quantiles of those of validation images, as `quantiles` sums them up.
    peaks : dict
        For each score the highest value in the map of a validation image, (1,): their mean.
    """

    model: Model
    normal: Normal | None = None
    validation: dict[str, Floats] = field(default_factory=dict)
    peaks: dict[str, Floats] = field(default_factory=dict)

    @classmethod
    def fit(cls, model: Model, train: Split, validation: Split, batch_size: int) -> Detector:
        """Learn what normal images are like, and how large the scores of held-out ones are."""
        some = sample(train, IMAGES)
        codes, total = [], np.zeros(train.shape)
        for seen in cls(model)._seen(some, batch_size):
            codes.append(to_numpy(seen.H).reshape(len(seen.H), -1).astype(np.float64))
            total += to_numpy(seen.x.sum(axis=0, dtype="float64"))
        mean_image = (total / len(some)).astype(np.float32)
        normal = Normal(mean_image, *_whitening(np.concatenate(codes)))
        found = np.concatenate(
            [logarithms(seen) for seen in cls(model, normal)._seen(validation, batch_size)], axis=1
        )
        deviation = found.std(axis=1)
        known = np.stack([found.mean(axis=1), np.where(deviation > 0, deviation, 1)], axis=1)
        detector = cls(model, replace(normal, logarithms=known))
        scores = detector.scores(validation, batch_size, SCORES)
        summed = {name: quantiles(of_whole(validation, each)) for name, each in scores.items()}
        peaks = detector._peaks(sample(validation, PEAKS), batch_size)
        return replace(detector, validation=summed, peaks=peaks)

    def _peaks(self, split: Split, batch_size: int) -> dict[str, Floats]:
        """Average the highest values of the images' maps, for each score: -> (1,)."""
        maps = {score.map for score in SCORES.values()}  # which several scores share
        highest: dict[Any, list[Floats]] = {each: [] for each in maps}
        for seen in self._seen(split, batch_size):
            for each in maps:
                values = to_numpy(each(seen))
                highest[each].append(values.reshape(len(values), -1).max(axis=1))
        means = {
            each: np.concatenate(found).mean(keepdims=True).astype(np.float64)
            for each, found in highest.items()
        }
        return {name: means[score.map] for name, score in SCORES.items()}

    @classmethod
    def of_model(cls, model: Model) -> Detector:
        """Take what a run has learnt of normal images from its model's file."""
        extras = model.extras
        if not extras:
            return cls(model)
        length = int(np.prod(model.code_shape))
        try:
            normal = Normal(**{name: extras[name] for name in Normal.__annotations__})
            validation = {name: extras[f"validation.{name}"] for name in SCORES}
            peaks = {name: extras[f"peak.{name}"] for name in SCORES}
        except KeyError as error:
            raise UserError(f"the model's file does not say what is normal: {error}") from None
        shapes = (
            normal.mean_image.shape == model.input_shape,
            normal.mean_code.shape == (length,),
            normal.whitening.shape[:1] == (length,) and normal.whitening.ndim == 2,
            normal.logarithms.shape == (2, 2),
            *(values.ndim == 1 and values.size for values in validation.values()),
            *(values.shape == (1,) for values in peaks.values()),
        )
        numbers = (*vars(normal).values(), *validation.values(), *peaks.values())
        if not all(shapes) or not all(np.isfinite(array).all() for array in numbers):
            raise UserError("the model's file says wrongly what is normal: shapes or values")
        return cls(model, normal, validation, peaks)

    def extras(self) -> dict[str, Floats]:
        """Return the arrays that a model's file keeps of this."""
        assert self.normal is not None
        named = {"validation": self.validation, "peak": self.peaks}
        return vars(self.normal) | {
            f"{kind}.{name}": array for kind, of in named.items() for name, array in of.items()
        }

    def top(self, name: str, unusual: Floats) -> float:
        """Return the value that is white in pictures of maps: far above what is normal.

        Where it is not known what is normal, it is the largest of these maps.
        """
        known = self.peaks.get(name)
        top = float(unusual.max() if known is None else HOTTEST * known[0])
        return top if top > 0 else 1.0

    def choose(self, name: str | None) -> str:
        """Return the name of a score that can be computed; by default the model's own."""
        known = self.model.metadata.get("score") or (DEFAULT if self.normal else WITHOUT_NORMAL)
        chosen = name or known
        check_choice("score", chosen, SCORES)
        if SCORES[chosen].needs_normal and self.normal is None:
            raise UserError(
                f"score: {chosen!r} needs to know what is normal, as the best model of a finished "
                f"run does; with this one choose among "
                f"{', '.join(n for n, score in SCORES.items() if not score.needs_normal)}"
            )
        return str(chosen)

    def threshold(self, name: str, quantile: float) -> float:
        """Return a quantile of the validation images' scores."""
        if name not in self.validation:
            raise UserError(
                "--quantile: the model keeps no scores of validation images; the best model of a "
                "finished run does, of this version. Give --threshold instead"
            )
        return float(np.quantile(self.validation[name], quantile))

    def own_threshold(self, name: str) -> float | None:
        """Return the threshold that the model's file has for a score, if it has one."""
        known = self.model.metadata.get("thresholds")
        if not isinstance(known, dict) or known.get(name) is None:
            return None
        check_range(f"the model's threshold for {name}", known[name])
        return float(known[name])

    def see(self, x: Array) -> Seen:
        """Pass a batch of images through the model."""
        H, R = self.model.codes_and_reconstructions(x)
        return Seen(x, R, H, self.normal)

    def _seen(self, split: Split, batch_size: int) -> Iterator[Seen]:
        """Pass all images of a split through the model."""
        for pixels in split.batches(batch_size):
            yield self.see(to_floats(pixels, self.model.backend, self.model.dtype))

    def scores(self, split: Split, batch_size: int, names: Iterable[str]) -> dict[str, Floats]:
        """Compute scores of all images of a split: -> (N,) of float64 each."""
        names = list(names)
        parts: dict[str, list[Floats]] = {name: [] for name in names}
        for seen in self._seen(split, batch_size):
            for name in names:
                parts[name].append(SCORES[name].function(seen))
        return {name: np.concatenate(values) for name, values in parts.items()}

    def maps(self, split: Split, batch_size: int, name: str) -> Iterator[Floats]:
        """Iterate over batches of maps of where images are unusual: (N, *size) each."""
        for seen in self._seen(split, batch_size):
            yield to_numpy(SCORES[name].map(seen))


def of_whole(split: Split, scores: Floats) -> Floats:
    """Return pictures' scores from those of a split's images: of tiles the highest."""
    groups = groups_of(split)
    if groups is None:
        return scores
    _, which = np.unique(groups, return_inverse=True)
    highest = np.full(which.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, which, scores)
    return highest


def _whitening(codes: Floats) -> tuple[Floats, Floats]:
    """Estimate the codes' mean and what whitens them: (N, L) -> (L,), (L, M)."""
    if codes.shape[1] <= LONGEST:
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(codes)
        precision = fitted.precision_
        values, vectors = np.linalg.eigh((precision + precision.T) / 2)
        whitening = vectors * np.sqrt(np.clip(values, 0, None))
        return fitted.location_.astype(np.float32), whitening.astype(np.float32)
    from sklearn.decomposition import PCA

    pca = PCA(min(DIRECTIONS, *codes.shape), random_state=0).fit(codes)
    spread = np.sqrt(pca.explained_variance_)
    kept = spread > spread.max(initial=0) * 1e-6
    whitening = pca.components_[kept].T / spread[kept]
    return pca.mean_.astype(np.float32), whitening.astype(np.float32)


def quantiles(scores: Floats) -> Floats:
    """Sum up scores (N,) by evenly spaced quantiles, from the least to the largest.

    Up to `MOST_QUANTILES` they are the scores themselves, in order.
    """
    places = np.linspace(0, 1, min(len(scores), MOST_QUANTILES))
    summed: Floats = np.quantile(scores, places)
    return summed


def judge(scores: Floats, anomalous: Floats, threshold: float) -> dict[str, float]:
    """Compare scores (N,), higher for anomalies, with the truth (N,) of bool.

    Returns ``auroc`` and ``auprc``, the areas under the curves of true over false positives and of
    precision over recall, which depend on no threshold; ``detected`` and ``false_alarms``, the
    fractions of anomalies and of normal images whose score exceeds the threshold.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    if anomalous.all() or not anomalous.any():
        raise UserError("dataset.normal: the test images are all normal, or all anomalous")
    return {
        "auroc": float(roc_auc_score(anomalous, scores)),
        "auprc": float(average_precision_score(anomalous, scores)),
        "detected": float((scores[anomalous] > threshold).mean()),
        "false_alarms": float((scores[~anomalous] > threshold).mean()),
    }

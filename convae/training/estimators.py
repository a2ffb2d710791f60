"""Autoencoders as estimators of scikit-learn: what is unusual, and codes as features.

What is not given is chosen from the data as a run chooses it (`convae.training.choices`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, prod
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from tqdm import tqdm

from convae.configuration import (
    SCORES,
    Config,
    LayerConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainerConfig,
)
from convae.data.splits import InMemory, Splits, shuffled
from convae.engine import backend_for, to_numpy
from convae.engine.geometry import per_axis
from convae.errors import UserError, UserTypeError, check_choice, check_range, counted
from convae.models.autoencoder import Autoencoder
from convae.models.specification import Layer
from convae.report.anomaly import DEFAULT, Detector
from convae.report.probe import encode_all
from convae.training.build import build_model, build_parts, build_step
from convae.training.choices import choose
from convae.training.start import start

Floats: TypeAlias = np.ndarray[Any, Any]

BATCH = 256
"""Examples that are encoded or reconstructed at a time."""

FARTHEST = 1e9
"""Distance from the training data, in their range, at which values could overflow."""

ROUNDING = 1e-5
"""Part of a score, or of 1, by which another order of sums may change it."""


class _Fitted(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What both estimators share: data as examples in [0, 1], and a model fitted to them."""

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        layers: Sequence[Layer] | None = None,
        code: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        validation: float = 0.2,
        device: str = "auto",
        verbose: bool = False,
        random_state: Any = 0,
    ) -> None:
        self.shape = shape
        self.layers = layers
        self.code = code
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation = validation
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Leave everything as it was if fitting fails, or is interrupted."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _fit(self, X: Any) -> tuple[InMemory, InMemory]:
        """Fit a model; returns what it was trained on and what was held out, as it takes them."""
        check_range("validation", self.validation, over=0, below=1)
        for name in ("epochs", "batch_size", "learning_rate"):
            if (value := getattr(self, name)) is not None:
                check_range(name, value, over=0, integer=name != "learning_rate")
        if not isinstance(self.device, str):
            raise UserTypeError(f"device: {self.device!r} is not 'cpu', 'gpu' or 'auto'")
        if self.layers is not None and not (isinstance(self.layers, Sequence) and self.layers):
            raise UserTypeError(f"layers: {self.layers!r} is not a list of convae Layers, or None")
        for layer in self.layers or ():
            if not isinstance(layer, Layer):
                raise UserTypeError(f"layers: {layer!r} is not a convae Layer")
        X = self._examples(X, is_first=True)
        self.low_ = float(X.min())
        self.range_ = float(X.max()) - self.low_ or 1.0
        if not np.isfinite(self.range_):
            raise UserError("X: its values are too far apart; scale them first")
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        x, order = self._scaled(X), rng.permutation(len(X))
        count = min(max(1, round(self.validation * len(x))), len(x) - 1)
        train, held_out = InMemory(x[order[count:]]), InMemory(x[order[:count]])
        self.model_ = self._trained(train, held_out, rng)
        return train, held_out

    def _trained(
        self, train: InMemory, held_out: InMemory, rng: np.random.Generator
    ) -> Autoencoder:
        """Train a model; the epoch with the lowest error of what was held out is kept."""
        layers = [LayerConfig(**dataclasses.asdict(layer)) for layer in self.layers or ()]
        config = Config(
            model=ModelConfig(layers, None),
            optimizer=OptimizerConfig("adamw", self.learning_rate),
            schedule=ScheduleConfig("cosine"),
            loss=LossConfig("mse"),
            trainer=TrainerConfig(self.epochs, self.batch_size),
            code=self.code,
            seed=int(rng.integers(2**31)),
            device=self.device,
        )
        data = Splits("X", train, held_out, held_out)
        config = choose(config, data).config
        parts = build_parts(config)
        model = build_model(config, train.shape)
        assert isinstance(model, Autoencoder)
        start(model, config, data)
        step = build_step(config, model, parts)
        epochs, size, patience = (
            getattr(config.trainer, name) for name in ("epochs", "batch_size", "patience")
        )
        rate, per_epoch = parts.optimizer.learning_rate, -(-len(train) // size)
        best, since, done = inf, 0, 0
        kept = model.flat_parameters.copy()
        with tqdm(range(epochs), unit=" epochs", disable=not self.verbose) as bar:
            for _ in bar:
                for x in train.batches(size, shuffled(train, rng)):
                    factor = parts.schedule.factor(done, epochs * per_epoch, per_epoch)
                    parts.optimizer.learning_rate = rate * factor
                    step(model.xp.asarray(x))
                    done += 1
                error = float(_scores(Detector(model), held_out, "squared_error").mean())
                bar.set_postfix_str(f"error {error:.5f}", refresh=False)
                since += 1
                if error < best:
                    best, since, kept = error, 0, model.flat_parameters.copy()
                if since == patience:
                    break
        model.flat_parameters[...] = kept
        return model

    def _examples(self, X: Any, is_first: bool = False) -> Floats:
        """Check X (N, features) or (N, C, *size): -> (N, C, *size)."""
        X = validate_data(
            self, X, reset=is_first, allow_nd=True, dtype=(np.float64, np.float32),
            ensure_min_samples=2 if is_first else 1,
        )  # fmt: skip
        if is_first:
            shape = X.shape[1:] if X.ndim > 2 else (1, *X.shape[1:])
            if self.shape is not None:
                given = np.asarray(self.shape).tolist()
                if not given:
                    raise UserError("shape: is empty; expected (channels, *positions)")
                shape = per_axis("shape", given, len(given) if isinstance(given, list) else 1)
            elif X.ndim == 4 and X.shape[3] in (1, 3) and X.shape[1] not in (1, 3):
                raise UserError(
                    f"X: {X.shape} looks like pictures with channels last; expected (N, C, *size). "
                    f"Transpose it, as in X.transpose(0, 3, 1, 2), or give shape={shape}"
                )
            if prod(shape) != prod(X.shape[1:]):
                raise UserError(
                    f"shape: {shape} has {counted(prod(shape), 'number')}, and an example of X "
                    f"{prod(X.shape[1:]):,}; expected (channels, *positions) of an example"
                )
            self.shape_, self.given_ = shape, X.shape[1:]
        elif X.shape[1:] != self.given_:
            raise UserError(f"X: examples are {X.shape[1:]}; fit was given {self.given_}")
        examples: Floats = X.reshape(len(X), *self.shape_)
        return examples

    def _scaled(self, X: Floats) -> Floats:
        """Scale by the range of the training data, to [0, 1] within it."""
        scaled: Floats = (X - self.low_) / self.range_
        if not np.abs(scaled).max() < FARTHEST:
            far = X.flat[int(np.abs(scaled).argmax())]
            raise UserError(
                f"X: the value {far:.4g} is too far from those of the training data, "
                f"{self.low_:.4g} to {self.low_ + self.range_:.4g}, to be computed with"
            )
        return scaled.astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle keeps: of the model its configuration and parameters."""
        state: dict[str, Any] = dict(super().__getstate__())
        if (model := state.get("model_")) is not None:
            parameters = to_numpy(model.flat_parameters)
            state["model_"] = model.configuration(), parameters, model.extras
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore it, the model on the device that `device` names here."""
        super().__setstate__(state)
        if "model_" in state:
            configuration, parameters, extras = state["model_"]
            model = Autoencoder(**configuration, backend=backend_for(self.device))
            model.flat_parameters[...] = model.xp.asarray(parameters)
            model.extras = extras
            self.model_ = model


def _scores(detector: Detector, examples: InMemory, name: str) -> Floats:
    """Compute one score of each example: -> (N,) of float64."""
    return detector.scores(examples, BATCH, [name])[name]


class AnomalyDetector(OutlierMixin, _Fitted):  # type: ignore[misc]
    """Tell what is unlike the training data, by an autoencoder's reconstructions and codes.

    Fit it to normal examples only. A part of them is held out: it decides which epoch's model is
    kept, and a quantile of its scores is the threshold.

    Parameters
    ----------
    shape : (C, *size) sequence of int, optional
        Shape of one example, channels first, where X has a row of numbers for each; 1 to 3 axes
        of positions. By default such a row is a signal of one channel.
    layers : sequence of Layer, optional
        The model; by default `convae.choose_layers` chooses.
    code : int, optional
        Numbers in a code, where the layers are chosen.
    epochs, batch_size : int, optional
        By default enough epochs for some 3,000 steps, fewer if the error of what is held out has
        stopped falling.
    learning_rate : float, optional
        Of AdamW, falling along a cosine.
    validation : float
        Fraction of X that is held out.
    device : {"cpu", "gpu", "auto"}
        Where the model lives; "auto" takes a GPU if one works.
    verbose : bool
        Whether to show a progress bar.
    random_state : int, RandomState or None
        Decides the division, the order of batches and what is drawn.
    quantile : float
        Fraction of held-out examples that are taken for normal.
    criterion : {"combined", "squared_error", "ssim", "ms_ssim", "gradient", "peak", "relative", \
"mahalanobis"}
        How unusual an example is: see `convae.report.scores`.

    Attributes
    ----------
    model_ : Autoencoder
        The model; X is scaled to [0, 1] by the training data's range for it.
    offset_ : float
        Minus the threshold on the score.
    criterion_ : str
        That with which it was fitted, which decides.
    low_, range_ : float
        The least value of the training data, and its distance to the largest.
    n_features_in_ : int
        Length of X's second axis.

    Examples
    --------
    >>> import numpy as np, convae
    >>> t = np.linspace(0, 6.28, 64)
    >>> phases = np.random.default_rng(0).uniform(0, 6.28, (200, 1))
    >>> detector = convae.AnomalyDetector(epochs=5).fit(np.sin(t + phases))
    >>> detector.predict(np.stack([np.sin(t + 1), np.sign(np.sin(5 * t))]))
    array([ 1, -1])
    """

    def __init__(
        self,
        shape: Sequence[int] | None = None,
        layers: Sequence[Layer] | None = None,
        code: int | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        validation: float = 0.2,
        device: str = "auto",
        verbose: bool = False,
        random_state: Any = 0,
        quantile: float = 0.99,
        criterion: str = DEFAULT,
    ) -> None:
        super().__init__(
            shape, layers, code, epochs, batch_size, learning_rate, validation, device, verbose,
            random_state,
        )  # fmt: skip
        self.quantile = quantile
        self.criterion = criterion

    def fit(self, X: Any, y: Any = None) -> AnomalyDetector:
        """Fit a model and the threshold to normal examples.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            At least two examples; finite numbers.
        y : ignored
            Estimators of scikit-learn take it.

        Returns
        -------
        AnomalyDetector
            Itself.

        Raises
        ------
        UserTypeError, UserError, ValueError
            If an argument or X is out of range, or does not fit.
        """
        check_range("quantile", self.quantile, over=0, at_most=1)
        check_choice("criterion", self.criterion, SCORES)
        with self._fitting():
            train, held_out = self._fit(X)
            detector = Detector.fit(self.model_, train, held_out, BATCH)
            self.model_.extras = detector.extras()
            scores = _scores(detector, held_out, self.criterion)
        highest = float(np.quantile(scores, self.quantile, method="higher"))
        # an example that sets the threshold is normal, in whatever batch it comes again
        self.offset_ = -(highest + ROUNDING * (1 + abs(highest)))
        self.criterion_ = self.criterion
        return self

    def score_samples(self, X: Any) -> Floats:
        """Score examples; lower scores are more unusual.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            Examples of the shape that `fit` was given.

        Returns
        -------
        (N,) ndarray
            Minus the score that `criterion` names, of values scaled to [0, 1].
        """
        check_is_fitted(self)
        examples = InMemory(self._scaled(self._examples(X)))
        return -_scores(Detector.of_model(self.model_), examples, self.criterion_)

    def decision_function(self, X: Any) -> Floats:
        """Compare the scores with the threshold.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            Examples of the shape that `fit` was given.

        Returns
        -------
        (N,) ndarray
            How far each example is on the normal side; negative for an anomaly.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Decide which examples are normal.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            Examples of the shape that `fit` was given.

        Returns
        -------
        (N,) ndarray of int
            1 for a normal example, -1 for an anomaly.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)


class AutoencoderTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Fitted):  # type: ignore[misc]
    """Codes of an autoencoder as features, and reconstructions of codes.

    Parameters
    ----------
    shape, layers, code, epochs, batch_size, learning_rate
        As those of `AnomalyDetector`.
    validation, device, verbose, random_state
        As those of `AnomalyDetector`.

    Attributes
    ----------
    model_ : Autoencoder
        The model; X is scaled to [0, 1] by the training data's range for it.
    low_, range_ : float
        The least value of the training data, and its distance to the largest.
    n_features_in_ : int
        Length of X's second axis.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> import convae
    >>> X = load_digits().data  # (1797, 64), pictures of 8x8
    >>> transformer = convae.AutoencoderTransformer((1, 8, 8), code=10, epochs=2).fit(X)
    >>> transformer.transform(X).shape
    (1797, 10)
    """

    def fit(self, X: Any, y: Any = None) -> AutoencoderTransformer:
        """Fit a model.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            At least two examples; finite numbers.
        y : ignored
            Estimators of scikit-learn take it.

        Returns
        -------
        AutoencoderTransformer
            Itself.

        Raises
        ------
        UserTypeError, UserError, ValueError
            If an argument or X is out of range, or does not fit.
        """
        with self._fitting():
            self._fit(X)
        return self

    def transform(self, X: Any) -> Floats:
        """Encode examples.

        Parameters
        ----------
        X : (N, features) or (N, C, *size) array-like
            Examples of the shape that `fit` was given.

        Returns
        -------
        (N, numbers of a code) ndarray of float32
            The codes.
        """
        check_is_fitted(self)
        return encode_all(self.model_, InMemory(self._scaled(self._examples(X))), BATCH)

    def inverse_transform(self, X: Any) -> Floats:
        """Decode codes.

        Parameters
        ----------
        X : (N, numbers of a code) array-like
            Codes, such as those that `transform` returns.

        Returns
        -------
        (N, features) or (N, C, *size) ndarray of float64
            Reconstructions, in the shape and range of the data that `fit` was given.

        Raises
        ------
        UserError
            If the codes have another length.
        """
        check_is_fitted(self)
        codes, model = check_array(X, dtype=np.float32), self.model_
        if codes.shape[1] != self._n_features_out:
            numbers = counted(self._n_features_out, "number")
            raise UserError(f"X: codes of {codes.shape[1]:,} numbers; expected {numbers}")
        codes = codes.reshape(len(codes), *model.code_shape)
        R = [
            to_numpy(model.decode(model.xp.asarray(part)))
            for part in InMemory(codes).batches(BATCH)
        ]
        examples: Floats = np.concatenate(R).reshape(len(codes), *self.given_)
        return examples.astype(np.float64) * self.range_ + self.low_

    @property
    def _n_features_out(self) -> int:
        return prod(self.model_.code_shape)

    def __sklearn_tags__(self) -> Tags:
        """Say that codes are float32 whatever the type of X."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

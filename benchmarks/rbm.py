"""A restricted Boltzmann machine beside scikit-learn's: python -m benchmarks.rbm.

Both have 64 hidden units, see the same digits in as many epochs of batches of 32, and are judged by
the same function: the pseudo-likelihood of test images, exact, over all units.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM

import convae
from benchmarks.measure import keep, table

Rows = np.ndarray[Any, np.dtype[np.float32]]
FreeEnergy = Callable[[Rows], np.ndarray[Any, Any]]

HIDDEN, EPOCHS, BATCH, TRAINING, SEEDS = 64, 100, 32, 1500, 5

RATES = (0.01, 0.03, 0.1, 0.3)
"""Learning rates of scikit-learn's; each has a row."""


def main() -> None:
    """Train all, and save the table."""
    contestants: dict[str, Callable[[Rows, int], FreeEnergy]] = {
        **{f"BernoulliRBM, PCD, learning_rate={rate}": theirs(rate) for rate in RATES},
        "convae, CD-1, Adam at 0.01": ours(0),
        "convae, PCD with 32 chains, Adam at 0.01": ours(BATCH),
    }
    rows = []
    for name, train in contestants.items():
        found, seconds = [], []
        for seed in range(SEEDS):
            X = (load_digits().data / 16).astype(np.float32)
            X = X[np.random.default_rng(seed).permutation(len(X))]
            start = time.perf_counter()
            free_energy = train(X[:TRAINING], seed)
            seconds.append(time.perf_counter() - start)
            found.append(pseudo_likelihood(free_energy, X[TRAINING:]))
        values = f"{statistics.mean(found):.4f} ± {statistics.stdev(found):.4f}"
        rows.append([name, values, f"{statistics.mean(seconds):.1f}"])
    text = (
        f"Digits, {HIDDEN} hidden units, {EPOCHS} epochs, {SEEDS} seeds, each another division "
        f"of the images; scikit-learn {sklearn.__version__}. Pseudo-likelihood in nats per unit of "
        "test images: the higher, the better.\n\n"
    )
    command = " ".join(["python -m benchmarks.rbm", *sys.argv[1:]])
    keep("rbm", command, text + table(["machine", "pseudo-likelihood", "seconds"], rows))


def theirs(rate: float) -> Callable[[Rows, int], FreeEnergy]:
    """Return what trains scikit-learn's."""

    def train(X: Rows, seed: int) -> FreeEnergy:
        machine = BernoulliRBM(
            HIDDEN, learning_rate=rate, batch_size=BATCH, n_iter=EPOCHS, random_state=seed
        ).fit(X)
        return lambda V: np.asarray(machine._free_energy(V))

    return train


def ours(chains: int) -> Callable[[Rows, int], FreeEnergy]:
    """Return what trains ours."""
    layer = {
        "filters": HIDDEN,
        "kernel": "input",
        "activation": "sigmoid",
        "visible_bias": "position",
    }

    def train(X: Rows, seed: int) -> FreeEnergy:
        model = convae.RBM((1, 8, 8), [layer], chains=chains, seed=seed)
        x = X.reshape(-1, 1, 8, 8)
        model.start_from(x)
        step = convae.TrainingStep(model, convae.Adam(learning_rate=0.01))
        rng = np.random.default_rng(seed)
        for epoch in range(EPOCHS):
            step.optimizer.learning_rate = 0.01 * (1 - epoch / EPOCHS)
            order = rng.permutation(len(x))
            for first in range(0, len(x), BATCH):
                step(x[order[first : first + BATCH]])
        return lambda V: np.asarray(model.free_energy(V.reshape(-1, 1, 8, 8)))

    return train


def pseudo_likelihood(free_energy: FreeEnergy, V: Rows) -> float:
    """Average log P(v | the other units) over all units of all examples."""
    F, total = free_energy(V), 0.0
    for unit in range(V.shape[1]):
        other = V.copy()
        other[:, unit] = 1 - other[:, unit]
        total -= float(np.logaddexp(0, F - free_energy(other)).mean())
    return total / V.shape[1]


if __name__ == "__main__":
    main()

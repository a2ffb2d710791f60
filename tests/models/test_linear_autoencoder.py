"""A linear autoencoder with tied weights is PCA (Baldi and Hornik 1989)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import subspace_angles
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import convae


@pytest.mark.parametrize("code", [5, 16])
def test_it_learns_what_pca_computes(code: int) -> None:
    """From random kernels: no largest angle between the subspaces, and no larger error."""
    rows = load_digits().data / 16
    rows -= rows.mean(axis=0)
    x = rows.reshape(-1, 1, 8, 8)
    plain = {"activation": "identity", "hidden_bias": "none", "visible_bias": "none"}
    model = convae.Autoencoder(
        (1, 8, 8),
        [convae.Layer(filters=code, kernel="input", **plain)],
        output_activation="identity",
        dtype="float64",
    )
    largest = np.linalg.norm(rows, 2) ** 2 / len(rows)
    optimizer = convae.SGD(learning_rate=6 / largest, momentum=0.95, nesterov=True)
    step = convae.TrainingStep(model, optimizer)
    for _ in range(1000):
        step(x)
    pca = PCA(code).fit(rows)
    filters = model.parameters["0.kernel"].reshape(code, -1)
    assert subspace_angles(filters.T, pca.components_.T).max() < 1e-2
    least = float(((pca.inverse_transform(pca.transform(rows)) - rows) ** 2).mean())
    assert float(model.evaluate(x)[0]) == pytest.approx(least, rel=5e-3)

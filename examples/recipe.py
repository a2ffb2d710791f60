"""The recipe of Deep Learning, section 9.5, on the three operations alone."""

import numpy as np
from sklearn.datasets import load_digits

from convae import engine

x = load_digits().images[:, None].astype("float32") / 16  # (1797, 1, 8, 8) in [0, 1]
rng = np.random.default_rng(0)
K = rng.normal(0, 0.1, (16, 1, 5, 5)).astype("float32")  # (O, C, *kernel)
b, a = np.zeros((16, 1, 1), "float32"), np.zeros((1, 1, 1), "float32")
how = {"stride": 2, "padding": "same"}

for epoch in range(20):
    order = rng.permutation(len(x))
    losses = []
    for batch in np.split(order[:1792], 28):  # 64 images
        V = x[batch]

        # encode and decode
        H = np.maximum(engine.c(K, V, **how) + b, 0)  # (64, 16, 4, 4)
        R = engine.h(K, H, size=8, **how) + a  # (64, 1, 8, 8)
        losses.append(((R - V) ** 2).mean())

        # the gradients: five calls
        E = 2 * (R - V) / V.size
        dK = engine.g(H, E, kernel=5, **how)  # the decoder's half
        dH = engine.c(K, E, **how)
        dZ = dH * (H > 0)
        dK += engine.g(dZ, V, kernel=5, **how)  # the encoder's half

        # gradient descent
        K -= 0.5 * dK
        b -= 0.5 * dZ.sum(axis=(0, 2, 3)).reshape(b.shape)
        a -= 0.5 * E.sum(axis=(0, 2, 3)).reshape(a.shape)
    print(f"epoch {epoch + 1:2}: mean squared error {np.mean(losses):.5f}")

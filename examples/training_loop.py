"""A training loop without Hydra: data, model, epochs, the best model kept."""

import numpy as np
from sklearn.datasets import load_digits

import convae

EPOCHS, BATCH = 20, 64

images = load_digits().images[:, None].astype("float32") / 16  # (1797, 1, 8, 8) in [0, 1]
rng = np.random.default_rng(0)
order = rng.permutation(len(images))
train, validation, test = np.split(images[order], [1440, 1618])

model = convae.Autoencoder(
    input_shape=train.shape[1:],
    layers=[
        convae.Layer(filters=32, kernel=3, padding="same"),
        convae.Layer(filters=64, kernel=3, stride=2, padding="same"),
        convae.Layer(filters=16, kernel="input", activation="identity"),
    ],
    device="auto",  # a GPU where one works
)
step = convae.TrainingStep(model, convae.Adam(learning_rate=2e-3))
print(model)


def error(x: np.ndarray) -> float:
    """Mean squared error of the reconstructions of a batch."""
    x = model.xp.asarray(x)
    return float(((model.reconstruct(x) - x) ** 2).mean())


best = float("inf")
for epoch in range(EPOCHS):
    shuffled = rng.permutation(len(train))
    for start in range(0, len(train), BATCH):
        x = model.xp.asarray(train[shuffled[start : start + BATCH]])
        loss = step(x)
    if (current := error(validation)) < best:
        best = current
        model.save("best.safetensors")
    print(f"epoch {epoch + 1:2}: training loss {float(loss):.5f}, validation {current:.5f}")

model = convae.load("best.safetensors", device=model.device)
print(f"test: {error(test):.5f} with a code of {model.code_size} numbers")

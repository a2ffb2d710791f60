"""The stacks that are benchmarked, as people train them; imports nothing from PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import convae
from convae import Layer
from convae.data.pictures import to_floats


class Workload(NamedTuple):
    """A stack and its batches.

    Parameters
    ----------
    batch : int
        Examples of a batch.
    shape : (C, rows, columns) tuple of int
        Shape of an example.
    layers : str
        From the image upwards, `filters@kernel/stride`, padded by (kernel - 1) // 2 on every side;
        a `v` behind it means no padding, and `p2` that outputs are pooled by windows of 2x2.
    source : str
        Where people find such a stack.
    """

    batch: int
    shape: tuple[int, int, int]
    layers: str
    source: str = ""

    @property
    def name(self) -> str:
        """What a table calls it."""
        return f"{'x'.join(map(str, self.shape))} b{self.batch}: {self.layers}"

    def build(self) -> convae.Autoencoder:
        """Make the model."""
        return convae.Autoencoder(self.shape, self.build_layers())

    def build_layers(self) -> list[Layer]:
        """Make the layers."""
        found = []
        for word in self.layers.split():
            layer, _, pool = word.partition("p")
            filters, _, rest = layer.removesuffix("v").partition("@")
            kernel, stride = map(int, rest.split("/"))
            padding = 0 if layer.endswith("v") else (kernel - 1) // 2
            how = {"stride": stride, "padding": padding, "pool": int(pool or 1)}
            found.append(Layer(int(filters), kernel, **how))
        return found


LONG = "16@3/2 32@3/2 64@3/2 128@3/2"

EVERYDAY = [
    Workload(1, (1, 28, 28), "32@3/2 64@3/2", "a picture at a time"),
    Workload(32, (1, 28, 28), "16@3/2 8@3/2 8@3/2", "Keras blog, Building autoencoders, strided"),
    Workload(64, (1, 28, 28), "32@4/2 64@4/2", "kernels that the stride divides: Odena 2016"),
    Workload(100, (1, 28, 28), "16@3/2 32@3/2 64@7/1v", "PyTorch tutorials' MNIST autoencoder"),
    Workload(128, (1, 28, 28), "32@3/2 64@3/2", "TensorFlow's CVAE tutorial"),
    Workload(512, (1, 28, 28), "32@5/2 64@3/2", "large batches of MNIST"),
    Workload(512, (1, 8, 8), "16@3/1 32@3/2", "scikit-learn's digits"),
    Workload(
        50, (2, 48, 48), "10@3/2 20@3/2 40@3/2", "two channels, widths that 16 does not divide"
    ),
    Workload(
        100, (3, 32, 32), "12@4/2 24@4/2 48@4/2", "PyTorch CIFAR-10 autoencoder of many copies"
    ),
    Workload(64, (3, 32, 32), "32@3/1 64@3/2 128@3/2", "a first layer at full size"),
    Workload(64, (1, 64, 64), "32@4/2 32@4/2 32@4/2 32@4/2", "Burgess 2018, beta-VAE on dSprites"),
    Workload(32, (3, 64, 64), "32@4/2v 64@4/2v 128@4/2v 256@4/2v", "Ha 2018, World Models"),
    Workload(16, (3, 64, 64), "64@4/2 128@4/2 256@4/2", "Radford 2015, DCGAN's discriminator"),
    Workload(8, (3, 64, 64), "32@3/2 64@3/2", "small batches of thumbnails"),
    Workload(32, (3, 96, 96), LONG, "STL-10"),
    Workload(
        16, (1, 128, 128), "32@4/2 32@4/2 64@4/2 128@4/2", "Bergmann 2018, textures of MVTec AD"
    ),
    Workload(16, (3, 128, 128), LONG, "photographs"),
    Workload(8, (3, 128, 128), "32@4/2 64@4/2 128@4/2 256@4/2", "Larsen 2015, faces"),
    Workload(4, (3, 224, 224), "32@7/4 64@3/2 128@3/2", "ImageNet's size"),
    Workload(2, (3, 256, 256), LONG, "MVTec AD's usual size"),
]

POOLED = [
    Workload(128, (1, 28, 28), "16@3/1p2 8@3/1p2", "Keras blog, Building autoencoders, pooled"),
    Workload(64, (1, 28, 28), "100@5/1vp2 150@5/1vp2 200@3/1v", "Masci 2011, stacked autoencoders"),
    Workload(100, (3, 32, 32), "32@3/1p2 64@3/1p2 128@3/1p2", "CIFAR-10 tutorials, pooled"),
    Workload(16, (3, 96, 96), "16@5/1p2 32@3/1p2 64@3/1p2", "STL-10, pooled"),
    Workload(4, (3, 224, 224), "32@3/1p2 64@3/1p2 128@3/1p2", "ImageNet's size, pooled"),
]

TUNED = [
    Workload(256, (1, 28, 28), "32@5/2 64@3/2", "what this engine was first tuned for"),
    Workload(128, (1, 28, 28), "32@5/1", "the same"),
    Workload(128, (3, 32, 32), "64@5/2 128@3/2", "the same"),
    Workload(128, (3, 32, 32), "64@5/2 64@3/1 64@3/1", "the same"),
    Workload(64, (3, 64, 64), "32@5/2 64@3/2 128@3/2", "the same"),
    Workload(64, (3, 64, 64), "32@5/2 64@5/2 128@5/2", "the same"),
]

TINY = Workload(128, (1, 8, 8), "4@3/2", "what every process computes before it is measured")

WORKLOADS = {workload.name: workload for workload in [*EVERYDAY, *POOLED, *TUNED]}


def build(workload: Workload) -> tuple[convae.Autoencoder, np.ndarray]:
    """Create a workload's model and batch."""
    model = workload.build()
    shape = (workload.batch, *workload.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return model, to_floats(pixels, model.backend, "float32")

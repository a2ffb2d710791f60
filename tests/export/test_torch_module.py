"""The PyTorch module, against the model's own results, for every kind of kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import convae
from tests.helpers import EXPORTED, exported_model
from tests.problems import layers, part_of_examples


@pytest.mark.parametrize("name", EXPORTED)
def test_the_pytorch_module_agrees(rng, name: str) -> None:
    model = exported_model(name)
    x = rng.random((5, *model.input_shape), dtype="float32")
    module = convae.to_torch(model)
    with torch.no_grad():
        code, R = module(torch.tensor(x))
    np.testing.assert_allclose(code, model.encode(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=0, atol=1e-6)
    assert list(module.state_dict()) == list(model.parameters)


@part_of_examples(0.2)
@given(data=st.data())
def test_the_pytorch_module_of_any_layer_agrees(data: st.DataObject) -> None:
    axes = data.draw(st.integers(1, 3))
    shape = (2, *(data.draw(st.integers(3, (12, 7, 4)[axes - 1])) for _ in range(axes)))
    layer = data.draw(layers(shape, data.draw(st.integers(1, 2))))
    model = convae.Autoencoder(shape, [layer], "identity", dtype="float64")
    rng = np.random.default_rng(0)
    model.flat_parameters[...] = rng.standard_normal(model.flat_parameters.size)
    x = rng.standard_normal((3, *shape))
    with torch.no_grad():
        code, R = convae.to_torch(model)(torch.tensor(x))
    np.testing.assert_allclose(code, model.encode(x), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(R, model.reconstruct(x), rtol=1e-9, atol=1e-9)


def test_the_modules_parameters_are_its_own_and_can_be_trained(rng) -> None:
    model = exported_model("tiled")
    before = model.flat_parameters.copy()
    module = convae.to_torch(model)
    x = torch.tensor(rng.random((5, *model.input_shape), dtype="float32"))
    optimizer = torch.optim.SGD(module.parameters(), 1.0)
    losses = []
    for _ in range(5):
        loss = torch.nn.functional.mse_loss(module(x)[1], x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.flat_parameters == before).all()

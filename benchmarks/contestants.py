"""Training steps and reconstructions of the same model, ours and PyTorch's, by workload.

Every function returns a call that trains or reconstructs once, and returns the loss, or a number of
the reconstructions. They are made in processes of their own, so PyTorch is imported where it is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import convae
from benchmarks.workloads import Workload, build


def our_step(workload: Workload) -> Callable[[], float]:
    """Train with Adam."""
    model, x = build(workload)
    step = convae.TrainingStep(model, convae.Adam(1e-3))
    return lambda: float(step(x))


def our_reconstruction(workload: Workload) -> Callable[[], float]:
    """Reconstruct."""
    model, x = build(workload)
    return lambda: float(model.reconstruct(x).flat[0])


def their_step(
    workload: Workload,
    channels_last: bool = False,
    is_compiled: bool = False,
    bfloat16: bool = False,
) -> Callable[[], float]:
    """Train with PyTorch; in bfloat16 where autocast thinks it right."""
    import torch

    peer, forward, images = _peer(workload, channels_last, is_compiled)
    optimizer = torch.optim.Adam(peer.parameters(), 1e-3, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.mse_loss(forward(images).float(), images)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def their_reconstruction(
    workload: Workload, channels_last: bool = False, is_compiled: bool = False
) -> Callable[[], float]:
    """Reconstruct with PyTorch."""
    import torch

    _, forward, images = _peer(workload, channels_last, is_compiled)

    def reconstruct() -> float:
        with torch.inference_mode():
            return float(forward(images)[0, 0, 0, 0])

    return reconstruct


def _peer(workload: Workload, channels_last: bool, is_compiled: bool) -> tuple[Any, Any, Any]:
    """Make PyTorch's model, what computes it, and a batch."""
    import torch

    from benchmarks.peers import Peer

    model, x = build(workload)
    form = torch.channels_last if channels_last else torch.contiguous_format
    peer = Peer(model).to(memory_format=form)
    images = torch.tensor(np.ascontiguousarray(x)).contiguous(memory_format=form)
    torch._dynamo.reset()  # otherwise it would compile for dynamic shapes
    return peer, torch.compile(peer) if is_compiled else peer, images


STEPS = {
    "convae": our_step,
    "eager": their_step,
    "channels_last": partial(their_step, channels_last=True),
    "compiled": partial(their_step, is_compiled=True),
    "bfloat16": partial(their_step, channels_last=True, bfloat16=True),
}
"""Who trains; bfloat16 is for information."""

RECONSTRUCTIONS = {
    "convae": our_reconstruction,
    "eager": their_reconstruction,
    "channels_last": partial(their_reconstruction, channels_last=True),
    "compiled": partial(their_reconstruction, is_compiled=True),
}
"""Who reconstructs."""

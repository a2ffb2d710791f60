"""Training steps and reconstructions of the same model, ours and PyTorch's, by workload.

Every function returns a call that trains or reconstructs once, and returns the loss, or the sum of
the reconstructions. They are made in processes of their own, so PyTorch is imported where it is
needed.
"""

from __future__ import annotations

from collections.abc import Callable

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


def eager_step(workload: Workload) -> Callable[[], float]:
    """Train with PyTorch as it is."""
    return _their_step(workload)


def channels_last_step(workload: Workload) -> Callable[[], float]:
    """Train with PyTorch, channels last."""
    return _their_step(workload, channels_last=True)


def compiled_step(workload: Workload) -> Callable[[], float]:
    """Train with PyTorch, compiled."""
    return _their_step(workload, is_compiled=True)


def bfloat16_step(workload: Workload) -> Callable[[], float]:
    """Train with PyTorch, channels last, in bfloat16 where autocast thinks it right."""
    return _their_step(workload, channels_last=True, bfloat16=True)


def eager_reconstruction(workload: Workload) -> Callable[[], float]:
    """Reconstruct with PyTorch as it is."""
    return _their_reconstruction(workload)


def channels_last_reconstruction(workload: Workload) -> Callable[[], float]:
    """Reconstruct with PyTorch, channels last."""
    return _their_reconstruction(workload, channels_last=True)


def compiled_reconstruction(workload: Workload) -> Callable[[], float]:
    """Reconstruct with PyTorch, compiled."""
    return _their_reconstruction(workload, is_compiled=True)


def _their_step(
    workload: Workload,
    channels_last: bool = False,
    is_compiled: bool = False,
    bfloat16: bool = False,
) -> Callable[[], float]:
    import torch

    from benchmarks.peers import Peer

    model, x = build(workload)
    form = torch.channels_last if channels_last else torch.contiguous_format
    peer = Peer(model).to(memory_format=form)
    images = torch.tensor(np.ascontiguousarray(x)).contiguous(memory_format=form)
    torch._dynamo.reset()  # otherwise it would compile for dynamic shapes
    forward = torch.compile(peer) if is_compiled else peer
    optimizer = torch.optim.Adam(peer.parameters(), 1e-3, fused=True)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.mse_loss(forward(images).float(), images)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _their_reconstruction(
    workload: Workload, channels_last: bool = False, is_compiled: bool = False
) -> Callable[[], float]:
    import torch

    from benchmarks.peers import Peer

    model, x = build(workload)
    form = torch.channels_last if channels_last else torch.contiguous_format
    peer = Peer(model).to(memory_format=form).eval()
    images = torch.tensor(np.ascontiguousarray(x)).contiguous(memory_format=form)
    torch._dynamo.reset()
    forward = torch.compile(peer) if is_compiled else peer

    def reconstruct() -> float:
        with torch.inference_mode():
            return float(forward(images)[0, 0, 0, 0])

    return reconstruct


STEPS = {
    "convae": our_step,
    "eager": eager_step,
    "channels_last": channels_last_step,
    "compiled": compiled_step,
    "bfloat16": bfloat16_step,
}
"""Who trains; bfloat16 is for information."""

RECONSTRUCTIONS = {
    "convae": our_reconstruction,
    "eager": eager_reconstruction,
    "channels_last": channels_last_reconstruction,
    "compiled": compiled_reconstruction,
}
"""Who reconstructs."""

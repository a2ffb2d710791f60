"""What the command ``convae gpu`` shows: the card, and the ways that were tried on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convae.engine import missing_gpu
from convae.errors import DeviceError
from convae.models.autoencoder import Autoencoder
from convae.models.gradient_program import GradientProgram
from convae.models.penalties import NONE

if TYPE_CHECKING:
    from convae.engine.gpu.verdicts import Verdict


def require_gpu() -> None:
    """Raise a DeviceError that says what is missing, where no GPU can be used."""
    if missing := missing_gpu():
        raise DeviceError(f"no GPU: {missing}")


def card_lines() -> Iterator[str]:
    """Describe the card and the software that reaches it, a line each."""
    import cupy

    from convae.engine.gpu import cudnn, verdicts

    device, runtime = cupy.cuda.Device(), cupy.cuda.runtime
    free, total = runtime.memGetInfo()
    yield f"card: {verdicts.card()}, compute capability {device.compute_capability}"
    yield f"memory: {total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of it free"
    own, driver = map(_version, (runtime.runtimeGetVersion(), runtime.driverGetVersion()))
    yield f"CUDA: {own}, driver for {driver}"
    yield f"CuPy: {cupy.__version__}"
    found = cudnn.version()
    yield f"cuDNN: {found if found else 'not found; pip install nvidia-cudnn-frontend brings it'}"


def _version(number: int) -> str:
    """Write a version of CUDA as people do."""
    return f"{number // 1000}.{number % 1000 // 10}"


def known_lines() -> Iterator[str]:
    """List every way that was tried on this card, and what was found."""
    from convae.engine.gpu.verdicts import cache_file, read_cache

    verdicts = read_cache()
    yield f"ways tried: {len(verdicts)}, kept in {cache_file()}"
    for key, verdict in sorted(verdicts.items()):
        yield f"  {key}: {_verdict(verdict)}"


def _verdict(verdict: Verdict) -> str:
    if verdict.refused or verdict.seconds is None:
        return f"refused: {verdict.refused}"
    return f"error {verdict.error:.1e}, {verdict.seconds * 1e6:.0f} us"


def step_lines(model: Autoencoder, examples: int) -> Iterator[str]:
    """Certify the ways of a model's step, and list its nodes with the ways chosen.

    Yields
    ------
    str
        A line for each node of loss and gradients: the operation, its way, error and time, and the
        ways that are not used.
    """
    from convae.engine.gpu.choice import Choice

    choice = Choice(model.backend)
    program = GradientProgram(model, examples, NONE, False).program
    chosen = choice(program)
    yield f"loss and gradients of {examples} images: {len(program.nodes)} nodes"
    total = 0.0
    for node in program.nodes:
        problem = program.problem(node)
        way = chosen(problem)
        tried = choice.verdicts(problem)
        own = tried.get(way.name)
        total += (own.seconds or 0.0) if own else 0.0
        yield f"  {problem.title}"
        yield f"    {way.name}{f': {_verdict(own)}' if own else ''}"
        for name, verdict in tried.items():
            if name != way.name:
                yield f"    not {name}: {_verdict(verdict)}"
    yield f"together: {total * 1e3:.3f} ms"

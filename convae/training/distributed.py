"""The processes that torchrun has started: torch.distributed carries what they have in common.

Gloo connects CPUs, and NCCL GPUs. Nothing here is imported by a process that is alone.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import pickle
import signal
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.utils.dlpack import from_dlpack

from convae.engine import Array, array_module, get_num_threads, set_num_threads
from convae.errors import UserError
from convae.processes import Group, PeerError, Value
from convae.version import __version__

MEETING = timedelta(seconds=20)
"""How long processes wait for each other at the start."""

PATIENCE = timedelta(hours=1)
"""How long they wait for each other later: as long as the first one may be busy alone."""

ALIGNMENT = 64
"""Bytes at a multiple of which arrays begin in a file."""

SHOWN = 80
"""Characters of a value that are shown, at most."""

ERROR = "error"
"""The store's key of the first process's message that fails."""

Result = TypeVar("Result")


def _of_peers(method: Callable[..., Result]) -> Callable[..., Result]:
    """Turn what torch.distributed raises when a process is gone into a `PeerError`."""

    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Result:
        try:
            return method(*arguments, **named)
        except RuntimeError as error:  # of which all of its own are
            raise PeerError(str(error).splitlines()[0]) from error

    return call


class Processes(Group):
    """Processes of torch.distributed's default group.

    Parameters
    ----------
    store : torch.distributed.Store
        What they all can read.
    """

    def __init__(self, store: Any) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._store = store
        self._buffer: Array = np.empty(0)
        self._is_code_known = False

    @_of_peers
    def combine(self, gradients: Array, loss: Any) -> Any:
        """See `Group`: gradients, the loss and whether to stop are one message."""
        xp, count = array_module(gradients), len(gradients)
        buffer = self._buffer
        if array_module(buffer) is not xp or (len(buffer), buffer.dtype) != (
            count + 2,
            gradients.dtype,
        ):
            buffer = self._buffer = xp.empty(count + 2, gradients.dtype)
        xp.multiply(gradients, self.weight, out=buffer[:count])
        buffer[count] = loss * self.weight
        buffer[count + 1] = bool(self.stopping)
        _add_up(buffer)
        gradients[...] = buffer[:count]
        if not self.stopping and float(buffer[count + 1]) > 0:
            self.stopping = signal.SIGTERM
        return buffer[count].astype("float64")

    @_of_peers
    def mean(self, array: Array) -> Array:
        """See `Group`."""
        total = array_module(array).ascontiguousarray(array * self.weight)
        _add_up(total)
        return total

    @_of_peers
    def sum(self, values: Sequence[float]) -> list[float]:
        """See `Group`."""
        total = torch.tensor([float(value) for value in values], dtype=torch.float64)
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    @_of_peers
    def gather(self, values: list[Value]) -> list[Value]:
        """See `Group`."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, values if self.weight else [])
        return [value for some in found for value in some]

    def of_first(self, compute: Callable[[], Value]) -> Value:
        """See `Group`."""
        values: list[Any] = [compute() if self.is_first else None]
        _of_peers(dist.broadcast_object_list)(values, src=0)
        received: Value = values[0]
        return received

    def agree(self, **values: str) -> None:
        """See `Group`; the first time it is the code, too, that has to be the same."""
        if not self._is_code_known:
            self._is_code_known, values = True, {"convae": _code(), **values}
        found: list[Any] = [None] * self.size
        _of_peers(dist.all_gather_object)(found, values)
        for name, own in found[0].items():
            for rank, others in enumerate(found):
                if others[name] != own:
                    theirs, ours = _shown(others[name], own), _shown(own, others[name])
                    raise UserError(
                        f"{name}: differs between the processes, {theirs} in number {rank} and "
                        f"{ours} in number 0; start all of them with the same command, the same "
                        "version of convae and the same data"
                    )

    def read(self, load: Callable[[], Value]) -> Value:
        """See `Group`; the machine's other processes map the arrays, which are then read-only."""
        machine, is_reader = os.environ.get("GROUP_RANK", str(self.rank)), local_rank() == 0
        if is_reader:
            value = load()
        with tempfile.TemporaryDirectory(prefix="convae-") as folder:
            path = Path(folder) / "read"
            if is_reader and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
                _write(value, path)
            places: list[Any] = [None] * self.size
            own = (machine, str(path)) if is_reader else None
            _of_peers(dist.all_gather_object)(places, own)
            if not is_reader:
                value = _map(Path(dict(place for place in places if place)[machine]))
            _of_peers(dist.barrier)()
        return value

    def is_first_to_fail(self, message: str) -> bool:
        """See `Group`."""
        mine = f"{self.rank} {message}"
        with suppress(RuntimeError):  # the store is gone: nobody else can have told
            return bool(self._store.compare_set(ERROR, "", mine).decode() == mine)
        return True


def _write(value: object, path: Path) -> None:
    """Write a value, its arrays one behind the other."""
    buffers: list[pickle.PickleBuffer] = []
    try:
        content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise UserError(
            f"dataset: it cannot be passed on to other processes ({error}); use one, or classes "
            "that pickle takes"
        ) from None
    arrays = [buffer.raw() for buffer in buffers]
    with path.open("wb") as file:
        pickle.dump((content, [array.nbytes for array in arrays]), file)
        for array in arrays:
            file.write(bytes(-file.tell() % ALIGNMENT))
            file.write(array)


def _map(path: Path) -> Any:
    """Read what `_write` has written; its arrays stay in the file, mapped into memory."""
    with path.open("rb") as file:
        content, sizes = pickle.load(file)
        end = file.tell()
    whole: Any = np.memmap(path, mode="r") if sum(sizes) else b""
    mapped = memoryview(whole)
    arrays = []
    for size in sizes:
        start = end + -end % ALIGNMENT
        end = start + size
        arrays.append(mapped[start:end])
    return pickle.loads(content, buffers=arrays)


def _shown(text: str, other: str) -> str:
    """Shorten a value for a message to where it differs from another."""
    pairs = enumerate(zip(text, other, strict=False))
    differs = next((n for n, (a, b) in pairs if a != b), min(len(text), len(other)))
    start = max(0, differs - SHOWN // 2)
    part = text[start : start + SHOWN]
    return f"{'...' if start else ''}{part}{'...' if len(text) > start + SHOWN else ''}"


def _add_up(array: Array) -> None:
    """Replace an array by the sum of all processes'."""
    if isinstance(array, np.ndarray):
        dist.all_reduce(torch.from_numpy(array))
    elif torch.cuda.is_available():
        xp, cuda = array_module(array), torch.cuda
        stream: Any = cuda.ExternalStream(xp.cuda.get_current_stream().ptr)  # type: ignore[no-untyped-call]
        with cuda.stream(stream):
            dist.all_reduce(from_dlpack(array))
    else:  # torch has no GPU: by way of the host
        copy = array.get()
        dist.all_reduce(torch.from_numpy(copy))
        array.set(copy)


_joined: Processes | None = None


def join_others() -> Processes:
    """Join the processes that torchrun has started, once; see `convae.join`."""
    global _joined
    if _joined is None:
        _joined = _join()
    return _joined


def _code() -> str:
    """Return version and digest of this package's sources."""
    folder, made = Path(__file__).parents[1], hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        made.update(path.read_bytes())
    return f"{__version__} ({made.hexdigest()})"


def _join() -> Processes:
    if dist.is_initialized():  # by the script itself
        return Processes(PrefixStore("convae", dist.distributed_c10d._get_default_store()))
    rank, size, port = (_number(name) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    host = os.environ.get("MASTER_ADDR", "")
    if not 0 <= rank < size:
        raise UserError(f"RANK: {rank} is none of {size} processes, which are numbered from 0")
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    where = f"MASTER_ADDR={host or 'nothing'}, MASTER_PORT={port}"
    try:
        socket.getaddrinfo(host or None, port)
        base = TCPStore(
            host,
            port,
            size,
            is_master=rank == 0 and not is_agents,
            timeout=MEETING,
            wait_for_workers=False,
        )
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"convae/{attempt}", base)
        store.set(f"here/{rank}", "")
        store.wait([f"here/{other}" for other in range(size)], MEETING)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"torchrun: process {rank} of {size} does not find all others in "
            f"{MEETING.seconds} s ({where}): {reason}; start them with torchrun, all with the same "
            "rendezvous"
        ) from None
    _choose_gpu()
    has_gpus = torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    atexit.register(_leave)  # or its threads outlive the interpreter, which then aborts
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":  # which torchrun sets where nobody does
        os.environ.pop("OMP_NUM_THREADS", None)
        beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        set_num_threads(max(1, get_num_threads() // beside))
    return Processes(store)


def _choose_gpu() -> None:
    """Let this process see one GPU, that of its number on the machine, before any is used."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(local_rank())] if seen is None else seen.split(",")[local_rank() :]
    os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0] if gpus else ""


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        shown = repr(text) if text else "not set"
        raise UserError(
            f"{name}: {shown}, but WORLD_SIZE says that there are several processes; start them "
            "with torchrun"
        )
    return int(text)


def _leave() -> None:
    """End what connects the processes."""
    with suppress(RuntimeError):
        dist.destroy_process_group()

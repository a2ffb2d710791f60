"""What the pretend GPU has to find and to allow; `check` runs it, each case in its own process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import cupy
import numpy as np
import pretend_gpu
import pytest
from cupy.cuda import Event, Stream, runtime

CASES: dict[str, tuple[Callable[[], None], str, str, str]] = {}


def case(environment: str = "", fails_with: str = "", says: str = "") -> Callable[[Any], Any]:
    """Add a case: it is run with these variables, and shall end with this error and this output."""

    def add(function: Callable[[], None]) -> Callable[[], None]:
        CASES[function.__name__] = function, environment, fails_with, says
        return function

    return add


KERNEL = r"""
extern "C" __global__ void past(float* x, int n) { x[n + threadIdx.x] = 3; }
extern "C" __global__ void wild(float** x) { **x = 3; }
extern "C" __global__ void turned(const float* x, float* y) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
#ifdef WAITS
    __syncthreads();
#endif
    y[threadIdx.x] = s[63 - threadIdx.x];
    if (threadIdx.x < 0) __syncthreads();
}
extern "C" __global__ void parted(float* x) {
    if (threadIdx.x < 7) __syncthreads(); else __syncwarp();
    x[threadIdx.x] = 1;
}
extern "C" __global__ void dynamic(float* y) {
    extern __shared__ float room[];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void set(float* x, float value) { x[threadIdx.x] = value; }
"""


def kernel(name: str, *options: str) -> Any:
    return cupy.RawModule(code=KERNEL, options=options).get_function(name)


def refused(error: str, function: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(Exception, match=re.escape(error)):
        function(*arguments)


def synchronize() -> None:
    cupy.cuda.Device().synchronize()


def streams(count: int = 2) -> list[Stream]:
    return [Stream(non_blocking=True) for _ in range(count)]


# --- memory and kernels ---------------------------------------------------------------------------


@case("PRETEND_EXACT=1")  # CuPy's pool may give memory that was used before
def fresh_memory_is_nan() -> None:
    assert cupy.isnan(cupy.empty(100, "float32")).all()
    assert cupy.isnan(cupy.empty(9, "float16")).all()


@case(fails_with="cudaErrorIllegalAddress", says="past has written at byte 512")
def a_write_past_the_end() -> None:
    x = cupy.zeros(128, "float32")
    kernel("past")((1,), (4,), (x, np.int32(128)))
    synchronize()


@case("PRETEND_EXACT=1", fails_with="cudaErrorIllegalAddress", says="at byte 400 of")
def a_write_past_a_short_array() -> None:
    x = cupy.zeros(100, "float32")
    kernel("past")((1,), (1,), (x, np.int32(100)))
    synchronize()


@case(fails_with="cudaErrorIllegalAddress", says="wild failed")
def a_wild_pointer() -> None:
    kernel("wild")((1,), (1,), (cupy.array([12345], "uint64"),))
    synchronize()


@case(says="from now on every call fails")
def errors_stay() -> None:
    refused("cudaErrorIllegalAddress", a_wild_pointer)
    refused("cudaErrorIllegalAddress", cupy.zeros, 3)
    os._exit(0)  # what CuPy frees at the end would fail


@case(fails_with="cudaErrorIllegalAddress", says="is not in memory of the device")
def a_host_pointer() -> None:
    x = np.zeros(4, "float32")
    kernel("set")((1,), (4,), (np.uintp(x.ctypes.data), np.float32(1)))
    synchronize()


@case(says="a card refuses grid")
def bad_launches() -> None:
    x = cupy.zeros(2048, "float32")
    for grid, block in (((1,), (2048,)), ((1, 70000), (1,)), ((1,), (1, 1, 65))):
        refused("cudaErrorInvalidValue", kernel("set"), grid, block, (x, np.float32(1)))
    assert not x.any()


@case("PRETEND_SEED=1")
def barriers() -> None:
    x, y = cupy.arange(64, dtype="float32"), cupy.zeros(64, "float32")
    kernel("turned", "-DWAITS")((1,), (64,), (x, y))
    assert (y == x[::-1]).all()
    y = cupy.zeros(64, "float32")
    kernel("turned")((1,), (64,), (x, y))
    assert not (y == x[::-1]).all()
    kernel("dynamic")((1,), (64,), (y,), shared_mem=256)
    assert (y == x[::-1]).all()


@case(fails_with="cudaErrorLaunchFailure", says="different barriers")
def barriers_that_some_miss() -> None:
    kernel("parted")((1,), (8,), (cupy.zeros(8, "float32"),))
    synchronize()


@case("PRETEND_NVRTC=1", fails_with="NVRTC refuses a kernel")
def nvrtc_compiles_too() -> None:
    assert (cupy.exp(cupy.zeros(3, "float16")) == 1).all()
    assert cupy.zeros(3, "float32").sum() == 0
    kernel("set")
    body = "__shared__ float s[20000]; s[threadIdx.x] = 1; x[0] = s[1];"  # too much
    cupy.RawModule(code=f'extern "C" __global__ void f(float* x) {{ {body} }}').get_function("f")


@case("PRETEND_MEMORY_MB=8", fails_with="Out of memory allocating")
def out_of_memory() -> None:
    assert runtime.memGetInfo()[1] == 8 << 20
    _kept = cupy.empty(4 << 20, "uint8")
    cupy.empty(5 << 20, "uint8")


@case("PRETEND_DEVICES=0")
def no_device() -> None:
    assert not cupy.cuda.is_available()
    refused("cudaErrorNoDevice", runtime.getDeviceCount)


@case("PRETEND_DRIVER=12040")
def old_driver() -> None:
    refused("cudaErrorInsufficientDriver", runtime.getDeviceCount)
    assert runtime.driverGetVersion() == 12040


@case()
def products() -> None:
    rng = np.random.default_rng(0)
    for dtype, near in (("float32", 1e-5), ("float64", 1e-12), ("float16", 1e-2)):
        A, B = rng.random((3, 5, 7)).astype(dtype), rng.random((3, 7, 4)).astype(dtype)
        X, Y = cupy.asarray(A), cupy.asarray(B)
        np.testing.assert_allclose((X @ Y).get(), A @ B, rtol=near)
        np.testing.assert_allclose((X[0] @ Y[0]).get(), A[0] @ B[0], rtol=near)
        np.testing.assert_allclose((Y[0].T @ X[0].T).get(), B[0].T @ A[0].T, rtol=near)


@case()
def counts() -> None:
    x = cupy.zeros((4, 4), "float32")
    (x @ x) + 1
    with pretend_gpu.counting() as counted:
        y = x @ x
        (y + 1).get()
    assert counted == {
        "launches": 1,
        "gemms": 1,
        "device_to_host": 1,
        "synchronizations": 1,
    }, counted


# --- streams --------------------------------------------------------------------------------------


def wrong_orders(make: Callable[[], list[Stream]], between: Callable[..., None]) -> int:
    """Have two streams write the same array, 30 times; return how often the first was the last."""
    set_, wrong = kernel("set"), 0
    for _ in range(30):
        x = cupy.zeros(8, "float32")
        synchronize()
        a, b = make()
        with a:
            set_((1,), (8,), (x, np.float32(1)))
        between(a, b, x)
        with b:
            set_((1,), (8,), (x, np.float32(2)))
        synchronize()
        wrong += float(x[0]) != 2
    return wrong


@case("PRETEND_SEED=3")
def a_race_shows() -> None:
    assert 0 < wrong_orders(streams, lambda a, b, x: None) < 30


@case("PRETEND_SEED=3")
def a_wait_helps() -> None:
    assert not wrong_orders(streams, lambda a, b, x: b.wait_event(a.record()))


@case("PRETEND_SEED=3")
def blocking_streams_wait_for_the_null_stream() -> None:
    assert not wrong_orders(lambda: [Stream(), Stream()], lambda a, b, x: x.fill(3))


@case("PRETEND_SEED=5")
def pinned_memory_is_read_late() -> None:
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(400), "float32", 100)
    late = 0
    for _ in range(20):
        (s,) = streams(1)
        pinned[:] = 1
        x = cupy.empty(100, "float32")
        x.set(pinned, stream=s)
        pinned[:] = 2
        s.synchronize()
        late += float(x[0]) == 2
        ordinary = np.full(100, 7, "float32")
        y = cupy.asarray(ordinary)
        ordinary[:] = 8
        assert (y == 7).all()
    assert late


# --- captures -------------------------------------------------------------------------------------


@case("PRETEND_SEED=2")
def captures() -> None:
    set_, x, y = kernel("set"), cupy.zeros(8, "float32"), cupy.zeros(8, "float32")
    (a, b), first, second = streams(), Event(), Event()
    cupy.add(x, 1, out=y)
    y *= 0
    synchronize()
    a.begin_capture()
    with a:
        set_((1,), (8,), (x, np.float32(1)))
    first.record(a)
    b.wait_event(first)
    with b:
        cupy.add(x, 1, out=y)
    assert b.is_capturing()
    second.record(b)
    a.wait_event(second)
    with a:
        y *= 2
    graph = a.end_capture()
    assert not b.is_capturing()
    assert not x.any()
    assert len(pretend_gpu.graph_operations(graph)) == 3
    for _ in range(9):
        graph.launch(a)
        a.synchronize()
        assert (y == 4).all()
        assert (x == 1).all()
        y[...] = 0
        synchronize()


@case()
def captures_that_are_wrong() -> None:
    def begin() -> tuple[Stream, Stream, Event]:
        a, b = streams()
        a.begin_capture()
        return a, b, Event()

    a, b, event = begin()
    refused("Unsupported", a.synchronize)
    refused("Invalidated", a.end_capture)

    a, b, event = begin()
    refused("Unsupported", synchronize)
    refused("Invalidated", a.end_capture)

    a, b, event = begin()
    event.record(a)
    b.wait_event(event)
    with b:
        cupy.zeros(3)
    refused("Unjoined", a.end_capture)

    a, b, event = begin()
    event.record(b)
    refused("Isolation", a.wait_event, event)
    refused("Invalidated", a.end_capture)

    a, b, event = begin()
    event.record(a)
    refused("CapturedEvent", event.synchronize)
    refused("Invalidated", a.end_capture)

    a, b, event = begin()
    event.record(a)
    b.wait_event(event)
    refused("Unmatched", b.end_capture)

    blocking = Stream()
    blocking.begin_capture()
    refused("Implicit", cupy.zeros, 3)
    refused("Invalidated", blocking.end_capture)

    strict = Stream(non_blocking=True)
    strict.begin_capture(runtime.streamCaptureModeGlobal)
    refused("Unsupported", runtime.malloc, 3)


# --- running them ---------------------------------------------------------------------------------


def passes(name: str) -> bool:
    _, environment, fails_with, says = CASES[name]
    variables = {
        variable: value
        for variable, value in os.environ.items()
        if not variable.startswith("PRETEND_") or variable in ("PRETEND_DIR", "PRETEND_CACHE")
    }
    variables.update(pair.split("=") for pair in environment.split())
    command = [sys.executable, __file__, name]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    good = done.returncode == (1 if fails_with else 0)
    good = good and fails_with in done.stderr and says in done.stderr
    print("ok    " if good else "FAILED", name)
    if not good:
        print(f"    returned {done.returncode}")
        print(textwrap.indent(done.stderr[-2000:], "    "))
    return good


if __name__ == "__main__":
    if len(sys.argv) > 1:
        CASES[sys.argv[1]][0]()
    else:
        sys.exit(sum(not passes(name) for name in CASES) > 0)

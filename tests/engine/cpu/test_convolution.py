"""The compiled c, h and g: every kind of kernel, division into blocks, and way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convae import engine
from convae.engine import definition, gemm
from convae.engine.cpu import builder, choice, convolution, division, jit, offsets, threads
from convae.engine.cpu.rows import Field
from tests.helpers import by_pytorch, error
from tests.problems import Problem, part_of_examples, problems

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@contextmanager
def changed(**constants: int) -> Iterator[None]:
    """Plan with other constants of the modules that plan."""
    caches = offsets.plan_for, convolution._template
    with pytest.MonkeyPatch.context() as patch:
        for name, value in constants.items():
            for module in (builder, choice, convolution, division, offsets):
                if hasattr(module, name):
                    patch.setattr(module, name, value)
        for cache in caches:
            cache.cache_clear()
        yield
    for cache in caches:
        cache.cache_clear()


SOME_ROWS = {"LEAST_BYTES": 300, "MOST_BYTES": 300, "WORTH_DIVIDING": 1}

WAYS = {
    "as it is": {},
    "never along positions": {"PLACING": 10**6},
    "along positions wherever possible": {"PLACING": -(10**6)},
    "never by taps": {"RESTARTING": 10**6},
    "by taps wherever possible": {"RESTARTING": -(10**6)},
    "elements of a kernel apart": {"WRITING": -(10**6)},
    "elements of a kernel together": {"WRITING": 10**6},
    "blocks of few rows": {"LEAST_BYTES": 1, "MOST_BYTES": 1},
    "blocks of some rows": SOME_ROWS,
    "along positions in blocks of some rows": {"PLACING": -(10**6)} | SOME_ROWS,
    "by taps in blocks of some rows": {"RESTARTING": -(10**6)} | SOME_ROWS,
    "blocks of one example": {"WORTH_DIVIDING": 1, "FEWEST_BLOCKS": 1000},
}


@pytest.mark.parametrize("way", WAYS)
@part_of_examples(0.5)
@given(problem=problems())
def test_every_way_gives_the_sums_that_define_them(way: str, problem: Problem) -> None:
    with changed(**WAYS[way]), pytest.MonkeyPatch.context() as patch:
        for name in ("c", "h", "g"):
            patch.delattr(gemm, name)  # whoever calls them fails
        for dtype in TOLERANCE:
            K, V, G = problem.arrays(dtype)
            backend = engine.backend_for("cpu")
            found = (
                backend.c(K, V, problem.geometry),
                backend.h(K, G, problem.geometry),
                backend.g(G, V, K.shape, problem.geometry),
            )
            for actual, expected in zip(found, problem.by_definition(dtype), strict=True):
                assert actual.shape == expected.shape
                assert actual.dtype == dtype
                largest = 1 + np.abs(expected).max()  # all of few terms may cancel
                assert np.abs(actual - expected).max() < TOLERANCE[dtype] * largest


@pytest.mark.parametrize("way", [way for way in WAYS if way.startswith(("along", "by taps"))])
@pytest.mark.parametrize(
    ("groups", "size", "kernel", "stride", "dilation"),
    [
        (1, (11,), (3,), (1,), (2,)),
        (1, (9, 12), (3, 2), (1, 1), (2, 3)),
        (1, (6, 7, 8), (2, 3, 2), (1, 1, 1), (3, 2, 2)),
        (1, (9, 12), (3, 3), (2, 3), (2, 1)),
        (2, (9, 12), (2, 3), (1, 2), (3, 1)),
        (3, (6, 7, 8), (2, 3, 2), (1, 2, 1), (3, 2, 1)),
    ],
)
def test_few_channels_with_dilation(
    rng, way: str, groups: int, size: tuple[int, ...], kernel: tuple[int, ...],
    stride: tuple[int, ...], dilation: tuple[int, ...],
) -> None:  # fmt: skip
    padding = ((1, 2), (2, 0), (0, 1))[: len(size)]
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    geometry = engine.resolve(size=size, kernel=kernel, **how)
    K = rng.standard_normal((4 * groups, 5, *kernel))
    V = rng.standard_normal((3, 5 * groups, *size))
    G = rng.standard_normal((3, 4 * groups, *geometry.output))
    with changed(**WAYS[way]):
        Z, R = engine.c(K, V, **how), engine.h(K, G, size=size, **how)
        dK = engine.g(G, V, kernel=kernel, **how)
    assert error(Z, definition.c(K, V, **how)) < 1e-12
    assert error(R, definition.h(K, G, size, **how)) < 1e-12
    assert error(dK, definition.g(G, V, K.shape, **how)) < 1e-12


def test_few_channels_go_ways_of_their_own() -> None:
    geometry, halving = (engine.resolve(size=(28, 28), kernel=3, stride=s) for s in (1, 2))
    assert choice.goes_along("h", halving, C=3, O=64, itemsize=4)
    assert choice.goes_along("c", geometry, C=64, O=2, itemsize=4)
    assert not choice.goes_along("c", halving, C=64, O=2, itemsize=4)
    assert not choice.goes_along("h", geometry, C=8, O=4, itemsize=4)
    assert not choice.goes_along("h", geometry, C=16, O=64, itemsize=4)
    for C, O, groups, by_taps in [
        (64, 4, 1, True), (16, 16, 1, True), (64, 64, 4, True), (64, 64, 16, True),
        (64, 64, 8, False), (1, 32, 1, False), (64, 64, 1, False), (64, 64, 64, False),
        (48, 48, 16, False),
    ]:  # fmt: skip
        grouped = engine.resolve(size=(28, 28), kernel=3, groups=groups)
        assert choice.goes_by_taps(grouped, C, O, itemsize=4) == by_taps


@pytest.mark.parametrize(
    ("operation", "size", "kernel", "C", "O", "terms"),
    [
        ("c", 32, 5, 32, 64, 9),  # rows at the edge are few, but of four vectors
        ("c", 16, 5, 64, 128, 9),
        ("g", 16, 3, 64, 128, 9),  # each element of the kernel
        ("c", 32, 3, 32, 8, 1),  # copied with padding: runs would not be of fours
    ],
)
def test_padding_is_left_out_where_that_is_faster(operation, size, kernel, C, O, terms) -> None:
    if O < 16 and not jit.AVX512:
        pytest.skip("rows are in runs with AVX-512 only")
    geometry = engine.resolve(size=(size, size), kernel=kernel, stride=2, padding="same")
    plan = offsets.plan_for(operation, geometry, C, O, 64, 4, convolution.FEWEST_BLOCKS)
    assert plan.fields[Field.TERM_COUNT] == terms


@pytest.mark.parametrize("operation", ["c", "g"])
def test_planes_of_volumes_are_read_in_place(operation: str) -> None:
    geometry = engine.resolve(size=(16, 112, 112), kernel=3, stride=2, padding="same")
    plan = offsets.plan_for(operation, geometry, 3, 32, 2, 4, convolution.FEWEST_BLOCKS)
    blocks = plan.tables[Field.BLOCKS]
    starts, extents = blocks[:, 3:6], blocks[:, 6:9]
    assert plan.fields[Field.WHOLE + 1] == plan.fields[Field.WHOLE + 2] == 112
    assert (starts[:, 1:] == 0).all()
    assert len(blocks) == 16
    assert ((starts < 0) | (starts + extents > geometry.size)).any(axis=1).sum() == 2  # first ones


def test_the_time_of_rows_grows_with_what_they_take() -> None:
    assert choice.time_of_rows(2, 100, 64, 4) < choice.time_of_rows(8, 100, 64, 4) / 2
    assert choice.time_of_rows(2, 100, 16, 4) == choice.time_of_rows(8, 100, 16, 4)
    whole, half, shared = (
        [choice.time_of_runs(runs, others, 90, spared, 16, channels, channels, 4)
         for runs, others, spared in [(8, 0, 30), (8, 0, 0), (0, 32, 0)]]
        for channels in (16, 8, 4)
    )  # fmt: skip
    for in_chains, in_runs, alone in (whole, half, shared):
        assert in_chains < in_runs < alone
    assert half[1] < whole[1]


@st.composite
def cases(draw: st.DrawFn):
    """Shapes of K, V and G with more channels, stride and padding, dtype and seed."""
    axes = draw(st.integers(1, 3))
    size = [draw(st.integers(1, (20, 9, 5)[axes - 1])) for _ in range(axes)]
    padding = tuple((draw(st.integers(0, 4)), draw(st.integers(0, 4))) for _ in range(axes))
    largest = [min(6, n + sum(sides)) for n, sides in zip(size, padding, strict=True)]
    kernel = [draw(st.integers(1, n)) for n in largest]
    stride = tuple(draw(st.integers(1, 3)) for _ in range(axes))
    groups = draw(st.sampled_from([1, 1, 2, 3, 5, 16, 19]))
    channels, filters = draw(st.integers(1, 19)), draw(st.integers(1, max(1, 80 // groups)))
    if groups > 1 and draw(st.booleans()):  # groups as narrow as these share vectors
        even, uneven = [(n, n) for n in (1, 2, 4, 8, 16)], [(1, 2), (3, 3), (2, 5), (7, 1)]
        channels, filters = draw(st.sampled_from(even + uneven))
    examples = draw(st.integers(1, 40))
    output = engine.resolve(size=size, kernel=kernel, stride=stride, padding=padding).output
    shapes = (
        (groups * filters, channels, *kernel),
        (examples, groups * channels, *size),
        (examples, groups * filters, *output),
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    how = {"stride": stride, "padding": padding, "groups": groups}
    return shapes, how, dtype, draw(st.integers(0, 2**32 - 1))


@part_of_examples(0.5)
@given(case=cases())
def test_operations_equal_pytorch(case) -> None:
    shapes, how, dtype, seed = case
    rng = np.random.default_rng(seed)
    K, V, G = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    Z = engine.c(K, V, **how)
    R = engine.h(K, G, size=V.shape[2:], **how)
    dK = engine.g(G, V, kernel=K.shape[2:], **how)
    for actual, expected in zip((Z, R, dK), by_pytorch(K, V, G, **how), strict=True):
        assert actual.shape == expected.shape
        assert actual.dtype == dtype
        assert error(actual, expected) < TOLERANCE[dtype]


WORKLOADS = [(1, 28, 32, 5, 2), (32, 14, 64, 3, 2), (3, 32, 64, 5, 2), (256, 16, 128, 3, 2)]


@pytest.mark.parametrize(("channels", "side", "filters", "kernel", "stride"), WORKLOADS)
def test_single_precision_is_as_good_as_can_be(
    rng, channels: int, side: int, filters: int, kernel: int, stride: int
) -> None:
    K = rng.standard_normal((filters, channels, kernel, kernel), dtype="float32")
    V = rng.standard_normal((32, channels, side, side), dtype="float32")
    reach = kernel - 1
    padding = ((reach // 2, reach - reach // 2),) * 2
    how = {"stride": (stride, stride), "padding": padding}
    Z = engine.c(K, V, **how)
    results = (Z, engine.h(K, Z, size=side, **how), engine.g(Z, V, kernel=kernel, **how))
    for actual, expected in zip(results, by_pytorch(K, V, Z, **how), strict=True):
        assert error(actual, expected) < 1e-6


def test_small_integers_are_exact(rng) -> None:
    K, V = (rng.integers(-8, 9, shape) for shape in ((64, 64, 3, 3), (32, 64, 12, 12)))
    Z = engine.c(K.astype("float32"), V.astype("float32"), padding="same")
    padded = np.pad(V, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    assert (np.einsum("nlyxab,olab->noyx", windows, K) == Z).all()


@pytest.mark.parametrize("value", [1e6, np.nan, np.inf])
@pytest.mark.parametrize("channels", [2, 64])
def test_an_outlier_changes_only_outputs_that_depend_on_it(
    rng, value: float, channels: int
) -> None:
    K = rng.standard_normal((40, channels, 3, 3), dtype="float32")
    V = rng.standard_normal((5, channels, 16, 16), dtype="float32")
    G = rng.standard_normal((5, 40, 16, 16), dtype="float32")

    def both():
        return engine.c(K, V, padding="same"), engine.h(K, G, size=16, padding="same")

    before = both()
    V[3, 1, 8, 8] = G[3, 5, 8, 8] = value
    depends = np.zeros((5, 1, 16, 16), bool)
    depends[3, :, 7:10, 7:10] = True
    for old, new in zip(before, both(), strict=True):
        is_same = (old == new).all(axis=1, keepdims=True)
        assert (is_same == ~depends).all()


@pytest.mark.parametrize("group", [1, 3, 4, 8, 12])
def test_an_outlier_stays_in_its_group(rng, group: int) -> None:
    groups = 24 // group
    K = rng.standard_normal((24, group, 3, 3), dtype="float32")
    V, G = (rng.standard_normal((2, 24, 9, 9), dtype="float32") for _ in "VG")

    def every():
        how = {"padding": "same", "groups": groups}
        return engine.c(K, V, **how), engine.h(K, G, **how), engine.g(G, V, kernel=3, **how)

    before = every()
    V[1, 9, 4, 4] = G[1, 9, 4, 4] = np.nan
    is_of_group = np.arange(24) // group == 9 // group
    for old, new, axis in zip(before, every(), (1, 1, 0), strict=True):
        is_same = (old == new).all(axis=tuple({*range(old.ndim)} - {axis}))
        assert (is_same == ~is_of_group).all()


GUARDED = """
import ctypes, mmap
import numpy as np
from convae import engine

PAGE = mmap.PAGESIZE

def last(shape):
    array = np.random.default_rng(0).standard_normal(shape, dtype="float32")
    pages = -(-array.nbytes // PAGE) * PAGE
    memory = np.frombuffer(mmap.mmap(-1, pages + PAGE), np.uint8)
    end = ctypes.c_void_p(memory.ctypes.data + pages)
    assert ctypes.CDLL(None).mprotect(end, ctypes.c_size_t(PAGE), 0) == 0
    found = memory[pages - array.nbytes : pages].view(np.float32).reshape(shape)
    found[...] = array
    return found

def seconds(array):
    return array.transpose(0, array.ndim - 1, *range(1, array.ndim - 1))

for count in (1, 2):
    engine.set_num_threads(count)
    for groups, C, O in ((12, 48, 48), (64, 64, 64), (8, 64, 64), (16, 48, 48), (12, 24, 60),
                         (16, 32, 32),
                         (4, 48, 48), (4, 64, 64), (1, 24, 8), (1, 16, 1)):
        V, G = seconds(last((3, 12, 12, C))), seconds(last((3, 10, 10, O)))
        K = last((3, 3, C // groups, O)).transpose(3, 2, 0, 1)
        how = {"groups": groups}
        engine.c(K, V, **how), engine.h(K, G, **how), engine.g(G, V, kernel=3, **how)
    for k, size, O in ((16, 16016, 256), (1, 100001, 64), (16, 1 << 18, 64)):
        codes = seconds(last((1, size // k, O)))
        engine.h(last((k, 1, O)).transpose(2, 1, 0), codes, stride=k, size=size)
print("alive")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called as on Linux")
def test_nothing_is_read_beyond_the_last_element() -> None:
    """Where the next page of memory must not be read."""
    command = [sys.executable, "-c", GUARDED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a_position_that_meets_padding_alone_is_zero() -> None:
    K, V = np.ones((3, 2, 2, 2)), np.ones((16, 2, 1, 1))
    how = {"stride": (1, 1), "padding": ((3, 3), (3, 3)), "dilation": (1, 1)}
    Z = engine.c(K, V, **how)
    assert (definition.c(K, V, **how) == Z).all()


def test_arrays_that_are_not_aligned_are_copied(rng) -> None:
    K, V = rng.random((3, 2, 3, 3)), rng.random((4, 2, 6, 6))
    memory = np.zeros(V.nbytes + 1, np.uint8)
    odd = memory[1:].view(np.float64).reshape(V.shape)
    odd[...] = V
    assert not odd.flags.aligned
    assert (engine.c(K, odd) == engine.c(K, V)).all()


def test_what_no_output_reads_does_not_reach_a_tiled_gradient() -> None:
    V, G = np.ones((2, 1, 7)), np.ones((2, 1, 3))
    V[..., 6] = np.nan  # outputs at 0, 2, 4 read 0 to 5
    dK = engine.g(G, V, stride=2, kernel=2, tile=2, padding=0)
    assert (dK[0, :, 0, 0] == [4, 2]).all()


@pytest.mark.parametrize("examples", [1, 3, 20, 64])
@pytest.mark.parametrize(
    ("channels", "filters", "groups"),
    [(1, 48, 1), (32, 48, 1), (40, 3, 1), (16, 12, 1), (48, 48, 48), (48, 48, 6), (48, 48, 3)],
)
def test_bits_do_not_depend_on_the_number_of_threads(
    rng, examples: int, channels: int, filters: int, groups: int
) -> None:
    K = rng.standard_normal((filters, channels // groups, 3, 3), dtype="float32")
    V = rng.standard_normal((examples, channels, 24, 24), dtype="float32")
    G = rng.standard_normal((examples, filters, 24, 24), dtype="float32")
    found = set()
    try:
        for workers in (1, 2, 5, 5):
            engine.set_num_threads(workers)
            how = {"padding": "same", "groups": groups}
            Z, R = engine.c(K, V, **how), engine.h(K, G, **how)
            dK = engine.g(G, V, kernel=3, **how)
            found.add((Z.tobytes(), R.tobytes(), dK.tobytes()))
    finally:
        engine.set_num_threads(threads.cores())
    assert len(found) == 1


IN_CHAINS = [  # groups, channels and filters of each, size, kernel, stride, dilation
    (1, 8, 12, (26, 30), 3, 1, 1),
    (1, 16, 16, (40,), 5, 1, 1),
    (1, 4, 16, (40,), 7, 2, 1),
    (1, 4, 9, (3, 12, 13), 4, 2, 1),
    (1, 8, 8, (30, 30), 3, 3, 3),
    (1, 15, 8, (12, 14), 5, 1, 1),
    (4, 16, 16, (20, 20), 3, 1, 1),
    (4, 4, 4, (20, 20), 5, 2, 2),
    (3, 5, 2, (30, 15), 3, 1, 1),
    (40, 1, 1, (20, 33), 3, 1, 1),
    (72, 1, 1, (12, 13), 5, 1, 1),
]


@pytest.mark.skipif(not jit.AVX512, reason="rows are in runs with AVX-512 only")
@pytest.mark.parametrize(("groups", "C", "O", "size", "kernel", "stride", "dilation"), IN_CHAINS)
def test_steps_in_chains(
    rng, groups: int, C: int, O: int, size: tuple[int, ...], kernel: int, stride: int, dilation: int
) -> None:
    how = {"stride": stride, "padding": "same", "dilation": dilation, "groups": groups}
    geometry = engine.resolve(size=size, kernel=kernel, **how)
    for dtype, tolerance in TOLERANCE.items():
        K = rng.standard_normal((groups * O, C, *[kernel] * len(size))).astype(dtype)
        V = rng.standard_normal((3, groups * C, *size)).astype(dtype)
        G = rng.standard_normal((3, groups * O, *geometry.output)).astype(dtype)
        full = {"stride": geometry.stride, "padding": geometry.padding, "groups": groups}
        full["dilation"] = geometry.dilation
        Z, R = engine.c(K, V, **how), engine.h(K, G, size=size, **how)
        assert error(Z, definition.c(K, V, **full)) < tolerance
        assert error(R, definition.h(K, G, size=size, **full)) < tolerance
        for operation in "ch":
            sizes = groups * C, groups * O, 3, K.itemsize, convolution.FEWEST_BLOCKS
            plan = offsets.plan_for(operation, geometry, *sizes)
            has_chains = plan.tables[Field.TERMS][:, 8:].any()
            assert has_chains == (dtype == "float32" or plan.fields[Field.GROUP] > 0)


@pytest.mark.parametrize("groups", [1, 4])
def test_bits_do_not_depend_on_where_an_example_lies(rng, groups: int) -> None:
    K = rng.standard_normal((16, 16 // groups, 3, 3), dtype="float32")
    V = rng.standard_normal((13, 16, 18, 17), dtype="float32")

    def both(V):
        how = {"padding": "same", "groups": groups}
        return engine.c(K, V, **how), engine.h(K, V, **how)

    for backwards, found, alone in zip(both(V[::-1]), both(V), both(V[7:8]), strict=True):
        assert (backwards[::-1] == found).all()
        assert error(alone[0], found[7]) < TOLERANCE["float32"]


PEAK = """
import numpy as np
from convae import engine

def memory(kind):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 1024

rng = np.random.default_rng(0)
K = rng.standard_normal((32, 32, 5, 5), dtype="float32")
V = rng.standard_normal((4, 512, 512, 32), dtype="float32").transpose(0, 3, 1, 2)
engine.c(K[:, :, :1, :1], V[:, :, :8, :8])
before = memory("VmRSS")
Z = engine.c(K, V, padding="same")
print(memory("VmHWM") - before - Z.nbytes / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of a process as Linux has it")
def test_large_pictures_take_little_more_than_their_result() -> None:
    output = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True
    )
    assert float(output.stdout) < 32, "MiB"

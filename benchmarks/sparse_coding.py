"""Sparse codes beside SPORCO's, of the same problems: python -m benchmarks.sparse_coding.

SPORCO (Wohlberg 2017) is not among the dependencies: pip install sporco. Images and dictionaries
are those that it brings, and boundaries are periodic, as its Fourier transforms have them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.measure import keep, table
from convae import SparseCoding

Image = np.ndarray[Any, np.dtype[np.float32]]

CODED = {"iterations": 1000, "tolerance": 3e-4}
"""How far ours goes for the comparison of objectives."""

DENOISED = {"iterations": 250, "tolerance": 3e-3}
"""And for the images without noise: as the other's example does."""

NOISE = 0.1


def main() -> None:
    """Solve both problems with both, and save the table."""
    import sporco

    rows = [*coding(), *denoising()]
    header = ["problem", "solver", "seconds", "iterations", "objective", "PSNR (dB)"]
    text = (
        f"SPORCO {sporco.__version__}. Objectives are computed by one function for both. PSNR is "
        "that of the image against the one without noise; the noisy image's is in the row's name. "
        "Compilation is not measured: it is kept on disk.\n\n"
    )
    keep(
        "sparse_coding",
        " ".join(["python -m benchmarks.sparse_coding", *sys.argv[1:]]),
        text + table(header, rows),
    )


def coding() -> list[list[str]]:
    """Code an image with 32 filters, by the solvers' own ways to a tight tolerance."""
    from sporco import util
    from sporco.admm import cbpdn
    from sporco.pgm import cbpdn as gradient

    D = util.convdicts()["G:8x8x32"].astype(np.float32)
    _, s = _highpass(_image())
    weight = 0.05
    loose = {"Verbose": False, "MaxMainIter": 1000, "RelStopTol": 1e-4}
    admm = cbpdn.ConvBPDN.Options({**loose, "AuxVarObj": False})
    pgm = gradient.ConvBPDN.Options({**loose, "L": 100.0, "RelStopTol": 3e-4})
    model = coder(D, s.shape, weight, **CODED)
    solvers: dict[str, Callable[[], tuple[Image, int | None]]] = {
        "SPORCO, ADMM": lambda: _solved(cbpdn.ConvBPDN(D, s, weight, admm)),
        "SPORCO, FISTA": lambda: _solved(gradient.ConvBPDN(D, s, weight, pgm)),
        "convae, FISTA": lambda: (model.encode(s[None, None]), None),
    }
    rows = []
    for name, solve in solvers.items():
        seconds, (H, iterations) = timed(solve)
        objective = float(model.objective_of(s[None, None], H)[0])
        problem = f"{s.shape[0]}x{s.shape[1]}, 32 filters of 8x8"
        rows.append(
            [problem, name, f"{seconds:.1f}", str(iterations or ""), f"{objective:.4f}", ""]
        )
    return rows


def denoising() -> list[list[str]]:
    """Remove noise as SPORCO's example for grey images does, with 128 filters and weights."""
    from sporco import signal, util
    from sporco.admm import cbpdn

    D = util.convdicts()["G:8x8x128"].astype(np.float32)
    clean = _image()
    np.random.seed(12345)  # noqa: NPY002 - the example's own noise
    noise = np.random.normal(0.0, NOISE, clean.shape)  # noqa: NPY002
    noisy = (clean + noise).astype(np.float32)
    low, high = _highpass(noisy)
    padded, (_, around) = (
        np.pad(high, 8, mode="symmetric"),
        _highpass(np.pad(noisy, 8, mode="symmetric")),
    )
    spectrum = np.conj(signal.rfftn(D, around.shape, (0, 1))) * signal.rfftn(
        around[..., None], None, (0, 1)
    )
    matches = signal.irfftn(spectrum, around.shape, (0, 1))
    weights = (1 / np.maximum(matches**2, 1e-8)).astype(np.float32)
    weight = 4.8e-2
    options = cbpdn.ConvBPDN.Options(
        {
            "Verbose": False,
            "MaxMainIter": 250,
            "HighMemSolve": True,
            "RelStopTol": 3e-3,
            "AuxVarObj": False,
            "L1Weight": weights,
            "AutoRho": {"Enabled": False},
            "rho": 4e2 * weight,
        }
    )
    model = coder(D, padded.shape, weight, **DENOISED)
    ours = np.ascontiguousarray(weights.transpose(2, 0, 1)[None])
    solvers: dict[str, Callable[[], tuple[Image, int | None]]] = {
        "SPORCO, ADMM": lambda: _solved(cbpdn.ConvBPDN(D, padded, weight, options, dimK=0)),
        "convae, FISTA": lambda: (model.encode(padded[None, None], weights=ours), None),
    }
    rows = []
    for name, solve in solvers.items():
        seconds, (H, iterations) = timed(solve)
        objective = float(model.objective_of(padded[None, None], H, weights=ours)[0])
        denoised = np.clip(model.decode(H)[0, 0, 8:-8, 8:-8] + low, 0, 1)
        problem = f"noise of {_psnr(clean, noisy):.2f} dB, 128 filters of 8x8, weights"
        found = f"{_psnr(clean, denoised):.2f}"
        rows.append(
            [problem, name, f"{seconds:.1f}", str(iterations or ""), f"{objective:.2f}", found]
        )
    return rows


def coder(D: Image, size: tuple[int, ...], sparsity: float, **how: Any) -> SparseCoding:
    """Make a model with SPORCO's dictionary (rows, columns, filters) and boundaries."""
    layer = {
        "filters": D.shape[2],
        "kernel": D.shape[:2],
        "padding": [[0, D.shape[0] - 1], [0, D.shape[1] - 1]],
        "padding_mode": "circular",
        "activation": "identity",
        "hidden_bias": "none",
        "visible_bias": "none",
    }
    model = SparseCoding((1, *size), [layer], sparsity=sparsity, **how)
    model.parameters["0.kernel"][...] = D.transpose(2, 0, 1)[:, None]
    short = SparseCoding(**{**model.configuration(), "iterations": 2})
    short.encode(np.zeros((1, 1, *size), np.float32))  # compiles
    return model


def timed(solve: Callable[[], Any]) -> tuple[float, Any]:
    """Solve, and return the seconds with the result."""
    start = time.perf_counter()
    found = solve()
    return time.perf_counter() - start, found


def _solved(solver: Any) -> tuple[Image, int]:
    """Run one of SPORCO's solvers: its codes as (1, filters, rows, columns), and iterations."""
    solver.solve()
    code = solver.getcoef().squeeze().transpose(2, 0, 1)[None]
    return np.ascontiguousarray(code, dtype=np.float32), len(solver.getitstat().ObjFun)


def _image() -> Image:
    from sporco import util

    cut = np.s_[:, 160:672]
    image = util.ExampleImages().image("monarch.png", zoom=0.5, scaled=True, gray=True, idxexp=cut)
    return np.asarray(image, np.float32)


def _highpass(image: Image) -> tuple[Image, Image]:
    """Divide an image into low and high frequencies, as all of SPORCO's examples do."""
    from sporco import signal

    low, high = signal.tikhonov_filter(image, 5.0, 16)
    return low.astype(np.float32), high.astype(np.float32)


def _psnr(clean: Image, other: Image) -> float:
    """Return SPORCO's: relative to the range of the image's values."""
    from sporco import metric

    return float(metric.psnr(clean, other))


if __name__ == "__main__":
    main()

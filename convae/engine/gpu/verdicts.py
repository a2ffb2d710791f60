"""What was found of ways on this card, kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cupy

from convae import files
from convae.engine.gpu import cudnn

log = logging.getLogger("convae")


@dataclass(frozen=True)
class Verdict:
    """What was found of a way for a problem.

    Parameters
    ----------
    error : float or None
        The largest error, relative to the largest number of its array.
    seconds : float or None
        Time of a call.
    refused : str
        Why it is not used; empty if it is right.
    """

    error: float | None = None
    seconds: float | None = None
    refused: str = ""


@cache
def card() -> str:
    """Name the card in use."""
    device = cupy.cuda.Device()
    return str(cupy.cuda.runtime.getDeviceProperties(device.id)["name"].decode())


@cache
def setting() -> dict[str, Any]:
    """Describe all that verdicts depend on: the card, its software, and our own."""
    engine = Path(__file__).parents[1]
    sources = [*(engine / "gpu").rglob("*.py"), *(engine / "gpu").rglob("*.cu")]
    sources += [*(engine / "program").glob("*.py"), engine / "updates.py"]
    digest = hashlib.blake2b(digest_size=8)
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return {
        "card": card(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cupy": cupy.__version__,
        "nvrtc": list(cupy.cuda.nvrtc.getVersion()),
        "cudnn": cudnn.version(),
        "convae": digest.hexdigest(),
    }


def cache_file() -> Path:
    """Return where the verdicts on this card are kept."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    base = os.environ.get("CONVAE_CACHE") or caches / "convae"
    name = hashlib.blake2b(json.dumps(setting()).encode(), digest_size=8).hexdigest()
    return Path(base) / "gpu" / f"{name}.json"


def read_cache() -> dict[str, Verdict]:
    """Read the verdicts on this card; none where there is no such file, or it is damaged."""
    try:
        content = json.loads(cache_file().read_text())
        return {key: Verdict(**found) for key, found in content["verdicts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write_cache(verdicts: dict[str, Verdict]) -> None:
    """Add verdicts to those on disk; where that is impossible, they are found anew next time."""
    merged = {key: asdict(found) for key, found in {**read_cache(), **verdicts}.items()}
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"setting": setting(), "verdicts": merged}
        files.write_bytes(path, json.dumps(content, indent=1).encode())
    except OSError as error:
        log.warning(f"warning: {path} cannot be written: {error}")

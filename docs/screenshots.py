"""Pictures of TensorBoard for the documentation.

python docs/screenshots.py outputs/<run> outputs/<sweep>

Needs a browser, Debian's packages chromium and chromium-driver, and ``pip install -e '.[docs]'``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import socket

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

HERE = Path(__file__).parent / "images"
SIZES = {"images": (1650, 1060), "projector": (1400, 900), "hparams": (1650, 640)}  # pixels
SECONDS = {"images": 10, "projector": 25, "hparams": 10}  # until it is drawn and PCA is done
PICTURES = "reconstructions|filters|feature_maps"
METRICS = ["summary/best_epoch", "summary/test_mse", "summary/validation_loss"]
TICK = """
function inside(root) {
    const elements = [...root.querySelectorAll("*")];
    return elements.flatMap((each) => [each, ...(each.shadowRoot ? inside(each.shadowRoot) : [])]);
}
for (const box of inside(document).filter((each) => each.tagName == "PAPER-CHECKBOX")) {
    const name = box.textContent.trim();
    if (name.includes("/") && box.checked != arguments[0].includes(name)) box.click();
}
"""


def found(program: str) -> str:
    """Find a program, or stop and say what to install."""
    path = shutil.which(program)
    if path is None:
        sys.exit(f"error: {program} is missing; install Debian's packages chromium chromium-driver")
    return path


@contextmanager
def tensorboard(run: Path) -> Iterator[str]:
    """Serve a run for the body of a with statement."""
    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{url}/data/runs").close()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser(profile: str) -> Iterator[webdriver.Chrome]:
    """Start a browser without a screen; the projector needs WebGL, drawn by the processor."""
    options = Options()
    options.binary_location = found("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--enable-unsafe-swiftshader",
        "--use-angle=swiftshader",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(found("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("sweep", type=Path, help="folder of a finished sweep")
    given = parser.parse_args()
    for file in (given.run / "summary.json", given.sweep / "results.csv"):
        if not file.is_file():
            sys.exit(f"error: {file} is missing")
    for page, size in SIZES.items():
        with (
            tempfile.TemporaryDirectory() as profile,
            tensorboard(given.sweep if page == "hparams" else given.run) as url,
            browser(profile) as driver,
        ):
            driver.set_window_size(*size)
            driver.get(f"{url}/#{page}&tagFilter={PICTURES}")
            time.sleep(SECONDS[page])
            driver.execute_script(TICK, METRICS)
            time.sleep(1)
            target = HERE / f"tensorboard_{page}.png"
            driver.save_screenshot(str(target))
            print(target)


if __name__ == "__main__":
    main()

"""The page about a run: what it says, and what it is made of."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from convae.app import cli
from convae.app.summary import read_figures
from tests.helpers import FEW_PICTURES, run_train, write_pictures


def use(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [*map(str, arguments)], prog_name="convae")


class Page(HTMLParser):
    """What a page holds; open tags have to be closed in their order."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.pictures: list[np.ndarray] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self._open.append(tag)
        given = dict(attrs)
        if tag == "img":
            kind, content = str(given["src"]).split(",")
            assert kind == "data:image/png;base64"
            with Image.open(io.BytesIO(base64.b64decode(content))) as picture:
                self.pictures.append(np.asarray(picture))
            assert given["alt"]
        self.links += [
            str(given[name]) for name in ("href", "src") if name in given and tag != "img"
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on good pictures, whose test pictures have others and masks: run and pictures."""
    folder = tmp_path_factory.mktemp("parts")
    root = folder / "pictures"
    write_pictures(root / "train" / "good", 12)
    write_pictures(root / "test" / "good", 5)
    rng = np.random.default_rng(0)
    (root / "test" / "a & <b>").mkdir(parents=True)
    (root / "ground_truth" / "a & <b>").mkdir(parents=True)
    for n in range(6):
        noise = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "test" / "a & <b>" / f"{n}.png")
        mask = np.zeros((12, 12), np.uint8)
        mask[3:, 3:] = 255
        Image.fromarray(mask).save(root / "ground_truth" / "a & <b>" / f"{n}_mask.png")
    how = ("dataset=imagefolder", f"dataset.root={root}", "dataset.normal=[good]", *FEW_PICTURES)
    done = run_train(*how, f"hydra.run.dir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "overlap of regions (PRO)" in done.stdout
    return folder / "run", root


def test_the_page_of_a_run_that_finds_anomalies(parts) -> None:
    run, root = parts
    done = use("report", run)
    assert done.exit_code == 0, done.stderr
    content = (run / "report.html").read_text()
    page = Page(content)
    assert not page.links  # it needs no other file
    assert "http" not in content
    figures = read_figures(run)
    assert 0 < figures["pro"] <= 1
    assert 0 < figures["pixel_auroc"] <= 1
    for name, value in figures.items():
        assert name in page.text
        assert f"{value:.5g}" in page.text
    for said in ("6 of 11 test images are anomalous", "Most unusual test images", "combined"):
        assert said in page.text
    assert str(root / "test" / "a & <b>" / "3.png") in page.text  # as it is named
    first = page.text.index("Most unusual")
    assert "(a & <b>)" in page.text[first : page.text.index("Least unusual")]
    assert len(page.pictures) == 2 + 5 + 5 + 1
    assert all(picture.std() > 5 for picture in page.pictures)


def test_another_score_and_another_place(parts, tmp_path) -> None:
    run, _ = parts
    done = use("report", run, "--score", "peak", "-o", tmp_path / "peak.html")
    assert done.exit_code == 0, done.stderr
    text = Page((tmp_path / "peak.html").read_text()).text
    assert "Score: the largest squared error, smoothed (peak)" in text
    assert use("report", run, "-o", tmp_path / "peak.html").exit_code == 0  # it is ours
    (tmp_path / "mine.html").write_text("mine")
    done = use("report", run, "-o", tmp_path / "mine.html")
    assert "mine.html exists" in done.stderr
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert "is not an .html file" in use("report", run, "-o", tmp_path / "page.pdf").stderr


def test_the_page_of_an_ordinary_run(finished, tmp_path) -> None:
    done = use("report", finished[0], "-o", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    page = Page((tmp_path / "page.html").read_text())
    assert "test above it" in page.text
    assert re.search(r"number \d+ \(\d\)", page.text)
    assert "are anomalous" not in page.text


def test_what_cannot_be_reported_is_said(finished, parts, tmp_path) -> None:
    run, _ = parts
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert "a report is for finished runs" in use("report", tmp_path / "run").stderr
    shutil.rmtree(tmp_path / "run" / ".hydra")
    assert "holds no .hydra/config.yaml" in use("report", tmp_path / "run").stderr
    assert "does not exist" in use("report", tmp_path / "nothing").stderr
    shutil.copytree(finished[0], tmp_path / "other")
    (tmp_path / "other" / "best.safetensors").write_bytes((run / "best.safetensors").read_bytes())
    assert (
        "its data are now (1, 8, 8), and its model takes (3, 12, 12)"
        in use("report", tmp_path / "other").stderr
    )


def test_data_that_have_changed_are_noticed(parts, tmp_path) -> None:
    run, root = parts
    done = use("report", run, "-o", tmp_path / "same.html")
    assert "warning" not in done.stderr
    first, *_ = sorted((root / "train").rglob("*.png"))
    first.rename(tmp_path / "kept.png")
    try:
        done = use("report", run, "-o", tmp_path / "page.html")
    finally:
        (tmp_path / "kept.png").rename(first)
    assert done.exit_code == 0, done.stderr
    assert "warning: The train, validation examples are not those that the run had" in done.stderr
    assert "examples are not those that the run had" in (tmp_path / "page.html").read_text()

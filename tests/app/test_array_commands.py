"""Runs on signals and volumes, and the commands on what they leave, as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import convae
from convae.app import cli
from convae.data.array_arguments import ArrayArguments
from convae.data.datasets import load_dataset
from convae.data.sources import named
from convae.report.anomaly import Detector
from tests.helpers import events, run_train

FEW = ("trainer.epochs=2", "trainer.panels_every=1", "trainer.embeddings=20", "device=cpu")


def use(*arguments: object) -> Result:
    """A command in this process."""
    return CliRunner().invoke(cli.main, [*map(str, arguments)], prog_name="convae")


def trained(folder: Path, *arguments: str) -> str:
    done = run_train(*arguments, *FEW, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def beats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run on heartbeats that knows normal ones only."""
    folder = tmp_path_factory.mktemp("beats")
    return folder, trained(folder, "dataset=synthetic_beats", "dataset.normal=[normal]", "code=8")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("volumes")
    how = ("dataset=synthetic_volumes", "model=volume", "dataset.limit=200")
    return folder, trained(folder, *how)


@pytest.fixture(scope="module")
def signals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A run on signals in a .npy file, in units of their own: run, file, and signals."""
    folder = tmp_path_factory.mktemp("signals")
    t = np.linspace(0, 6.28, 40)
    phases = np.random.default_rng(0).uniform(0, 6.28, (200, 1, 1))
    values = 300 + 50 * np.sin(t + phases) * np.array([[1.0], [0.2]])  # (200, 2, 40)
    file = folder / "x.npy"
    np.save(file, values)
    how = ("dataset=arrays", f"dataset.root={file}", "dataset.layout=NCL", "code=4")
    trained(folder / "run", *how)
    return folder / "run", file, values


def test_a_run_on_signals_finds_anomalies(beats) -> None:
    folder, said = beats
    figures = json.loads((folder / "summary.json").read_text())
    assert figures["auroc"] > 0.9
    assert "1,000 test signals" in said
    assert "the mean signal" in said
    assert "augmentation.flip=false: signals have a direction" in said
    assert "signals/s" in said
    assert "image" not in said.replace("images=1000", "")


def test_tensorboard_shows_signals_and_volumes(beats, volumes) -> None:
    for folder, _ in (beats, volumes):
        tags = events(folder).Tags()["images"]
        assert {"reconstructions", "weights/filters", "units/feature_maps/0"} <= set(tags)
        for name in ("reconstructions.png", "projector/images.png"):
            with Image.open(folder / name) as picture:
                pixels = np.asarray(picture)
            assert pixels.std() > 10


@pytest.mark.parametrize("ending", ["onnx", "pt2"])
def test_exports_agree_to_1e_5(beats, volumes, tmp_path, ending: str) -> None:
    for name, (folder, _) in (("synthetic_beats", beats), ("synthetic_volumes", volumes)):
        target = tmp_path / f"{name}.{ending}"
        done = use("export", folder, target)
        assert done.exit_code == 0, done.stderr
        if ending == "pt2":
            continue
        model = convae.load(folder)
        x = next(load_dataset(named(name)).test.batches(20))
        session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
        code, reconstruction = session.run(["code", "reconstruction"], {"images": x})
        np.testing.assert_allclose(code, model.encode(x), atol=1e-5)
        np.testing.assert_allclose(reconstruction, model.reconstruct(x), atol=1e-5)
        known = session.get_modelmeta().custom_metadata_map
        assert json.loads(known["arrays"]) == json.loads(
            json.dumps(convae.Scaling.of_model(model).plain())
        )


def test_scores_of_a_dataset_by_name(beats, tmp_path) -> None:
    folder, _ = beats
    done = use("score", folder, "synthetic_beats", "-o", tmp_path / "s.csv")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert rows[3]["signal"] == "synthetic_beats/test/00003"
    data = load_dataset(named("synthetic_beats"))
    labels = np.array(data.classes)[data.test.labels]
    flagged = np.array([row["anomaly"] == "1" for row in rows])
    assert flagged[labels == "ventricular"].mean() > 0.9
    assert flagged[labels == "normal"].mean() < 0.2


def test_reconstructions_come_back_in_units_layout_and_format(signals, tmp_path) -> None:
    run, file, values = signals
    model = convae.load(run)
    scaling = convae.Scaling.of_model(model)
    expected = scaling.undo(model.reconstruct(scaling(values)))
    assert np.abs(expected - values).std() < 10  # near 300, as the signals are
    np.savez(tmp_path / "x.npz", one=values[:7], y=np.arange(7), two=values[7:9])
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "single.npy", values[5])
    leads = {name: list(values[:, n]) for n, name in enumerate(("a", "b"))}
    pyarrow.parquet.write_table(
        pyarrow.table({**leads, "class": [*range(200)]}), tmp_path / "x.parquet"
    )
    done = use("reconstruct", run, file, tmp_path, "-o", tmp_path / "out", "--batch-size", 64)
    assert done.exit_code == 0, done.stderr
    assert "410 signals" in done.stderr
    assert "the classes in y" in done.stderr
    found = {path.name: path for path in (tmp_path / "out").rglob("*.*")}
    assert set(found) == {"x.npy", "x.npz", "single.npy", "x.parquet"}
    written = np.load(found["x.npy"])
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, expected, atol=1e-3)
    with np.load(found["x.npz"]) as packed:
        assert set(packed.files) == {"one", "two"}
        np.testing.assert_allclose(packed["two"], expected[7:9], atol=1e-3)
    np.testing.assert_allclose(np.load(found["single.npy"]), expected[5], atol=1e-3)
    table = pyarrow.parquet.read_table(found["x.parquet"])
    assert table.column_names == ["a", "b"]
    np.testing.assert_allclose(np.stack(table["b"].to_numpy()), expected[:, 1], atol=1e-3)


def test_one_file_may_be_written_to_one_file(signals, tmp_path) -> None:
    run, file, values = signals
    done = use("reconstruct", run, file, "-o", tmp_path / "clean.npy")
    assert done.exit_code == 0, done.stderr
    assert np.load(tmp_path / "clean.npy").shape == values.shape
    for wrong, message in (("clean.csv", "come from a .npy file"), ("clean.npy", "exists")):
        done = use("reconstruct", run, file, "-o", tmp_path / wrong)
        assert done.exit_code == 1
        assert message in done.stderr
    done = use("reconstruct", run, file, tmp_path / "clean.npy", "-o", tmp_path / "two.npy")
    assert "a file is for what comes from one file, and there are 2" in done.stderr
    done = use("reconstruct", run, file, "-o", file)
    assert "is one of the input images" in done.stderr
    np.testing.assert_array_equal(np.load(file), values)


def test_examples_that_cannot_be_used_keep_their_places(signals, tmp_path) -> None:
    run, _, values = signals
    damaged = values[:9].copy()
    damaged[4, 0, 3] = np.nan
    np.save(tmp_path / "a.npy", damaged)
    np.save(tmp_path / "b.npy", values[:, :, :30])
    (tmp_path / "c.npy").write_text("no array")
    done = use("reconstruct", run, tmp_path, "-o", tmp_path / "out", "--batch-size", 4)
    assert done.exit_code == 1
    assert "8 signals" in done.stderr
    assert "a.npy/00004: values that are not finite" in done.stderr
    assert "b.npy: its shape (200, 2, 30) is not that of examples (2, 40)" in done.stderr
    assert "c.npy: 'c.npy' cannot be read" in done.stderr.replace(f"{tmp_path}/", "")
    written = np.load(tmp_path / "out" / "a.npy")
    missing = np.isnan(written).all(axis=(1, 2))
    assert missing.tolist() == [n == 4 for n in range(9)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.npy"]


def test_codes_and_scores_of_files(signals, tmp_path) -> None:
    run, file, values = signals
    model = convae.load(run)
    x = convae.Scaling.of_model(model)(values)
    done = use("encode", run, file, "-o", tmp_path / "codes.npy", "--batch-size", 64)
    assert done.exit_code == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "codes.npy"), model.encode(x), atol=1e-5)
    assert (tmp_path / "codes.signals.txt").read_text().splitlines()[199] == f"{file}/00199"
    done = use("encode", run, file, "-o", tmp_path / "codes.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "codes.parquet")
    assert table.column_names == ["signal", "code"]
    for _ in range(2):  # what convae wrote it may replace
        done = use("score", run, file, "-o", tmp_path / "s.csv", "--maps", tmp_path / "maps")
        assert done.exit_code == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    expected = Detector.of_model(model).validation
    assert float(rows[0]["combined"]) > expected["combined"].min() - 10
    done = use("score", run, file, "-o", tmp_path / "s.csv", "--score", "squared_error")
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    errors = ((model.reconstruct(x) - x) ** 2).mean(axis=(1, 2))
    found = [float(row["squared_error"]) for row in rows]
    np.testing.assert_allclose(found, errors, rtol=1e-4)
    assert len(list((tmp_path / "maps").rglob("*.png"))) == 200


def test_tables_are_read_as_the_training_table_was(tmp_path) -> None:
    t = np.linspace(0, 6.28, 20)
    values = np.sin(t + np.random.default_rng(0).uniform(0, 6.28, (60, 1)))
    names = [f"t{n}" for n in range(20)]

    def write(name: str, columns: list[str], rows: list) -> Path:
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])
        return tmp_path / name

    train = write("train.csv", [*names, "class"], [[*row, "ok"] for row in values])
    trained(tmp_path / "run", "dataset=arrays", f"dataset.root={train}", "code=2")
    turned = write(
        "turned.csv", ["id", *names[::-1]], [[n, *r[::-1]] for n, r in enumerate(values)]
    )
    done = use("reconstruct", tmp_path / "run", train, turned, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    one, other = ((tmp_path / "out" / f"{name}.csv").read_text() for name in ("train", "turned"))
    assert one == other
    assert one.splitlines()[0] == ",".join(names)


def test_models_of_pictures_and_of_arrays_are_told_apart(finished, signals) -> None:
    run, file, _ = signals
    done = use("score", run, "digits")
    assert "'digits' holds pictures, and the model takes arrays" in done.stderr
    done = use("score", finished[0], "synthetic_beats")
    assert "'synthetic_beats' holds arrays, and the model takes pictures" in done.stderr
    done = use("score", finished[0], file)
    assert "not a picture of a known format" in done.stderr
    with pytest.raises(convae.UserError, match="trained on arrays, not on pictures"):
        convae.read_image(file, convae.load(run))


def test_a_run_on_mapped_arrays_is_that_in_memory_and_resumes(signals, tmp_path) -> None:
    _, file, _ = signals
    how = ("dataset=arrays", f"dataset.root={file}", "dataset.layout=NCL", "code=4")
    trained(tmp_path / "kept", *how)
    trained(tmp_path / "mapped", *how, "dataset.memory_mb=0")
    kept, mapped = (convae.load(tmp_path / name) for name in ("kept", "mapped"))
    np.testing.assert_array_equal(kept.flat_parameters, mapped.flat_parameters)
    done = run_train(f"resume={tmp_path / 'mapped'}", "trainer.epochs=3")
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    values = np.load(file)
    values[0] += 1
    np.save(file, values)
    done = run_train(f"resume={tmp_path / 'mapped'}", "trainer.epochs=4")
    values[0] -= 1
    np.save(file, values)
    assert done.returncode == 1
    assert "train" in done.stderr


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("loss=bce", "dataset.scaling: standard gives values below 0, which loss=bce does not"),
        ("model=conv", "which model.output_activation=sigmoid does not allow"),
        ("corruption=gaussian", "which corruption=gaussian does not allow"),
    ],
)
def test_standard_scaling_excludes_what_presumes_0_to_1(main, wrong, message) -> None:
    with pytest.raises(SystemExit, match=message):
        main("dataset=synthetic_beats", "dataset.scaling=standard", wrong)


def test_recordings_are_scored_by_window_and_reconstructed_whole(tmp_path) -> None:
    """Of any length, in files of their own; a window that looks different has a high score."""
    rng = np.random.default_rng(0)
    for n in range(12):
        t = np.arange(300 + 10 * n)
        values = 50 + 10 * np.sin(t / 4 + n)[:, None] * [1, 3] + rng.normal(0, 0.2, (len(t), 2))
        (tmp_path / "in").mkdir(exist_ok=True)
        np.save(tmp_path / "in" / f"{n}.npy", values)
    how = ("dataset=arrays", f"dataset.root={tmp_path / 'in'}", "dataset.layout=LC", "code=6")
    run = tmp_path / "run"
    said = trained(run, *how, "dataset.tile=32", "dataset.overlap=8")
    assert "cut into windows of 32 values: " in said
    long = np.load(tmp_path / "in" / "3.npy")
    long[100:110] += rng.normal(0, 15, (10, 2))
    np.save(tmp_path / "long.npy", long)
    files = tmp_path / "long.npy", tmp_path / "in" / "0.npy"

    done = use("score", run, *files, "-o", tmp_path / "s.csv", "--maps", tmp_path / "maps")
    assert done.exit_code == 0, done.stderr
    rows = list(csv.reader((tmp_path / "s.csv").read_text().splitlines()))[1:]
    assert f"2 signals in {len(rows)} windows: scores in" in done.stderr
    starts = [[*range(0, n - 32 + 1, 24), n - 32] for n in (330, 300)]
    assert [row[0] for row in rows] == [
        f"{file}@{at}" for file, of in zip(files, starts, strict=True) for at in dict.fromkeys(of)
    ]
    highest = max(rows, key=lambda row: float(row[1]))[0]
    assert highest in {f"{files[0]}@{at}" for at in (72, 96)}
    assert len(list((tmp_path / "maps").rglob("*.png"))) == len(rows)

    done = use("reconstruct", run, *files, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    for file in files:
        (clean,) = (tmp_path / "out").rglob(file.name)
        assert np.load(clean).shape == np.load(file).shape
    (clean,) = (tmp_path / "out").rglob("0.npy")
    error = np.abs(np.load(clean) - np.load(files[1])).mean(axis=0)
    assert (error < [4, 12]).all()  # of amplitudes of 10 and 30

    done = use("encode", run, files[1], "-o", tmp_path / "codes.npy")
    assert done.exit_code == 0, done.stderr
    scaling = convae.Scaling.of_model(convae.load(run))
    assert scaling.tiling is not None
    windows = scaling.tiling.cut(scaling(np.load(files[1]))[0])
    expected = convae.load(run).encode(windows)
    np.testing.assert_allclose(np.load(tmp_path / "codes.npy"), expected, atol=1e-5)

    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((100, 3)))
    done = use("score", run, wrong)
    assert done.exit_code == 1
    assert "(100, 3) is not that of recordings of 2 channels in the layout LC" in done.stderr


def test_arrays_whose_names_differ_in_case_or_not_at_all(signals, tmp_path) -> None:
    run, _, values = signals
    folder = tmp_path / "in"
    folder.mkdir()
    for name, part in (("a.npy", values[:3]), ("b.npy", values[3:5])):
        np.save(folder / name, part)
    (folder / "b.npy").rename(folder / "a.NPY")
    done = use("reconstruct", run, folder / "a.npy", folder, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    shapes = sorted(len(np.load(path)) for path in (tmp_path / "out").iterdir())
    assert shapes == [2, 3, 3]


def test_files_are_not_passed_over_for_their_names(signals, tmp_path) -> None:
    run, _, values = signals
    np.save(tmp_path / "accel_y.npy", values[:4])
    np.save(tmp_path / "labels.npy", np.arange(4))
    done = use("score", run, tmp_path / "accel_y.npy", tmp_path / "labels.npy")
    assert done.exit_code == 0, done.stderr
    assert "4 signals" in done.stderr
    assert "labels.npy: the classes in it" in done.stderr


def test_reconstructions_far_from_zero(tmp_path, rng) -> None:
    np.save(tmp_path / "x.npy", 1e8 + rng.random((60, 16)))
    trained(tmp_path / "run", "dataset=arrays", f"dataset.root={tmp_path / 'x.npy'}", "code=4")
    for name in ("back.npy", "back.csv"):
        if name.endswith("csv"):
            np.savetxt(tmp_path / "x.csv", np.load(tmp_path / "x.npy"), delimiter=",", fmt="%.10f")
        source = tmp_path / f"x{Path(name).suffix}"
        done = use("reconstruct", tmp_path / "run", source, "-o", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        found = (
            np.load(tmp_path / name)
            if name.endswith("npy")
            else np.loadtxt(tmp_path / name, delimiter=",")
        )
        assert len(np.unique(found)) > 500
        assert np.abs(found - np.load(tmp_path / "x.npy")).max() < 2


def test_classes_of_every_time_are_no_recording(tmp_path) -> None:
    np.savez(tmp_path / "r.npz", x=np.zeros(200), y=np.zeros(200, int))
    scaling = convae.Scaling("L", "range", [0.0], [1.0], tile=(16,))
    arguments = ArrayArguments([str(tmp_path / "r.npz")], scaling, (1, 16), "data")
    assert [stack.key for stack in arguments.stacks()] == ["x"]
    assert arguments.left_out == [f"{tmp_path / 'r.npz'}: the classes in y"]

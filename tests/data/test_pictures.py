"""Pictures of every kind: modes, ranges, transparency, orientation, frames, shapes."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import convae
from convae.data.pictures import Preprocessing, read_image

ROTATED = 6
"""The orientation of a camera held upright: the picture has to be turned by 90 degrees."""


def pixels(image: Image.Image, **how: object) -> np.ndarray:
    return Preprocessing(**how)(image)[0]


def said(image: Image.Image, **how: object) -> list[str]:
    return Preprocessing(**how)(image)[1].lines()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B"])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_of_any_mode_become_pixels(mode: str, channels: int) -> None:
    if mode.startswith("I"):
        order = ">u2" if mode.endswith("B") else "<u2"
        image = Image.frombytes(mode, (9, 6), np.full((6, 9), 200 * 257, order).tobytes())
    else:
        image = Image.new("RGB", (9, 6), (200, 200, 200)).convert(mode)
    array = pixels(image, channels=channels)
    assert array.shape == (channels, 6, 9)
    assert array.dtype == np.uint8
    assert abs(array.astype(int).mean() - 200) <= (255 if mode == "1" else 8)
    assert pixels(image, channels=channels, size=(4, 5)).shape == (channels, 4, 5)
    assert pixels(image, channels=channels, transposed=True).shape == (channels, 9, 6)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pictures_of_32_bits_are_scaled_by_what_is_black_and_white(tmp_path, kind: type) -> None:
    values = np.array([[-40, 0, 61], [160, 110, -90]], kind)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with Image.open(tmp_path / "deep.tif") as image:
        found = pixels(image, channels=1, levels=(-40, 160))
        assert found.tolist() == [[[0, 51, 129], [255, 191, 0]]]
        assert any("clipped" in line for line in said(image, channels=1, levels=(-40, 160)))
        with pytest.raises(convae.UserError, match="from -90 to 160, and it is unknown"):
            pixels(image, channels=1)


def test_floats_of_unknown_range_may_be_from_0_to_1(tmp_path) -> None:
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(np.array([[0, 0.2, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    with Image.open(tmp_path / "unit.tif") as image:
        assert pixels(image, channels=1).tolist() == [[[0, 51, 255]]]
    with Image.open(tmp_path / "nan.tif") as image, pytest.raises(ValueError, match="not finite"):
        pixels(image, channels=1, levels=(0, 1))


@pytest.mark.parametrize("ending", [".png", ".tif", ".pgm", ".jp2"])
def test_16_bits_keep_their_range_and_their_orientation(tmp_path, ending: str) -> None:
    levels = (np.arange(6 * 9, dtype=np.uint16) * 1200).reshape(6, 9)
    path = tmp_path / f"deep{ending}"
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    turned = ending in (".png", ".tif")
    if ending == ".pgm":
        path.write_bytes(b"P5 9 6 65535\n" + levels.astype(">u2").tobytes())
    else:
        kwargs = {"exif": exif} if turned else {"irreversible": False} if ending == ".jp2" else {}
        Image.fromarray(levels).save(path, **kwargs)
    with Image.open(path) as image:
        array = pixels(image, channels=1)[0]
    expected = np.rint(levels / 257).astype(np.uint8)
    assert (array == (np.rot90(expected, -1) if turned else expected)).all()


def test_negative_values_are_refused(tmp_path) -> None:
    image = Image.fromarray(np.array([[-3000, 3000]], np.int32))
    image.format = "PNG"  # Pillow's mode for signed 16 bits is that of 32
    with pytest.raises(convae.UserError, match="negative values, of unknown range"):
        pixels(image, channels=1)


def test_12_bits_in_16_are_not_black() -> None:
    image = Image.fromarray(np.array([[0, 2048, 4095, 5000]], np.uint16))
    assert pixels(image, channels=1, white=4095).ravel().tolist() == [0, 128, 255, 255]
    assert sum("brighter than all" in line for line in said(image, channels=1, white=4095)) == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_show_the_background_and_no_hidden_colours(mode: str) -> None:
    hidden = np.zeros((4, 4, 4), np.uint8)
    hidden[..., 0] = 250  # red where nobody sees it
    hidden[:2] = (10, 10, 10, 255)
    image = Image.fromarray(hidden).convert("RGBA" if mode == "P" else mode)
    if mode == "P":
        image = image.convert("RGB").quantize(4)
        image.info["transparency"] = image.getpixel((0, 3))
    array = pixels(image, background="#0000ff")
    assert np.abs(array[:, 0].astype(int) - 10).max() <= 2
    assert (array[:, 3] == np.array([0, 0, 255])[:, None]).all()
    assert (pixels(image, channels=1)[0, 3] == 255).all()
    assert "with transparent parts, put on white: 1" in said(image)


def test_a_clear_value_of_16_bits_shows_the_background(tmp_path) -> None:
    levels = np.array([[1000, 40000]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "clear.png", transparency=1000)
    with Image.open(tmp_path / "clear.png") as image:
        assert pixels(image, channels=1).ravel().tolist() == [255, round(40000 / 257)]


def test_16_bits_in_colour_are_said_to_lose_half(tmp_path) -> None:
    rows = b"".join(b"\0" + bytes([9, 200] * 12) for _ in range(4))  # 4x4 pixels of 6 bytes

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = name + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with Image.open(tmp_path / "deep.png") as image:
        array, done = Preprocessing()(image)
    assert (array == 9).all()
    assert done.lines() == ["of 16 bits for each colour, of which Pillow keeps the upper 8: 1"]


def test_warnings_of_pillow_are_counted_and_not_printed(tmp_path, recwarn) -> None:
    image = Image.new("L", (4, 4))

    def load() -> None:
        warnings.warn("Truncated File Read", stacklevel=1)

    image.load = load
    assert said(image, channels=1) == ["of which Pillow warns: Truncated File Read: 1"]
    assert not recwarn.list


def test_opaque_pictures_with_an_alpha_channel_are_not_mentioned() -> None:
    assert said(Image.new("RGBA", (4, 4), (9, 8, 7, 255))) == []


def test_the_first_page_counts_even_if_the_second_is_broken(tmp_path) -> None:
    path = tmp_path / "pages.tif"
    pages = [Image.new("L", (6, 4), level) for level in (90, 10)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    path.write_bytes(path.read_bytes()[:-60])
    with Image.open(path) as image:
        array, done = Preprocessing(1)(image)
    assert (array == 90).all()
    assert any("several frames or pages" in line for line in done.lines())


def test_a_crop_that_cuts_parts_off_is_said() -> None:
    wide, almost = Image.new("RGB", (40, 20)), Image.new("RGB", (40, 40))
    assert any("by up to 50% of a picture" in line for line in said(wide, size=(8, 8)))
    assert said(almost, size=(8, 8)) == ["scaled to 8x8 pixels: 1"]


def stripes() -> Image.Image:
    """40 columns, of which a quarter at the left and at the right is black, and 20 grey rows."""
    values = np.full((20, 40), 200, np.uint8)
    values[:, :10] = values[:, 30:] = 0
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("fit", "rows"),
    [
        ("crop", [[200] * 8] * 8),
        ("stretch", [[0, 0, 200, 200, 200, 200, 0, 0]] * 8),
        (
            "pad",
            [[64] * 8] * 2 + [[0, 0, 200, 200, 200, 200, 0, 0]] * 4 + [[64] * 8] * 2,
        ),
    ],
)
def test_what_is_done_to_another_shape(fit: str, rows: list) -> None:
    how = {"channels": 1, "size": (8, 8), "fit": fit, "background": "#404040"}
    array = pixels(stripes(), **how)[0].astype(int)
    inner = np.ones((8, 8), bool)
    blurred = [0, 7] if fit == "crop" else [1, 2, 5, 6]  # next to an edge
    inner[:, blurred] = False
    assert (np.abs(array - rows) <= 2)[inner].all()
    kinds = {"crop": "cropped", "stretch": "stretched", "pad": "padded at the sides, with #404040"}
    assert any(line.startswith(kinds[fit]) for line in said(stripes(), **how))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(8000, 5), (1, 1), (3, 900)])
def test_extreme_shapes_fit(fit: str, size: tuple[int, int]) -> None:
    array = pixels(Image.new("RGB", size, (9, 8, 7)), size=(16, 12), fit=fit, background="black")
    assert array.shape == (3, 16, 12)
    assert array.max() == 9


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"fit": "squeeze"}, "fit"),
        ({"channels": 2}, "channels"),
        ({"size": (0, 4)}, "size"),
        ({"size": (4,)}, "size"),
        ({"white": 0}, "white"),
        ({"white": float("nan")}, "white"),
        ({"levels": (1.0, 1.0)}, "levels"),
        ({"levels": (0.0, float("nan"))}, "levels"),
        ({"levels": 2}, "levels"),
        ({"background": "no colour"}, "background"),
        ({"background": None}, "background"),
        ({"background": "#20304000"}, "background"),
    ],
)
def test_wrong_rules_are_refused(wrong: dict, name: str) -> None:
    with pytest.raises(convae.UserError, match=name):
        Preprocessing(**wrong)


@pytest.fixture
def model() -> convae.Autoencoder:
    return convae.Autoencoder((1, 4, 6), [convae.Layer(filters=2, kernel=3)])


def test_read_image_reads_as_the_models_file_says(tmp_path, model) -> None:
    Image.fromarray(np.full((4, 6), 2048, np.uint16)).save(tmp_path / "dark.png")
    model.metadata["preprocessing"] = Preprocessing(1, (4, 6), white=4095).plain()
    model.save(tmp_path / "model.safetensors")
    x = read_image(tmp_path / "dark.png", convae.load(tmp_path / "model.safetensors"))
    assert x.shape == (1, 1, 4, 6)
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, 128 / 255, rtol=1e-6)


def test_read_image_names_what_it_cannot_read(tmp_path, model) -> None:
    damaged = tmp_path / "text.png"
    damaged.write_text("no picture")
    with pytest.raises(FileNotFoundError):
        read_image(tmp_path / "missing.png", model)
    with pytest.raises(convae.UserError, match=r"text\.png.*not a picture"):
        read_image(damaged, model)
    model.metadata["preprocessing"] = {"white": "x"}
    with pytest.raises(convae.UserError, match="preprocessing wrongly: white"):
        read_image(damaged, model)


def test_models_of_other_arrays_take_no_pictures() -> None:
    model = convae.Autoencoder((2, 9), [convae.Layer(filters=2, kernel=3)])
    with pytest.raises(convae.UserError, match=r"shape \(2, 9\), which is not a picture's"):
        read_image(Path("any.png"), model)

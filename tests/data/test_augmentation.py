"""Augmentation: each image becomes one of those that a loop over its pixels makes, at random."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from convae.data.augmentation import NONE, Augmentation, cropped
from convae.data.pictures import Preprocessing
from convae.data.scaling import Scaling
from convae.data.splits import InMemory, Splits
from convae.errors import UserError, UserTypeError
from tests.helpers import pixels_of


def changed(image: np.ndarray, mirrored: bool, down: int, right: int) -> np.ndarray:
    """One image, pixel by pixel: mirrored, then moved, with its edges repeated."""
    _, rows, columns = image.shape
    result = np.empty_like(image)
    for y in range(rows):
        for x in range(columns):
            from_y = min(max(y - down, 0), rows - 1)
            from_x = min(max(x - right, 0), columns - 1)
            if mirrored:
                from_x = columns - 1 - from_x
            result[:, y, x] = image[:, from_y, from_x]
    return result


def found(augmentation: Augmentation, images: np.ndarray, step: int = 0) -> list[tuple]:
    """What has been done to each image; fails if it is none of the possible changes."""
    moves = range(-augmentation.shift, augmentation.shift + 1)
    mirrors = (False, True) if augmentation.flip else (False,)
    done = []
    for image, new in zip(images, augmentation(images, step), strict=True):
        (how,) = [
            (mirrored, down, right)
            for mirrored in mirrors
            for down in moves
            for right in moves
            if np.array_equal(changed(image, mirrored, down, right), new)
        ]
        done.append(how)
    return done


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 6, 4)])
@pytest.mark.parametrize(("flip", "shift"), [(True, 0), (False, 1), (False, 2), (True, 1)])
def test_every_image_is_one_of_the_possible_changes(shape, flip: bool, shift: int, rng) -> None:
    images = rng.integers(0, 256, (500, *shape), dtype=np.uint8)
    counts = Counter(found(Augmentation(flip, shift), images))
    possible = (2 if flip else 1) * (2 * shift + 1) ** 2
    assert len(counts) == possible
    mean = 500 / possible
    assert all(abs(count - mean) < 5 * mean**0.5 for count in counts.values())


@pytest.mark.parametrize("size", [(9,), (3, 4, 5)])
def test_signals_and_volumes_are_moved_along_every_axis(size, rng) -> None:
    x = rng.random((200, 2, *size))
    counts: Counter[tuple] = Counter()
    for example, new in zip(x, Augmentation(flip=True, shift=1)(x, 0), strict=True):
        (how,) = [
            (mirrored, *move)
            for mirrored in (False, True)
            for move in np.ndindex(*(3,) * len(size))
            if np.array_equal(moved(example, mirrored, [m - 1 for m in move]), new)
        ]
        counts[how] += 1
    assert len(counts) > 0.8 * 2 * 3 ** len(size)


def moved(example: np.ndarray, mirrored: bool, move: list[int]) -> np.ndarray:
    """One example mirrored along its last axis, and moved along each, with its edges repeated."""
    for axis, by in enumerate(move, start=1):
        length = example.shape[axis]
        places = np.arange(length)[:: -1 if mirrored and axis == len(move) else 1]
        example = example.take((places + by).clip(0, length - 1), axis)
    return example


@pytest.mark.parametrize("size", [(9,), (6, 7), (4, 5, 6)])
@pytest.mark.parametrize("flip", [True, False])
def test_windows_are_cut_out_at_random(size, flip: bool, rng) -> None:
    window = tuple(n - 2 for n in size)
    x = rng.random((300, 2, *size))
    counts: Counter[tuple] = Counter()
    for example, new in zip(x, Augmentation(flip, crop=window)(x, 0), strict=True):
        (how,) = [
            (mirrored, *start)
            for mirrored in {False, flip}
            for start in np.ndindex(*(3,) * len(size))
            if np.array_equal(cut(example, start, window, mirrored), new)
        ]
        counts[how] += 1
    possible = (1 + flip) * 3 ** len(size)
    assert len(counts) > 0.9 * possible
    assert max(counts.values()) < 300 / possible + 6 * (300 / possible) ** 0.5
    again = Augmentation(flip, crop=window)(x, 0)
    np.testing.assert_array_equal(again, Augmentation(flip, crop=window)(x, 0))
    assert (again != Augmentation(flip, crop=window)(x, 1)).any()


def cut(
    example: np.ndarray, start: tuple[int, ...], window: tuple[int, ...], mirrored: bool
) -> np.ndarray:
    where = (slice(at, at + side) for at, side in zip(start, window, strict=True))
    found = example[(slice(None), *where)]
    return found[..., ::-1] if mirrored else found


def test_the_middle_is_used_of_images_that_are_not_trained_on(rng) -> None:
    images = [rng.integers(0, 256, (count, 3, 9, 10), dtype=np.uint8) for count in (8, 4, 5)]
    labels = [np.arange(len(part)) for part in images]
    parts = [InMemory(*pair) for pair in zip(images, labels, strict=True)]
    data = cropped(Splits("x", *parts, how=Preprocessing(3, (9, 10))), (4, 7))
    assert isinstance(data.how, Preprocessing)
    assert data.how.crop == (4, 7)
    for split, whole in zip((data.train, data.validation, data.test), images, strict=True):
        assert split.shape == (3, 4, 7)
        np.testing.assert_array_equal(pixels_of(split), whole[:, :, 2:6, 1:8])
        some = split.select(np.array([3, 1]))
        np.testing.assert_array_equal(pixels_of(some), whole[[3, 1], :, 2:6, 1:8])
        assert some.labels is not None
        assert some.labels.tolist() == [3, 1]
        assert split.fingerprint() != InMemory(whole).fingerprint()
    assert cropped(data, None) is data
    picture = Image.fromarray(images[2][0].transpose(1, 2, 0))
    np.testing.assert_array_equal(data.how(picture)[0], images[2][0][:, 2:6, 1:8])


@pytest.mark.parametrize("crop", [(10, 4), (4, 11), (4,)])
def test_windows_larger_than_images_are_refused(crop) -> None:
    split = InMemory(np.zeros((4, 1, 9, 10), np.uint8))
    data = Splits("x", split, split, split, how=Preprocessing(1, (9, 10)))
    with pytest.raises(UserError, match=r"augmentation.crop: .* is no window of images of 9x10"):
        cropped(data, crop)
    with pytest.raises(UserError, match=r"augmentation.crop: .* is no window of images of 9x10"):
        Augmentation(crop=crop)(split.pixels, 0)


def test_windows_of_tiles_and_arrays_are_refused() -> None:
    split = InMemory(np.zeros((4, 1, 9, 10), np.uint8))
    for how in (Preprocessing(1, tile=(9, 10)), Scaling("NHW", "range", (0.0,), (1.0,))):
        with pytest.raises(UserError, match=r"augmentation\.crop: is for whole pictures"):
            cropped(Splits("x", split, split, split, how=how), (4, 4))


def test_images_of_a_batch_and_of_other_steps_are_changed_differently(rng) -> None:
    images = rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
    augmentation = Augmentation(flip=True, shift=1)
    steps = [found(augmentation, images, step) for step in range(3)]
    assert len(set(steps[0])) > 5
    assert steps[0] != steps[1] != steps[2] != steps[0]
    assert steps[0] != found(Augmentation(flip=True, shift=1, seed=1), images, 0)


def test_a_step_gives_the_same_images_whenever_it_comes(rng) -> None:
    images = rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)
    once = [Augmentation(True, 2, seed=3)(images, step) for step in (7, 8)]
    augmentation = Augmentation(True, 2, seed=3)
    for step in (8, 2, 7):
        again = augmentation(images, step)
    assert (again == once[0]).all()
    assert (again != once[1]).any()


def test_edges_are_replicated() -> None:
    image = np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3)
    seen = {Augmentation(shift=1)(image, step).tobytes() for step in range(200)}
    assert len(seen) == 9
    upper_left = np.array([[4, 5, 5], [7, 8, 8], [7, 8, 8]], np.uint8)  # moved up and left
    assert upper_left.tobytes() in seen


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_images_are_not_changed_in_place_and_keep_their_type(dtype: str, rng) -> None:
    images = rng.integers(0, 256, (20, 2, 5, 4)).astype(dtype)
    before = images.copy()
    new = Augmentation(True, 1)(images, 0)
    assert (images == before).all()
    assert (new.dtype, new.shape) == (images.dtype, images.shape)
    assert new.flags.c_contiguous
    assert not np.shares_memory(new, images)


def test_nothing_to_do_is_nothing_done(rng) -> None:
    images = rng.integers(0, 256, (4, 1, 3, 3), dtype=np.uint8)
    assert NONE(images, 0) is images
    assert not NONE
    assert Augmentation(flip=True)
    assert Augmentation(shift=1)


@pytest.mark.parametrize("shape", [(5, 1, 1, 1), (5, 3, 1, 4), (0, 1, 4, 4)])
def test_small_images_and_none_at_all(shape, rng) -> None:
    images = rng.integers(0, 256, shape, dtype=np.uint8)
    new = Augmentation(flip=True, shift=3)(images, 0)
    assert new.shape == shape
    for image, other in zip(images, new, strict=True):
        assert set(other.ravel()) <= set(image.ravel())


@pytest.mark.parametrize(
    ("arguments", "kind", "says"),
    [
        ({"flip": 1}, UserTypeError, "augmentation.flip: 1 is neither true nor false"),
        ({"flip": None}, UserTypeError, "augmentation.flip: None is neither"),
        ({"shift": -1}, UserError, "augmentation.shift: -1 is out of range; .* at least 0"),
        ({"shift": 1.5}, UserTypeError, "augmentation.shift: 1.5 is not an integer"),
        ({"shift": None}, UserTypeError, "augmentation.shift: None is not an integer"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind: type, says: str) -> None:
    with pytest.raises(kind, match=says):
        Augmentation(**arguments)


@pytest.mark.gpu
def test_a_gpu_changes_images_as_the_cpu_does(cupy, rng) -> None:
    images = rng.integers(0, 256, (20, 3, 7, 9), dtype=np.uint8)
    augmentation = Augmentation(flip=True, shift=2, seed=1)
    for step in (0, 5):
        found = augmentation(cupy.asarray(images), step)
        assert (found.get() == augmentation(images, step)).all()

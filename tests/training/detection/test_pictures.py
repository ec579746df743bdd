"""Pictures with boxes: seen as the service sees them, or varied at random with their boxes."""

from pathlib import Path

import numpy as np
import pytest

from aaserve.bundle.preprocessing import read_pixels
from aaserve.training.datasets.data import Data
from aaserve.training.detection.pictures import Inputs
from aaserve.training.detection.task import open_coco
from tests.training.detection.squares import COLOURS, detector

STILL = {"horizontal_flip": False, "vertical_flip": False, "scale": (1, 1), "stretch": 1, "colour": 0, "mosaic": 0}
BY_CLASS = np.array([COLOURS[3], COLOURS[7]])


def opened(squares: Path, **augmentation: object) -> Data:
    return open_coco(squares, detector(augmentation=STILL | augmentation))


def read(data: Data, seed: int = 0) -> Inputs:
    return next(data.training.batches([np.arange(len(data.training))], (seed, 0)))


def test_test_pictures_are_what_the_service_sees(squares: Path) -> None:
    chosen = detector()
    data = open_coco(squares, chosen)
    pixels = next(data.test.batches([np.array([2])], ())).pixels[0].numpy()
    expected = read_pixels(data.test.pictures[2].path.read_bytes(), chosen.preprocessing, max_pixels=10**6)
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    "augmentation",
    [
        pytest.param({}, id="still"),
        pytest.param({"horizontal_flip": True}, id="horizontal flip"),
        pytest.param({"vertical_flip": True}, id="vertical flip"),
        pytest.param({"scale": (0.5, 2.0), "stretch": 1.5}, id="scale and stretch"),
        pytest.param({"mosaic": 1.0}, id="mosaic"),
        pytest.param({"horizontal_flip": True, "vertical_flip": True, "scale": (0.7, 1.4), "mosaic": 0.5}, id="all"),
    ],
)
def test_boxes_stay_around_what_they_are_of(squares: Path, augmentation: dict) -> None:
    """The middle of a box is of the colour of its class, and nearly everything of that colour is in a box."""
    data = opened(squares, **augmentation)
    of_their_class, total, in_no_box = [], 0, 0
    for seed in range(3):
        inputs = read(data, seed)
        for pixels, found, classes in zip(inputs.pixels.numpy(), inputs.boxes, inputs.classes, strict=True):
            explained = np.zeros(pixels.shape[:2], bool)
            for (left, top, right, bottom), number in zip(found.tolist(), classes.tolist(), strict=True):
                rows, columns = slice(round(top), round(bottom)), slice(round(left), round(right))
                explained[max(0, rows.start - 1) : rows.stop + 1, max(0, columns.start - 1) : columns.stop + 1] = True
                inside = pixels[rows, columns].reshape(-1, 3)
                colours = np.abs(inside[:, None] - BY_CLASS.astype(int)).sum(-1)  # (pixels, 2)
                assert (colours.min(1) < 60).mean() > 0.6  # of the rectangle, or of one on top of it
                of_their_class.append(np.median(colours[:, number]) < 60)
                assert 0 <= left < right <= 64
                assert 0 <= top < bottom <= 64
            coloured = np.abs(pixels[..., None, :] - BY_CLASS.astype(int)).sum(-1).min(-1) < 60
            total += coloured.sum()
            in_no_box += (coloured & ~explained).sum()
    assert in_no_box < 0.15 * total  # the rest of rectangles that are cut off
    assert len(of_their_class) > 30
    assert np.mean(of_their_class) > 0.85  # not all, since one can be on top of another


def test_what_varies_follows_from_the_seed_the_epoch_and_the_number(squares: Path) -> None:
    everything = {"scale": (0.5, 2.0), "colour": 0.3, "mosaic": 0.5, "horizontal_flip": True}
    whole, again, other = (read(opened(squares, **everything), seed) for seed in (0, 0, 1))
    assert (whole.pixels == again.pixels).all()
    assert (whole.pixels != other.pixels).any()
    alone = next(opened(squares, **everything).training.batches([np.array([3])], (0, 0)))
    assert (alone.pixels[0] == whole.pixels[3]).all()
    assert (alone.boxes[0] == whole.boxes[3]).all()


def test_a_box_that_hardly_shows_is_not_to_be_found(squares: Path) -> None:
    """Enlarged three times, most rectangles are outside of the input."""
    count = sum(map(len, read(opened(squares)).boxes))
    enlarged = sum(map(len, read(opened(squares, scale=(3, 3))).boxes))
    assert 0 < enlarged < count / 2


def test_colours_change_and_places_do_not(squares: Path) -> None:
    still, recoloured = read(opened(squares)), read(opened(squares, colour=0.4))
    for one, other in zip(still.boxes, recoloured.boxes, strict=True):
        assert (one == other).all()
    changed = (still.pixels.float().mean((1, 2)) - recoloured.pixels.float().mean((1, 2))).abs().max(1).values
    assert (changed > 5).float().mean() > 0.5

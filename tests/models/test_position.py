"""The constants that tell attention where a pixel is."""

import math

import pytest
import torch

from models.position import coordinates, one_hot_positions, relative_index, sinusoidal_encoding


def test_row_0_of_a_relative_table_is_the_most_negative_offset() -> None:
    assert relative_index(3).tolist() == [[2, 3, 4], [1, 2, 3], [0, 1, 2]]


def test_each_position_is_marked_by_its_row_and_its_column() -> None:
    marks = one_hot_positions(2, 3)
    assert marks.shape == (6, 5)
    assert marks[4].tolist() == [0, 1, 0, 1, 0]  # row 1, column 1


def test_the_first_half_of_the_waves_runs_down_and_the_second_across() -> None:
    encoding = sinusoidal_encoding(8, 5, 7)
    assert encoding.shape == (8, 5, 7)
    assert torch.equal(encoding[:4], encoding[:4, :, :1].expand(-1, -1, 7))
    assert torch.equal(encoding[4:], encoding[4:, :1].expand(-1, 5, -1))


def test_the_waves_are_the_transformers() -> None:
    encoding = sinusoidal_encoding(8, 5, 7)
    expected = [math.sin(3), math.cos(3), math.sin(3 / 100), math.cos(3 / 100)]
    torch.testing.assert_close(encoding[:4, 3, 0], torch.tensor(expected))
    torch.testing.assert_close(encoding[4:, 0, 3], torch.tensor(expected))


@pytest.mark.parametrize("channels", [0, 6])
def test_channels_that_two_axes_of_sine_and_cosine_do_not_divide_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 4, got {channels}"):
        sinusoidal_encoding(channels, 2, 2)


def test_coordinates_run_from_minus_one_to_one() -> None:
    rows, columns = coordinates(3, 2)
    assert rows.tolist() == [[-1, -1], [0, 0], [1, 1]]
    assert columns.tolist() == [[-1, 1]] * 3


def test_a_single_row_is_in_the_middle() -> None:
    assert coordinates(1, 2)[0].tolist() == [[0, 0]]

"""Position encodings and the constants they are made of."""

import math

import pytest
import torch

from aaserve.models.attention.position import (
    POSITIONS,
    coordinates,
    one_hot_positions,
    relative_index,
    sinusoidal_encoding,
)


def test_row_0_of_a_relative_table_is_the_most_negative_offset() -> None:
    assert relative_index(3).tolist() == [[2, 3, 4], [1, 2, 3], [0, 1, 2]]


def test_one_hot_positions_mark_the_row_and_the_column() -> None:
    marks = one_hot_positions(2, 3)
    assert marks.shape == (6, 5)
    assert marks[4].tolist() == [0, 1, 0, 1, 0]  # row 1, column 1


def test_the_first_half_of_the_sinusoidal_channels_encodes_rows_and_the_second_columns() -> None:
    encoding = sinusoidal_encoding(8, 5, 7)
    assert encoding.shape == (8, 5, 7)
    assert torch.equal(encoding[:4], encoding[:4, :, :1].expand(-1, -1, 7))
    assert torch.equal(encoding[4:], encoding[4:, :1].expand(-1, 5, -1))


def test_the_sinusoidal_encoding_is_the_transformers() -> None:
    encoding = sinusoidal_encoding(8, 5, 7)
    expected = [math.sin(3), math.cos(3), math.sin(3 / 100), math.cos(3 / 100)]
    torch.testing.assert_close(encoding[:4, 3, 0], torch.tensor(expected))
    torch.testing.assert_close(encoding[4:, 0, 3], torch.tensor(expected))


@pytest.mark.parametrize("channels", [0, 6])
def test_a_sinusoidal_encoding_rejects_channels_that_are_not_a_multiple_of_4(channels: int) -> None:
    with pytest.raises(ValueError, match=f"multiples of 4, got {channels}"):
        sinusoidal_encoding(channels, 2, 2)


def test_coordinates_run_from_minus_one_to_one() -> None:
    rows, columns = coordinates(3, 2)
    assert rows.tolist() == [[-1, -1], [0, 0], [1, 1]]
    assert columns.tolist() == [[-1, 1]] * 3


def test_a_single_row_has_coordinate_0() -> None:
    assert coordinates(1, 2)[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("name", POSITIONS)
def test_an_encoding_changes_the_features_or_the_product_of_queries_and_keys(name: str) -> None:
    torch.manual_seed(0)
    position = POSITIONS[name](8, 3, (2, 5))
    x, q, k = torch.randn(1, 8, 2, 5), torch.randn(1, 4, 10, 3), torch.randn(1, 4, 3, 10)
    encoded = position.encode(x)
    assert encoded.shape == (1, 8 + position.added_channels, 2, 5)
    augmented_q, augmented_k = position.augment(q, k, *position.tables())
    changed = {
        "features": encoded.shape != x.shape or not torch.equal(encoded, x),
        "logits": not torch.equal(augmented_q @ augmented_k, q @ k),
    }
    assert [what for what, has_changed in changed.items() if has_changed] == {
        "none": [],
        "sinusoidal": ["features"],
        "coordconv": ["features"],
        "relative": ["logits"],
    }[name]

"""Loading a checkpoint into a network for another image size."""

import pytest
import torch
from torch import Tensor, nn

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.relative_tables import resize_relative_tables


def layer(height: int, width: int) -> nn.Module:
    torch.manual_seed(0)
    return AttentionAugmentedConv2d(
        4, 8, 3, key_channels=6, value_channels=4, num_heads=2, feature_size=(height, width)
    )


def resized(table: Tensor, length: int) -> Tensor:
    """The height table of a layer that is `length` pixels high, from a checkpoint with `table`."""
    return resize_relative_tables({"key_rel_h": table}, layer(length, 2))["key_rel_h"]


def test_tables_of_the_same_size_do_not_change() -> None:
    weights = layer(4, 6).state_dict()
    assert all(
        torch.equal(weights[name], tensor) for name, tensor in resize_relative_tables(weights, layer(4, 6)).items()
    )


@pytest.mark.parametrize("old_length", [2, 4, 7, 14])
def test_the_farthest_offsets_and_offset_0_keep_their_embeddings(old_length: int) -> None:
    table = torch.randn(2 * old_length - 1, 3)
    for length in range(2, 60):
        new = resized(table, length)
        assert new.shape == (2 * length - 1, 3)
        torch.testing.assert_close(new[[0, length - 1, -1]], table[[0, old_length - 1, -1]], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 12])
@pytest.mark.parametrize("old_length", [1, 4])
def test_a_constant_table_stays_constant(old_length: int, length: int) -> None:
    table = torch.tensor([[1.5, -2.0, 0.0]]).expand(2 * old_length - 1, -1)
    torch.testing.assert_close(resized(table, length), table[:1].expand(2 * length - 1, -1))


def test_offsets_in_between_are_interpolated_linearly() -> None:
    table = torch.tensor([[0.0], [1.0], [4.0]]).expand(-1, 3)  # offsets -1, 0, 1
    assert resized(table, 3)[:, 0].tolist() == [0.0, 0.5, 1.0, 2.5, 4.0]


def test_a_feature_map_of_one_pixel_keeps_offset_0() -> None:
    table = torch.randn(7, 3)
    assert torch.equal(resized(table, 1), table[3:4])


@pytest.mark.parametrize("name", ["aa_wide_resnet10_1", "aa_resnet34"])
def test_a_checkpoint_for_another_image_size_loads_after_resizing(name: str) -> None:
    trained = create_model(name, num_classes=3, image_size=64)
    network = create_model(name, num_classes=3, image_size=(32, 96)).eval()
    weights = trained.state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for layer3\.0\.conv1\.key_rel_h"):
        network.load_state_dict(weights)
    network.load_state_dict(resize_relative_tables(weights, network))
    assert torch.equal(network.conv1.weight, trained.conv1.weight)
    with torch.inference_mode():
        assert network(torch.randn(1, 3, 32, 96)).isfinite().all()


def test_resizing_does_not_modify_the_checkpoint() -> None:
    weights = layer(4, 6).state_dict()
    before = weights["key_rel_h"].clone()
    resize_relative_tables(weights, layer(8, 6))
    assert torch.equal(weights["key_rel_h"], before)


@pytest.mark.parametrize("shape", [(6, 3), (7, 4), (7,)], ids=["even length", "other depth", "no depth"])
def test_a_table_with_an_impossible_shape_is_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"key_rel_h must be \(an odd number, 3\), got"):
        resized(torch.zeros(shape), 5)


def test_a_table_the_network_does_not_have_is_passed_through_for_load_state_dict_to_report() -> None:
    weights = {"key_rel_h": torch.zeros(3, 3), "other.key_rel_h": torch.zeros(4)}
    assert resize_relative_tables(weights, layer(2, 2))["other.key_rel_h"].shape == (4,)

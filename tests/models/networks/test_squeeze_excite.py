"""Squeeze-and-excitation."""

import pytest
import torch

from aaserve.models.networks.layers import SqueezeExcite


def test_each_channel_is_rescaled_by_its_gate() -> None:
    torch.manual_seed(0)
    layer, x = SqueezeExcite(32), torch.randn(2, 32, 3, 5)
    means = x.mean(dim=(2, 3))
    hidden = (means @ layer.fc1.weight[:, :, 0, 0].T + layer.fc1.bias).clamp(min=0)
    gate = torch.sigmoid(hidden @ layer.fc2.weight[:, :, 0, 0].T + layer.fc2.bias)
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((64,), 4), ((64, 10), 10), ((8,), 1)],
    ids=["sixteenth", "as asked", "at least one"],
)
def test_the_bottleneck_is_a_sixteenth_unless_asked_otherwise(arguments: tuple[int, ...], expected: int) -> None:
    assert SqueezeExcite(*arguments).fc1.out_channels == expected


def test_biases_can_be_left_out() -> None:
    assert set(SqueezeExcite(32, bias=False).state_dict()) == {"fc1.weight", "fc2.weight"}

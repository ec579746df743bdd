"""Gather-excite without parameters."""

import torch

from aaserve.models.networks.layers import GatherExcite


def test_each_channel_is_rescaled_by_the_sigmoid_of_its_mean() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[-4.0, 0.0]]]])  # (1, 2, 1, 2), means 2 and -2
    high, low = torch.sigmoid(torch.tensor([2.0, -2.0]))
    expected = torch.tensor([[[[1 * high, 3 * high]], [[-4 * low, 0.0]]]])
    torch.testing.assert_close(GatherExcite()(x), expected)


def test_it_has_no_state() -> None:
    assert not GatherExcite().state_dict()

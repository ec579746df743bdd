"""The formulations that are timed against each other compute the same thing."""

import pytest
import torch

from benchmarks.attention import FORMULATIONS, Layer


@pytest.mark.parametrize("name", sorted(FORMULATIONS.keys() - {"no position"}))
def test_every_formulation_answers_as_the_layer(name: str) -> None:
    torch.manual_seed(0)
    layer = Layer(6, 12, 3, key_channels=8, value_channels=4, num_heads=2, feature_size=(3, 5)).eval()
    x = torch.randn(2, 6, 3, 5)
    torch.testing.assert_close(FORMULATIONS[name](layer, x), Layer._attend(layer, x))

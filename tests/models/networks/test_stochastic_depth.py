"""Stochastic depth."""

import pytest
import torch

from aaserve.models import create_model
from aaserve.models.networks.layers import StochasticDepth


def test_evaluation_leaves_the_residual_alone() -> None:
    x = torch.randn(4, 2, 3, 3)
    assert StochasticDepth(0.5).eval()(x) is x


def test_training_drops_whole_images_and_scales_up_the_rest() -> None:
    torch.manual_seed(0)
    output = StochasticDepth(0.25)(torch.ones(4000, 2, 1, 1))
    per_image = output[:, 0, 0, 0]
    assert torch.equal(output, per_image[:, None, None, None].expand_as(output))
    torch.testing.assert_close(per_image.unique(), torch.tensor([0, 1 / 0.75]))
    assert (per_image == 0).float().mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=f"below 1, got {probability}"):
        StochasticDepth(probability)


@pytest.mark.parametrize("name", ["resnet34", "wide_resnet10_1"])
def test_the_last_block_is_dropped_most(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name, stochastic_depth=0.2)
    drops = [module.probability for module in network.modules() if isinstance(module, StochasticDepth)]
    assert drops == pytest.approx([0.2 * (index + 1) / len(drops) for index in range(len(drops))])

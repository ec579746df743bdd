"""Counting operations, in the paper's convention and in the plain one."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.flops import Flops, count_flops


def flops(name: str, **overrides: Any) -> Flops:
    with torch.device("meta"):
        network = create_model(name, **overrides)
    return count_flops(network, network.image_size)


@pytest.mark.parametrize(
    ("name", "ratio", "published"),
    [
        ("aa_resnet34", None, 7.1),
        ("aa_resnet50", None, 8.3),
        ("aa_resnet101", None, 16.1),
        ("aa_resnet152", None, 23.8),
        ("aa_resnet50", 0.25, 7.9),
        ("aa_resnet50", 0.5, 7.3),
        ("aa_resnet50", 0.75, 6.8),
    ],
)
def test_the_papers_gflops_come_out_to_the_digit_published(name: str, ratio: float | None, published: float) -> None:
    ratios = {} if ratio is None else {"kappa": ratio, "upsilon": ratio}
    assert round(flops(name, **ratios).paper / 1e9, 1) == published


def test_the_fully_attentional_network_is_eight_hundredths_above_the_papers_6_3() -> None:
    assert round(flops("fa_resnet50").paper / 1e9, 2) == 6.38


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet34", 7.33), ("resnet50", 8.18), ("resnet101", 15.60), ("resnet152", 23.03), ("wide_resnet28_10", 10.43)],
)
def test_plain_networks_count_the_same_in_both_conventions(name: str, expected: float) -> None:
    counted = flops(name)
    assert round(counted.paper / 1e9, 2) == expected
    assert counted.plain == counted.paper


def test_twelve_augmented_blocks_of_wide_resnet28_10_take_11_4_gflops() -> None:
    assert round(flops("aa_wide_resnet28_10").paper / 1e9, 2) == 11.40


@pytest.mark.parametrize("name", ["resnet50", "se_wide_resnet16_4", "mnasnet1_0"])
def test_pytorchs_own_counter_agrees_on_layers(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name).eval()
        image = torch.zeros(1, 3, *network.image_size)
    with FlopCounterMode(display=False) as counter:
        network(image)
    assert count_flops(network, network.image_size).plain == counter.get_total_flops()


def test_attention_is_counted_by_its_formulas() -> None:
    layer = AttentionAugmentedConv2d(3, 16, 3, key_channels=8, value_channels=4, num_heads=2, feature_size=(4, 6))
    counted = count_flops(layer, (8, 12))
    positions = 4 * 6
    layers = 12 * 3 * 9 * 8 * 12 + (8 + 8 + 4) * 3 * positions + 4 * 4 * positions
    content = positions * positions * (8 + 4)
    relative = positions * (4 + 6) * 8
    assert counted == Flops(paper=2 * layers + content, plain=2 * (layers + content + relative))


def test_counting_leaves_the_network_as_it_was() -> None:
    network = create_model("wide_resnet10_1")
    assert count_flops(network, (32, 32)) == count_flops(network, (32, 32))
    assert network.training
    assert network.bn.num_batches_tracked == 0

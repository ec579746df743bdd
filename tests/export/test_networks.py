"""Every network exports to a graph with the same answers; small and not square, to keep it quick.

Tracing takes seconds for each network, so one of each kind is exported. The others have to be of the same kind: the
same layers in the same order, with other numbers of channels.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import check_parity
from aaserve.models import create_model, is_detector, list_models

EXPORTED = [
    *("aa_efficientnet_lite0", "efficientnet_lite0", "aa_mnasnet1_0", "mnasnet1_0"),
    *("aa_resnet34", "aa_resnet50", "fa_resnet50", "resnet34", "resnet50", "se_resnet34", "se_resnet50"),
    "aa_wide_resnet28_10",
    *(f"{kind}wide_resnet{size}" for kind in ("aa_", "ge_", "se_", "") for size in ("10_1", "16_2")),
]
WITH_MAPS = ("aa_resnet34", "aa_wide_resnet16_2")  # tests/export/graph/test_attention_maps.py exports them, with maps
POSITIONS = [("aa_wide_resnet10_1", {"position": position}) for position in ("none", "sinusoidal", "coordconv")]
CASES = [(name, {}) for name in EXPORTED if name not in WITH_MAPS] + POSITIONS
FROM_SHAPES = {"Shape", "Size", "Expand", "ConstantOfShape", "Gather", "Range"}


def stages(network: nn.Module) -> list[tuple[nn.Module, str, nn.Sequential]]:
    """The stages that repeat a block, each with its parent and its name there."""
    found = []
    for name, stage in network.named_modules():
        kinds = {type(block) for block in stage} if isinstance(stage, nn.Sequential) else set()
        if len(kinds) == 1 and kinds != {nn.Sequential}:
            parent, _, child = name.rpartition(".")
            found.append((network.get_submodule(parent), child, stage))
    return found


def small(name: str, **overrides: str) -> nn.Module:
    """The network for a small image, with one block of each stage, and two of the last stage that has several.

    The first block of a stage changes resolution and channels, the second one is like all later ones.
    """
    torch.manual_seed(0)
    size = (8, 16) if "wide" in name else (32, 64)
    network = create_model(name, num_classes=7, image_size=size, **overrides)
    found = stages(network)
    last = max((index for index, (*_, stage) in enumerate(found) if len(stage) > 1), default=None)
    for index, (parent, child, stage) in enumerate(found):
        setattr(parent, child, stage[: 2 if index == last else 1])
    return network


def layers(network: nn.Module) -> Iterator[tuple[object, ...]]:
    """Name, class and options of each layer, without its numbers of channels."""
    for name, module in network.named_modules():
        options = ("kernel_size", "stride", "padding", "dilation", "num_heads", "feature_size", "position")
        depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
        yield name, type(module), depthwise, *(str(getattr(module, option, None)) for option in options)


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


def test_the_other_networks_have_the_layers_of_one_that_is_exported() -> None:
    with torch.device("meta"):  # layers without numbers
        found = {name: list(layers(small(name))) for name in list_models() if not is_detector(name)}
    exported = [found[name] for name in EXPORTED]
    assert not [name for name in found if found[name] not in exported]

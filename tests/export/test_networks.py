"""Every network exports to a graph with the same answers; small and not square, to keep it quick."""

import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aaserve.bundle.preprocessing import Preprocessing
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import check_parity
from aaserve.models import create_model, list_models

NETWORKS = [(name, {}) for name in list_models()]
NETWORKS += [("aa_wide_resnet10_1", {"position": position}) for position in ("none", "sinusoidal", "coordconv")]
# Networks that differ from another one only in width or in the number of blocks.
SIBLINGS = re.compile(r"(resnet1\d\d|mnasnet1_\d+|wide_resnet(16_4|22_2|28_10))$")
FROM_SHAPES = {"Shape", "Size", "Expand", "ConstantOfShape", "Gather", "Range"}


def shallow(network: nn.Module, blocks: int) -> nn.Module:
    """The network with the first `blocks` of each stage: tracing all blocks of all networks takes eight minutes.

    The first block of a stage changes resolution and channels, the second one is like all later ones.
    """
    for name, stage in list(network.named_modules()):
        if isinstance(stage, nn.Sequential) and len({type(block) for block in stage}) == 1:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, stage[:blocks])
    return network


@pytest.mark.parametrize(("name", "overrides"), NETWORKS, ids=[f"{name} {over or ''}" for name, over in NETWORKS])
def test_the_exported_graph_answers_as_the_network(name: str, overrides: dict) -> None:
    torch.manual_seed(0)
    height, width = (16, 32) if "wide" in name else (32, 64)
    network = create_model(name, num_classes=7, image_size=(height, width), **overrides)
    network = shallow(network, 1 if SIBLINGS.search(name) else 2)
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
    check_parity(PyTorch(network, preprocessing), model, pixels, preprocessing, batch_sizes=[1, 3])
    # These run on the host: a GPU would wait for them, and could not replay the graph.
    assert not {node.op_type for node in onnx.load_model_from_string(model).graph.node} & FROM_SHAPES

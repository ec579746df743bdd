"""Weights of a plain network, from which an augmented one begins."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aaserve.models import create_model
from aaserve.training.weights import read_weights, take
from tests.training.classification.distilling import CLASSES, distilling, refusal, saved


def test_an_augmented_network_begins_as_the_plain_one_without_the_filters_that_attention_replaces(
    teacher: Path,
) -> None:
    network = create_model("aa_wide_resnet10_1", num_classes=CLASSES)
    taken = take(network, read_weights(str(teacher)), "teacher")
    plain = create_model("wide_resnet10_1", num_classes=CLASSES)
    plain.load_state_dict(load_file(teacher))
    (name,) = taken.augmented
    layer, filters = network.get_submodule(name), plain.get_submodule(name).weight
    with torch.no_grad():
        filters[-layer.value_channels :] = 0
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(images), plain.eval()(images))
    assert str(taken) == (
        f"{taken.whole} tensors taken; attention is new beside the filters kept in "
        f"{name} ({len(layer.conv.weight)} of {len(filters)})"
    )


def lite_weights() -> dict[str, Tensor]:
    """Of a plain network whose normalisations differ from channel to channel."""
    torch.manual_seed(0)
    network = create_model("efficientnet_lite0", num_classes=CLASSES, image_size=64)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias, std=3)
            nn.init.uniform_(module.weight, 0.1, 10)
    return network.state_dict()


def test_attention_in_the_place_of_1x1_filters_begins_as_these_averaged_over_positions_that_are_alike() -> None:
    weights = lite_weights()
    network = create_model("aa_efficientnet_lite0", num_classes=CLASSES, image_size=64)
    take(network, weights, "teacher")
    name = "blocks.3.2.conv_pw"  # of the first shortcut in stage 4, at 4x4
    layer = network.get_submodule(name)
    filters = network.sorted_expansions(weights, [name])[f"{name}.weight"]
    mean = weights["blocks.3.0.bn3.bias"] + weights["blocks.3.1.bn3.bias"]
    variance = weights["blocks.3.0.bn3.weight"].square() + weights["blocks.3.1.bn3.weight"].square()
    halves = mean + variance.sqrt() * torch.randn(2, 80)  # features of the left and of the right half
    image = halves.repeat_interleave(2, dim=0).T.reshape(1, 80, 1, 4).expand(1, 80, 4, 4)
    image = image + 0.3 * variance.sqrt()[:, None, None] * torch.randn(1, 80, 4, 4)
    with torch.inference_mode():
        found, expected = layer(image), nn.functional.conv2d(image, filters)
        maps = layer.attention_map(image).unflatten(3, (4, 4))[0]  # (heads, queries, rows, columns)
    left, right = maps[:, 0, :, :2], maps[:, 3, :, 2:]
    for half in (left, right):
        assert (half.sum(dim=(1, 2)) > 0.6).all()
        assert half.sum(dim=(1, 2)).mean() > 0.8
        assert (half < 0.5).all()  # no cell alone
    kept = len(layer.conv.weight)
    torch.testing.assert_close(found[:, :kept], expected[:, :kept])
    wrong = (found[:, kept:] - expected[:, kept:]).square().mean()
    assert wrong < 0.2 * expected[:, kept:].square().mean()


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"conv1.weight": torch.zeros(16, 3, 5, 5)}, "1 of another shape: conv1.weight (expected (16, 3, 3, 3), found"),
        ({"extra.weight": torch.zeros(2)}, "1 unexpected: extra.weight"),
        ({"conv1.weight": torch.full((16, 3, 3, 3), torch.nan)}, "1 unusable: conv1.weight (not finite)"),
    ],
    ids=["shape", "unknown", "nan"],
)
def test_weights_that_do_not_fit_are_refused(
    teacher: Path, photographs: Path, tmp_path: Path, replaced: dict[str, Tensor], message: str
) -> None:
    network = create_model("wide_resnet10_1", num_classes=CLASSES)
    wrong = saved(network, tmp_path / "wrong.safetensors", **replaced)
    said = refusal(distilling(wrong, photographs), photographs, tmp_path)
    assert said.startswith(f"{wrong}: the weights do not fit the network: {message}")


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("blocks.3.1.bn2.weight", None, "1 missing: blocks.3.1.bn2.weight"),
        ("blocks.2.0.bn3.bias", None, "1 missing: blocks.2.0.bn3.bias"),
        ("blocks.3.1.bn2.bias", torch.zeros(7), "1 of another shape: blocks.3.1.bn2.bias (expected (480,), found (7,)"),
        (
            "blocks.3.1.conv_pw.weight",
            torch.zeros(240, 80, 1, 1),
            "1 of another shape: blocks.3.1.conv_pw.weight (expected (480, 80, 1, 1), found (240, 80, 1, 1)",
        ),
    ],
    ids=["sorting", "spread of the input", "shape", "filters"],
)
def test_weights_that_attention_cannot_begin_from_are_refused(
    name: str, replacement: Tensor | None, message: str
) -> None:
    weights = lite_weights()
    if replacement is None:
        del weights[name]
    else:
        weights[name] = replacement
    network = create_model("aa_efficientnet_lite0", num_classes=CLASSES, image_size=64)
    with pytest.raises(ValueError, match=f"^teacher: the weights do not fit the network: {re.escape(message)}"):
        take(network, weights, "teacher")


def test_weights_of_another_network_are_refused(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    other = saved(create_model("wide_resnet16_2", num_classes=CLASSES), tmp_path / "other.safetensors")
    said = refusal(distilling(teacher, photographs, {"teacher_weights": str(other)}), photographs, tmp_path)
    assert " unexpected: " in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("package:no_such_package/file.pth", "the package no_such_package is not installed (pip install no-such-"),
        ("package:numpy/file.pth", "numpy/file.pth: expected a file of weights, found none"),
        ("nowhere.pth", "nowhere.pth: expected a file of weights, found none"),
        (__file__, "not a state dict of torch.save or safetensors, or damaged"),
    ],
    ids=["package", "file of a package", "file", "kind"],
)
def test_weights_that_are_not_there_are_refused(
    teacher: Path, photographs: Path, tmp_path: Path, source: str, message: str
) -> None:
    chosen = distilling(teacher, photographs, {"teacher_weights": source})
    assert message in refusal(chosen, photographs, tmp_path)

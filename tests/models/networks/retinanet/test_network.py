"""RetinaNet: shapes, counts, names of weights, and what it begins with."""

from typing import Any

import pytest
import torch
from torch import nn

from aaserve.models import create_model, is_detector, list_models
from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.relative_tables import resize_relative_tables
from aaserve.models.flops import count_flops
from aaserve.models.networks.retinanet.network import RetinaNet

DETECTORS = [name for name in list_models() if is_detector(name)]
PAPERS = {"num_classes": 90, "anchor_scales": 2}  # what reproduces the paper's figures, see docs/networks.md


def on_meta(name: str, **options: Any) -> RetinaNet:
    with torch.device("meta"):
        return create_model(name, **options)


def millions(network: nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1)


def test_the_registry_has_the_papers_detectors_and_two_small_ones() -> None:
    assert [name.removeprefix("retinanet_") for name in DETECTORS] == [
        "aa_resnet101",
        "aa_resnet50",
        "aa_small",
        "resnet101",
        "resnet50",
        "se_resnet101",
        "se_resnet50",
        "small",
    ]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_answers_for_each_anchor_of_a_picture_of_any_size(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=3, image_size=(70, 101)).eval()
    with torch.inference_mode():
        logits, deltas = network(torch.randn(2, 3, 70, 101))
    positions = 9 * 13 + 5 * 7 + 3 * 4 + 2 * 2 + 1
    assert network.anchors.shape == (9 * positions, 4)
    assert logits.shape == (2, 9 * positions, 3)
    assert deltas.shape == (2, 9 * positions, 4)
    assert logits.isfinite().all()
    assert deltas.isfinite().all()


def test_answers_are_in_the_order_of_the_anchors() -> None:
    """With the last convolution alone, an anchor's logits are the biases of its place."""
    network = create_model("retinanet_small", num_classes=2, image_size=(64, 96)).eval()
    with torch.no_grad():
        network.class_head[-1].weight.zero_()
        network.class_head[-1].bias.copy_(torch.arange(18.0))
        network.box_head[-1].weight.zero_()
        network.box_head[-1].bias.copy_(torch.arange(36.0))
        logits, deltas = network(torch.zeros(1, 3, 64, 96))
    assert torch.equal(logits[0].unflatten(0, (-1, 9)), torch.arange(18.0).view(9, 2).expand(len(logits[0]) // 9, 9, 2))
    assert torch.equal(deltas[0, 9:18], torch.arange(36.0).view(9, 4))


def test_a_position_sees_its_own_place() -> None:
    """A bright spot changes most what the anchors around it say."""
    torch.manual_seed(0)
    network = create_model("retinanet_small", num_classes=1, image_size=(128, 192)).eval()
    spot = torch.zeros(1, 3, 128, 192)
    spot[..., 90:98, 30:38] = 5.0
    with torch.inference_mode():
        changed = (network(spot)[1] - network(torch.zeros_like(spot))[1]).abs().sum(dim=-1)[0]
    on_p3 = changed[: 16 * 24 * 9].view(16, 24, 9).sum(-1)
    row, column = divmod(int(on_p3.argmax()), 24)
    assert abs(row - 94 / 8) < 3
    assert abs(column - 34 / 8) < 3


@pytest.mark.parametrize(
    ("name", "published", "gflops"),
    [
        ("resnet50", 33.4, 182),
        ("se_resnet50", 35.9, None),  # the paper's 183 would take another way to count the gates
        ("resnet101", 52.4, 243),
        ("se_resnet101", 57.2, 243),
    ],
)
def test_six_anchors_and_90_classes_reproduce_the_papers_figures(
    name: str, published: float, gflops: int | None
) -> None:
    network = on_meta(f"retinanet_{name}", **PAPERS)
    assert millions(network) == published
    if gflops:
        assert round(count_flops(network, (640, 640)).paper / 1e9) == gflops


@pytest.mark.parametrize(("depth", "published", "gflops"), [(50, 33.1, 182), (101, 51.7, 245)])
def test_what_would_have_to_be_assumed_for_the_papers_augmented_detectors(
    depth: int, published: float, gflops: int
) -> None:
    """No minimum key depth, the strided block of each stage plain, and the first augmented stage at 20x20."""
    network = on_meta(f"retinanet_aa_resnet{depth}", **PAPERS, min_key_channels_per_head=0)
    assert millions(network) != published
    with torch.device("meta"):
        for stage in (2, 3, 4):
            layer = getattr(network.backbone, f"layer{stage}")
            width = 64 * 2 ** (stage - 1)
            layer[0].conv2 = nn.Conv2d(width, width, 3, 2, padding=1, bias=False)
            for block in layer[1:] if stage == 2 else ():
                block.conv2 = AttentionAugmentedConv2d(
                    width, width, 3, key_channels=24, value_channels=8, num_heads=8, feature_size=(20, 20)
                )
    assert millions(network) == published
    assert round(count_flops(network, (640, 640)).paper / 1e9) == gflops


def test_the_small_detectors_are_small() -> None:
    for name in ("retinanet_small", "retinanet_aa_small"):
        network = on_meta(name)
        assert millions(network) < 6
        assert count_flops(on_meta(name, num_classes=3), network.image_size).plain < 2.5e9


@pytest.mark.parametrize("name", ["resnet50", "se_resnet50", "aa_resnet50"])
def test_weights_of_the_classification_network_load_into_the_backbone(name: str) -> None:
    classifier = create_model(name, num_classes=7, image_size=64)
    detector = create_model(f"retinanet_{name}", image_size=(64, 96))
    weights = {key: value for key, value in classifier.state_dict().items() if not key.startswith("fc.")}
    weights = {f"backbone.{key}": value for key, value in weights.items()}
    found = detector.load_state_dict(resize_relative_tables(weights, detector), strict=False)
    assert not found.unexpected_keys
    assert {key.partition(".")[0] for key in found.missing_keys} == {"pyramid", "class_head", "box_head"}


def test_the_parts_of_a_detector_have_fixed_names() -> None:
    keys = [key for key in on_meta("retinanet_resnet50").state_dict() if not key.startswith("backbone.")]
    assert keys == [
        f"{layer}.{part}"
        for layer in (
            *(f"pyramid.{kind}.{index}" for kind in ("lateral", "output") for index in range(3)),
            *(f"pyramid.extra.{index}" for index in range(2)),
            *(f"{head}.{index}" for head in ("class_head", "box_head") for index in (0, 2, 4, 6, 8)),
        )
        for part in ("weight", "bias")
    ]


def test_attention_is_in_the_backbone_alone_and_no_map_is_larger_than_a_sixteenth_of_the_picture() -> None:
    network = on_meta("retinanet_aa_resnet50")
    layers = {name: m for name, m in network.named_modules() if isinstance(m, AttentionAugmentedConv2d)}
    assert len(layers) == 4 + 6 + 3
    assert all(name.startswith("backbone.layer") for name in layers)
    assert {layer.feature_size for layer in layers.values()} == {(40, 40), (20, 20)}


def test_a_fresh_detector_gives_each_class_a_hundredth() -> None:
    network = create_model("retinanet_resnet50", image_size=64, num_classes=2).eval()
    with torch.inference_mode():
        logits, _ = network(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["retinanet_resnet50", "retinanet_aa_resnet50", "retinanet_aa_small"])
def test_gradients_reach_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=2, image_size=(64, 96))
    logits, deltas = network(torch.randn(2, 3, 64, 96))
    (logits.square().sum() + deltas.square().sum()).backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert not without


def test_heads_are_the_same_weights_on_every_level() -> None:
    network = create_model("retinanet_small", image_size=(64, 96)).eval()
    maps = [torch.randn(1, 64, 8, 12)] * 5
    logits = [network.class_head(level) for level in maps]
    assert all(torch.equal(level, logits[0]) for level in logits)


def test_pictures_of_another_size_are_refused() -> None:
    network = on_meta("retinanet_small", image_size=(64, 96))
    with pytest.raises(ValueError, match=r"built for images of \(64, 96\), got \(96, 64\)"):
        network(torch.zeros(1, 3, 96, 64))


def test_anchors_are_no_part_of_the_state_dict() -> None:
    assert "anchors" not in on_meta("retinanet_small").state_dict()

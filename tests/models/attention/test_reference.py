"""The augmented convolution against the paper's formulas, in plain loops and float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aaserve.models.attention import AttentionAugmentedConv2d
from aaserve.models.attention.position import POSITIONS

Picture = list[list[list[float]]]  # [channel][row][column]


def reference(layer: AttentionAugmentedConv2d, x: Tensor, position: str) -> Tensor:
    """Concat[Conv(x), MHA(x)] of one image (in, h, w), by section 3 of the paper."""
    weights = {name: tensor.detach().double() for name, tensor in layer.state_dict().items()}
    x = x.double()
    kernel_size = layer.conv.kernel_size[0] if layer.conv else 1
    output_size = [math.ceil(size / layer.stride) for size in x.shape[1:]]
    features = x.tolist()
    while [len(features[0]), len(features[0][0])] != list(layer.feature_size):
        features = [pooled(channel) for channel in features]
    attended = attention(layer, weights, with_position(position, features), position)
    parts = [torch.tensor([upsampled(channel, *output_size) for channel in attended], dtype=torch.float64)]
    if layer.conv:
        parts.insert(0, F.conv2d(x[None], weights["conv.weight"], None, layer.stride, kernel_size // 2)[0])
    return torch.cat(parts)


def attention(layer: AttentionAugmentedConv2d, weights: dict[str, Tensor], features: Picture, position: str) -> Picture:
    """O_h = softmax((QK^T + S_H + S_W) / sqrt(d)) V for each head, then concatenation times W^O."""
    height, width = layer.feature_size
    places = [(row, column) for row in range(height) for column in range(width)]
    d, e = layer.key_channels // layer.num_heads, layer.value_channels // layer.num_heads
    matrix = weights["qkv.weight"][:, :, 0, 0]
    projected = {
        (row, column): (matrix @ torch.tensor([channel[row][column] for channel in features], dtype=torch.float64))
        for row, column in places
    }
    concatenated = {place: [] for place in places}
    for head in range(layer.num_heads):
        query = {place: vector[head * d :][:d] for place, vector in projected.items()}
        key = {place: vector[layer.key_channels + head * d :][:d] for place, vector in projected.items()}
        value = {place: vector[2 * layer.key_channels + head * e :][:e] for place, vector in projected.items()}
        for i in places:
            logits = []
            for j in places:
                logit = float(query[i] @ key[j])
                if position == "relative":
                    logit += float(query[i] @ weights["key_rel_h"][j[0] - i[0] + height - 1])
                    logit += float(query[i] @ weights["key_rel_w"][j[1] - i[1] + width - 1])
                logits.append(logit / math.sqrt(d))
            exponentials = [math.exp(logit) for logit in logits]
            total = sum(exponentials)
            concatenated[i] += sum(
                (share / total * value[j] for share, j in zip(exponentials, places, strict=True)),
                start=torch.zeros(e, dtype=torch.float64),
            ).tolist()
    output = weights["proj.weight"][:, :, 0, 0]
    mixed = {place: (output @ torch.tensor(heads, dtype=torch.float64)) for place, heads in concatenated.items()}
    return [
        [[float(mixed[row, column][channel]) for column in range(width)] for row in range(height)]
        for channel in range(layer.value_channels)
    ]


def with_position(position: str, features: Picture) -> Picture:
    height, width, channels = len(features[0]), len(features[0][0]), len(features)
    rows, columns = range(height), range(width)
    if position == "coordconv":
        from_top = [[2 * row / (height - 1) - 1 for _ in columns] for row in rows]
        from_left = [[2 * column / (width - 1) - 1 for column in columns] for _ in rows]
        return [*features, from_top, from_left]
    if position == "sinusoidal":
        half = channels // 2

        def wave(channel: int, row: int, column: int) -> float:
            place, index = (row, channel) if channel < half else (column, channel - half)
            angle = place / 10000 ** (index // 2 * 2 / half)
            return math.cos(angle) if index % 2 else math.sin(angle)

        return [
            [[features[channel][row][column] + wave(channel, row, column) for column in columns] for row in rows]
            for channel in range(channels)
        ]
    return features


def pooled(channel: list[list[float]]) -> list[list[float]]:
    """3x3 average with stride 2, of the pixels that exist."""
    height, width = len(channel), len(channel[0])
    result = []
    for row in range(0, height, 2):
        result.append([])
        for column in range(0, width, 2):
            window = [
                channel[y][x]
                for y in range(max(row - 1, 0), min(row + 2, height))
                for x in range(max(column - 1, 0), min(column + 2, width))
            ]
            result[-1].append(sum(window) / len(window))
    return result


def upsampled(channel: list[list[float]], height: int, width: int) -> list[list[float]]:
    """Bilinear, pixels being squares whose centres count."""

    def neighbours(index: int, length: int, new_length: int) -> tuple[int, int, float]:
        place = min(max((index + 0.5) * length / new_length - 0.5, 0), length - 1)
        below = math.floor(place)
        return below, min(below + 1, length - 1), place - below

    result = []
    for row in range(height):
        top, bottom, down = neighbours(row, len(channel), height)
        result.append([])
        for column in range(width):
            left, right, across = neighbours(column, len(channel[0]), width)
            upper = channel[top][left] * (1 - across) + channel[top][right] * across
            lower = channel[bottom][left] * (1 - across) + channel[bottom][right] * across
            result[-1].append(upper * (1 - down) + lower * down)
    return result


CASES = {
    "3x5, two heads": {"size": (3, 5), "feature_size": (3, 5), "num_heads": 2},
    "5x3, one head, 1x1": {"size": (5, 3), "feature_size": (5, 3), "num_heads": 1, "kernel_size": 1},
    "stride 2": {"size": (6, 9), "feature_size": (3, 5), "num_heads": 4, "stride": 2},
    "pooled": {"size": (6, 9), "feature_size": (3, 5), "num_heads": 2},
    "pooled twice, stride 2": {"size": (11, 13), "feature_size": (3, 4), "num_heads": 2, "stride": 2},
    "attention only, stride 2, pooled": {"size": (8, 12), "feature_size": (2, 3), "value_channels": 16, "stride": 2},
    "row": {"size": (2, 9), "feature_size": (2, 9), "num_heads": 4},
}


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_layer_computes_the_papers_formulas(case: dict[str, Any], position: str) -> None:
    torch.manual_seed(0)
    case = {"num_heads": 2, "kernel_size": 3, "key_channels": 12, "value_channels": 8, **case}
    size = case.pop("size")
    layer = AttentionAugmentedConv2d(8, 16, position=position, **case)
    with torch.no_grad():
        layer.qkv.weight.mul_(2)  # sharper attention, so that a wrong logit shows
    x = torch.randn(8, *size)
    expected = reference(layer, x, position)
    error = (layer(x[None])[0].detach().double() - expected).abs().max() / expected.abs().max()
    assert error <= 1e-5

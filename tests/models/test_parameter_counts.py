"""Parameter counts, exact: those that reproduce the paper's tables."""

from typing import Any

import pytest
import torch

from aaserve.models import create_model


def parameters(name: str, **overrides: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(name, **overrides).parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", 11_689_512),  # torchvision: 11.69 M
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
        ("aa_resnet34", 20_745_072),
        ("aa_resnet50", 25_809_392),
        ("aa_resnet101", 45_386_728),
        ("aa_resnet152", 61_613_536),
        ("fa_resnet50", 19_383_560),
        ("wide_resnet28_10", 36_278_324),
        ("se_wide_resnet28_10", 36_547_124),
        ("ge_wide_resnet28_10", 36_278_324),
        ("aa_wide_resnet28_10", 36_054_100),
    ],
)
def test_the_count_is_exactly_the_derived_one(name: str, expected: int) -> None:
    assert parameters(name) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0.25, 24_303_728), (0.5, 22_342_680), (0.75, 20_735_496), (1.0, 19_383_560)]
)
def test_the_sweep_over_ratios_of_resnet50_is_exact(ratio: float, expected: int) -> None:
    assert parameters("aa_resnet50", kappa=ratio, upsilon=ratio) == expected


@pytest.mark.parametrize(
    ("name", "ratio", "expected"),
    [
        ("aa_resnet34", None, 20_749_552),
        ("aa_resnet50", None, 25_813_872),
        ("aa_resnet50", 0.25, 24_308_208),
        ("aa_resnet50", 0.5, 22_347_160),
        ("aa_resnet50", 0.75, 20_739_976),
        ("aa_resnet50", 1.0, 19_388_040),
        ("aa_resnet101", None, 45_391_208),
        ("aa_resnet152", None, 61_622_496),
    ],
)
def test_attention_at_28x28_has_the_longer_tables(name: str, ratio: float | None, expected: int) -> None:
    ratios = {} if ratio is None else {"kappa": ratio, "upsilon": ratio}
    assert parameters(name, pooled_stages=(), **ratios) == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    [("se_resnet34", 21.96), ("se_resnet50", 28.09), ("se_resnet101", 49.33), ("se_resnet152", 66.82)],
)
def test_squeeze_and_excitation_reproduces_the_counts_to_two_digits(name: str, millions: float) -> None:
    assert round(parameters(name) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "millions", "digits"),
    [
        ("mnasnet0_75", 2.91, 2),
        ("mnasnet1_0", 3.89, 2),
        ("mnasnet1_25", 5.26, 2),
        ("mnasnet1_4", 6.106, 3),
        ("aa_mnasnet0_75", 3.015, 3),
        ("aa_mnasnet1_0", 4.061, 3),
        ("aa_mnasnet1_25", 5.530, 3),
        ("aa_mnasnet1_4", 6.441, 3),
    ],
)
def test_mnasnet_reproduces_the_counts_to_the_digits_derived(name: str, millions: float, digits: int) -> None:
    assert round(parameters(name) / 1e6, digits) == millions


@pytest.mark.parametrize(("width", "millions"), [("0_75", 3.08), ("1_0", 4.12), ("1_25", 5.58), ("1_4", 6.49)])
def test_a_minimum_key_depth_would_make_mnasnet_too_large(width: str, millions: float) -> None:
    assert round(parameters(f"aa_mnasnet{width}", min_key_channels_per_head=20) / 1e6, 2) == millions


@pytest.mark.parametrize(("depth", "width"), [(10, 1), (16, 4), (22, 2), (28, 10)])
@pytest.mark.parametrize("attention", ["small", "paper"])
def test_augmenting_a_wide_resnet_changes_its_first_convolutions_by_the_formula(
    depth: int, width: int, attention: str
) -> None:
    stages = (3,) if attention == "small" else (1, 2, 3)
    heads, kappa, upsilon = (4, 0.5, 0.25) if attention == "small" else (8, 0.2, 0.1)
    expected = parameters(f"wide_resnet{depth}_{width}")
    for stage in stages:
        out = 16 * width * 2 ** (stage - 1)
        side = 32 // 2 ** (stage - 1)
        dk = max(int(kappa * out) // heads * heads, 20 * heads)
        dv = max(int(upsilon * out) // heads, 1) * heads
        blocks = (depth - 4) // 6
        for block in range(blocks):
            before = out if block else (16 if stage == 1 else out // 2)
            tables = 2 * (2 * side - 1) * dk // heads
            expected += before * (out - dv) * 9 + before * (2 * dk + dv) + dv * dv + tables - before * out * 9
    overrides = {"augmented_stages": stages, "num_heads": heads, "kappa": kappa, "upsilon": upsilon}
    assert parameters(f"wide_resnet{depth}_{width}", **overrides) == expected
    if attention == "small" and depth < 28:
        assert parameters(f"aa_wide_resnet{depth}_{width}") == expected

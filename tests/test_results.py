"""docs/results.md has the figures of the files that it names."""

import json
import re
from typing import Any

from tests.helpers import REPOSITORY, ROOT

DOCUMENT = (ROOT / "docs" / "results.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = json.loads((RESULTS / "2026-11-22-accuracy-per-class-aa-cifar100.json").read_text())


def test_each_class_has_the_accuracy_that_was_measured() -> None:
    table = DOCUMENT.split("| class | top-1 |")[-1]
    found = dict(re.findall(r"\b([a-z_]+) \| (\d+)%", table))
    assert found == {name: f"{row['top_1']:.0%}"[:-1] for name, row in MEASURED["classes"].items()}


def test_the_card_is_of_the_bundle_that_ships() -> None:
    manifest = json.loads((REPOSITORY / "aa-cifar100" / "1" / "manifest.json").read_text())
    accuracy = MEASURED["accuracy"]
    assert {name: manifest["accuracy"][name] for name in ("top_1", "top_5")} == {
        name: accuracy[name] for name in ("top_1", "top_5")
    }
    assert f"{accuracy['top_1']:.2%} top-1, {accuracy['top_5']:.2%} top-5".replace("%", " %") in DOCUMENT


def test_confusions_are_those_that_were_measured() -> None:
    card = DOCUMENT.split("are confused: ")[1].split("Four classes")[0]
    shares = [int(share) / 100 for share in re.findall(r"(\d+) %", card)]
    classes = ("seal", "maple_tree", "boy", "woman", "mouse")
    taken_for = ("otter", "oak_tree", "man", "man", "shrew")
    rows = [MEASURED["classes"][name] for name in classes]
    assert [(row["taken_for"], row["share"]) for row in rows] == list(zip(taken_for, shares, strict=True))
    below_half = {name for name, row in MEASURED["classes"].items() if row["top_1"] < 0.5}
    assert below_half == {"seal", "boy", "lizard", "otter"}


def test_files_and_recipes_that_are_named_exist() -> None:
    for name in re.findall(r"`(?:benchmarks/results/)?(20[\w-]+\.(?:json|csv))`", DOCUMENT):
        assert (RESULTS / name).exists(), name
    for name in re.findall(r"`(?:training/recipes/)?(\w+\.toml)`", DOCUMENT):
        assert (ROOT / "training" / "recipes" / name).exists(), name


def test_the_card_of_the_default_model_has_what_was_measured() -> None:
    sources = json.loads((RESULTS / "2026-11-30-held-out-aa-imagenet-soft.json").read_text())["sources"]
    card = DOCUMENT.split("## Model card: `aa-imagenet`")[1].split("## Model card")[0]
    rows = re.findall(r"^  \| \d+ of [^|]+((?:\| [\d.]+ )+)\|$", card, re.MULTILINE)
    fields = ("top_1_of_model", "top_5_of_model", "top_1_of_teacher", "top_5_of_teacher", "same_first_class")
    assert [[float(cell) for cell in row.strip("| ").split(" | ")] for row in rows] == [
        [round(100 * sources[source][field], 1) for field in fields] for source in ("one_a_class", "imagenette")
    ]


def test_detectors_have_what_was_measured() -> None:
    networks = json.loads((RESULTS / "2026-12-01-detection-bccd.json").read_text())["networks"]
    rows = re.findall(r"^\| `(retinanet_\w+)` \| ([\d,]+) ((?:\| [\d.]+ )+)\|$", DOCUMENT, re.MULTILINE)
    found = {name: (int(count.replace(",", "")), figures.strip("| ").split(" | ")) for name, count, figures in rows}
    assert found == {name: (row["parameters"], _detection_cells(row)) for name, row in networks.items()}


def test_coco128_is_told_as_it_was_measured() -> None:
    test = json.loads((RESULTS / "2026-12-01-detection-coco128.json").read_text())["test"]
    ap, ap_50, ap_75 = (f"{100 * test[name]:.1f}" for name in ("ap", "ap_50", "ap_75"))
    told = DOCUMENT.split("### 128 pictures of COCO")[1].split("##")[0]
    assert f"AP {ap} %, AP50 {ap_50} %,\nAP75 {ap_75} %" in told


def _detection_cells(row: dict[str, Any]) -> list[str]:
    test, of_classes = row["test"], row["test"]["classes"]
    cells = [*(test[name] for name in ("ap", "ap_50", "ap_75"))]
    cells += [of_classes[name]["ap_50"] for name in ("Platelets", "RBC", "WBC")]
    return [f"{100 * value:.1f}" for value in (*cells, row["val"]["ap_50"])]


def test_providers_are_compared_as_they_were_measured() -> None:
    document = (ROOT / "docs" / "providers.md").read_text()
    figures = ("batch_1_processor_ms", "batch_8_processor_ms", "lone_ms", "memory_mib")
    for network, name in (("AA-ResNet-50", "cpu-engines"), ("`aa-imagenet`", "cpu-engines-aa-imagenet")):
        engines = json.loads((RESULTS / f"2026-11-30-{name}.json").read_text())["engines"]
        for precision in ("fp32", "bf16"):
            measured, base = engines[f"openvino, {precision}"], engines["onnxruntime, fp32"]
            shares = " | ".join(f"{measured[figure] / base[figure]:.2f}" for figure in figures)
            assert f"| {network}, {precision} | {shares} |" in document
    bf16 = json.loads((RESULTS / "2026-11-30-bf16.json").read_text())
    assert f"| same best class | {bf16['same_best_class']:.1%}".replace("%", " %") in document
    assert f"| {bf16['top_1']['fp32']:.1%}, {bf16['top_1']['bf16']:.1%} |".replace("%", " %") in document
    for name in ("logit_difference", "largest_shift_of_a_heads_gaze"):
        assert f"| {bf16[name]['median']:.3f}, {bf16[name]['99 %']:.3f} |" in document


def test_a_plain_start_has_the_figures_that_were_measured() -> None:
    means = json.loads((RESULTS / "2026-11-30-from-plain.json").read_text())["means"]
    section = DOCUMENT.split("### A plain network as the start")[1].split("\n**Not run")[0]
    found = re.findall(r"^\| ([a-z, ]+) \| [\d +]+ \| \**([\d.]+)\** \| \**([\d.]+)\** \|", section, re.MULTILINE)
    names = ("augmented, from scratch", "augmented, from plain", "plain")
    assert [(float(first), float(fifth)) for _, first, fifth in found] == [
        (round(100 * means[name]["top_1"], 2), round(100 * means[name]["top_5"], 2)) for name in names
    ]

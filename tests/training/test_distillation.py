"""Learning from a teacher, with a plain Wide-ResNet of random weights as the teacher of an augmented one."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aaserve.models import create_model
from aaserve.training import scoring
from aaserve.training.classification.distillation import divergence, relative_error
from aaserve.training.recipe import Recipe
from aaserve.training.weights import read_weights, take
from tests.training.tiny import StopAfter, assert_same_weights, epochs, recipe, run

NEW = {"*.qkv.weight": 1.0, "*.proj.weight": 1.0, "*.key_rel_?": 1.0}
LATE = {**NEW, "layer3.*": 0.1}
CLASSES = 5


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    network = create_model("wide_resnet10_1", num_classes=CLASSES, image_size=32)
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))  # statistics of batch normalisation
    return saved(network, tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise: 40 pictures without labels, and two sources with labels."""
    folder = tmp_path_factory.mktemp("photographs")
    for number in range(40):
        write(folder / "train" / "mine" / f"picture {number}.png", number)
    for source in ("one", "other"):
        for number in range(6):
            write(folder / "held_out" / source / f"{number % CLASSES:04}_{number}.png", number)
    (folder / "classes.txt").write_text("\n".join(f"class {number}" for number in range(CLASSES)) + "\n")
    return folder


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)


def saved(network: nn.Module, path: Path, **replaced: Tensor) -> Path:
    save_file({key: value.contiguous() for key, value in (network.state_dict() | replaced).items()}, path)
    return path


def distilling(teacher: Path, photographs: Path, distillation: dict[str, Any] | None = None, **options: Any) -> Recipe:
    """Two epochs of two steps; the arguments replace fields."""
    content = recipe(
        "aa_wide_resnet10_1", **{"epochs": 2, "optimiser": "adamw", "max_learning_rate": 1e-2}
    ).model_dump()
    content["network"] |= {"initial_weights": str(teacher)}
    content["optimisation"] |= {"learning": LATE, "frozen_statistics": True, **options}
    content["augmentation"] |= {"crop_padding": 0}
    content["distillation"] = {
        "teacher": "wide_resnet10_1",
        "teacher_weights": str(teacher),
        "labels": str(photographs / "classes.txt"),
        "logit_weight": 1.0,
        "feature_weight": 1.0,
        "features": ["layer3.*"],
        **(distillation or {}),
    }
    return Recipe.model_validate(content)


def test_only_what_the_recipe_names_learns_and_the_scores_are_kept(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    score = run(distilling(teacher, photographs), photographs, tmp_path)
    before, after = (
        {name: tensor for name, tensor in load_file(path).items() if not name.endswith("num_batches_tracked")}
        for path in (teacher, tmp_path / "model.safetensors")
    )
    changed = {name for name, tensor in after.items() if name not in before or not torch.equal(tensor, before[name])}
    assert changed
    assert {name for name in changed if not name.startswith("layer3.")} == set()
    assert not {name for name in changed if "running" in name}
    assert float(epochs(tmp_path)[-1]["agreement"]) == score.agreement
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["aaserve"])
    assert metadata["labels"] == [f"class {number}" for number in range(CLASSES)]
    assert metadata["test"]["images"] == 12
    assert metadata["test"]["agreement"] == score.agreement


def test_outputs_computed_once_train_what_pictures_train(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    each, shared, kept = (tmp_path / name for name in ("each", "shared", "kept"))
    chosen = distilling(teacher, photographs)
    chosen = chosen.model_copy(
        update={"augmentation": chosen.augmentation.model_copy(update={"horizontal_flip": False})}
    )
    run(chosen, photographs, each)
    for in_memory, folder in ((False, shared), (True, kept)):
        changes = {"computed_once": "layer2", "in_memory": in_memory}
        settings = chosen.distillation.model_copy(update=changes)
        run(chosen.model_copy(update={"distillation": settings}), photographs, folder)
        assert_same_weights(each, folder, rtol=1e-3, atol=1e-5)


def test_a_distillation_that_was_stopped_and_resumed_equals_one_that_was_not(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    chosen = distilling(teacher, photographs, {"computed_once": "layer2", "in_memory": True})
    run(chosen, photographs, whole)
    # While outputs are computed, then within an epoch.
    assert run(chosen, photographs, parts, stop=StopAfter(1)) == 143
    assert run(chosen, photographs, parts, stop=StopAfter(4), resume=True) == 143
    run(chosen, photographs, parts, resume=True)
    assert_same_weights(whole, parts)


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


def test_the_losses_are_zero_for_equal_answers_and_scale_free() -> None:
    logits = torch.tensor([[1.0, 2.0, 4.0]])
    assert divergence(logits, logits + 3).item() == pytest.approx(0, abs=1e-6)
    assert divergence(torch.zeros(1, 2), torch.tensor([[100.0, 0.0]])).item() == pytest.approx(np.log(2))
    assert relative_error(torch.zeros(2, 3), torch.ones(2, 3)).item() == 1
    assert relative_error(20 * logits, 10 * logits).item() == relative_error(2 * logits, logits).item() == 1


def test_evaluate_scores_each_source_beside_the_teacher(
    teacher: Path, photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = run(distilling(teacher, photographs), photographs, tmp_path)
    capsys.readouterr()
    file = tmp_path / "scores.json"
    assert scoring.main([str(tmp_path / "model.safetensors"), "--data", str(photographs), "--json", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[1:]] == [
        [source, network, str(pictures)]
        for source, pictures in (("all", 12), ("one", 6), ("other", 6))
        for network in ("student", "teacher")
    ]
    scores = json.loads(file.read_text())
    assert scores["all"]["student"]["agreement"] == score.agreement
    assert scoring.main([str(tmp_path / "last.pt"), "--data", str(photographs), "--json", str(file)]) == 0
    assert json.loads(file.read_text()) == scores
    assert scoring.main([str(photographs / "classes.txt"), "--data", str(photographs)]) == 1
    assert "expected the model.safetensors or last.pt of a run" in capsys.readouterr().err


def refusal(chosen: Recipe, data: Path, output: Path) -> str:
    with pytest.raises((ValueError, OSError)) as caught:
        run(chosen, data, output)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_teacher_of_other_classes_is_refused(teacher: Path, photographs: Path, tmp_path: Path) -> None:
    other = saved(create_model("wide_resnet10_1", num_classes=7), tmp_path / "other.safetensors")
    said = refusal(distilling(teacher, photographs, {"teacher_weights": str(other)}), photographs, tmp_path)
    assert said == f"{other}: expected a teacher of the data's {CLASSES} classes, found 7"


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


def test_pictures_without_labels_are_refused_where_labels_are_needed(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    chosen = distilling(teacher, photographs, {"label_weight": 0.5})
    assert refusal(chosen, photographs, tmp_path) == (
        "distillation.label_weight: expected labels of all pictures, 40 have none"
    )
    write(tmp_path / "train" / "mine" / "a.png", 0)
    assert "held_out: expected folders of pictures" in refusal(distilling(teacher, photographs), tmp_path, tmp_path)
    for name in ("cat.png", f"{CLASSES:04}_1.png"):
        write(tmp_path / "held_out" / "mine" / name, 0)
    said = refusal(distilling(teacher, photographs), tmp_path, tmp_path)
    assert "_1.png: expected a name that begins with the number of its class, 0 to 4, and an underscore" in said
    assert said.endswith("2 pictures have none")


@pytest.mark.parametrize(
    ("distillation", "optimisation", "message"),
    [
        ({"features": ["layer7"]}, {}, "distillation.features: no layer of both networks matches layer7"),
        ({}, {"learning": {"head.*": 1.0}}, "optimisation.learning: no parameter's name matches head.*"),
        ({"computed_once": "layer7"}, {}, "distillation.computed_once: the network has no layer layer7"),
        ({"teacher_options": {"kapa": 1}}, {}, "distillation.teacher_options of wide_resnet10_1: "),
        (
            {"computed_once": "layer2"},
            {"learning": {**LATE, "layer1.*": 1.0}},
            "layer1.0.bn1.weight cannot be trained, because",
        ),
        ({"computed_once": "layer2"}, {"learning": {"layer1.*": 1.0}}, "the loss depends on no trained parameter"),
    ],
    ids=[
        "features",
        "learning",
        "layer",
        "options",
        "a layer that is computed once learns",
        "only such a layer learns",
    ],
)
def test_a_recipe_that_does_not_fit_the_networks_is_refused(
    teacher: Path, photographs: Path, tmp_path: Path, distillation: dict, optimisation: dict, message: str
) -> None:
    assert message in refusal(distilling(teacher, photographs, distillation, **optimisation), photographs, tmp_path)


def test_a_student_of_other_weights_cannot_share_what_is_computed_once(
    teacher: Path, photographs: Path, tmp_path: Path
) -> None:
    chosen = distilling(teacher, photographs, {"computed_once": "layer2"})
    chosen = chosen.model_copy(update={"network": chosen.network.model_copy(update={"initial_weights": None})})
    assert "at layer2, the student's output differs from the teacher's" in refusal(chosen, photographs, tmp_path)


@pytest.mark.parametrize(
    ("distillation", "message"),
    [
        ({"logit_weight": 0, "feature_weight": 0, "features": []}, "are all 0"),
        ({"features": []}, "feature_weight and features must be set together"),
        ({"computed_once": "layer2", "in_memory": True}, "in_memory allows no augmentation but horizontal_flip"),
        ({"in_memory": True}, "in_memory needs computed_once"),
    ],
    ids=["no loss", "no features", "crops", "no layer"],
)
def test_a_distillation_that_contradicts_itself_is_refused(distillation: dict, message: str) -> None:
    content = recipe().model_dump()
    content["distillation"] = {
        **{"teacher": "wide_resnet10_1", "teacher_weights": "teacher.pth", "features": ["layer3"]},
        **{"logit_weight": 1, "feature_weight": 1, **distillation},
    }
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(content)

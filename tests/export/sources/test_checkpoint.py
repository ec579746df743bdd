"""Checkpoints as people have them: nested, prefixed, from Lightning, from old PyTorch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aaserve.export.errors import ExportError
from aaserve.export.sources.checkpoint import read_checkpoint
from aaserve.export.sources.weights import head_classes, load_weights, name_weights
from aaserve.models import create_model
from tests.export.sources.checkpoints import network, prefixed

SHAPES = {
    "plain": lambda: prefixed(""),
    "state_dict": lambda: {"state_dict": prefixed(""), "epoch": 3, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda: {"model_state_dict": prefixed(""), "loss": 0.5},
    "model": lambda: {"model": prefixed(""), "args": ["--epochs", "90"]},
    "ema alone": lambda: {"ema": prefixed("")},
    "net, as in many scripts": lambda: {"net": prefixed("module."), "acc": 93.1, "epoch": 3},
    "an attribute": lambda: prefixed("backbone."),
    "an attribute within a wrapper": lambda: {"state_dict": prefixed("module.net.")},
    "DataParallel": lambda: prefixed("module."),
    "torch.compile": lambda: prefixed("_orig_mod."),
    "both": lambda: {"state_dict": prefixed("module._orig_mod.")},
    "Lightning": lambda: {
        "state_dict": prefixed("model."),
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
        "loops": {},
    },
    "without counters": lambda: {k: v for k, v in prefixed("").items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES.keys())
def test_every_sane_shape_loads(content: Callable[[], object], tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "checkpoint.pth")
    loaded = create_model("aa_wide_resnet10_1", num_classes=5, image_size=16)
    load_weights(loaded, name_weights(read_checkpoint(tmp_path / "checkpoint.pth").weights, loaded.state_dict())[0])
    for name, tensor in network().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


WRITERS: dict[str, Callable[[Path], object]] = {
    "torch.save": lambda path: torch.save(prefixed(""), path),
    "torch.save before 1.6": lambda path: torch.save(prefixed(""), path, _use_new_zipfile_serialization=False),
    "safetensors": lambda path: save_file(prefixed(""), path),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("name", ["best.pth.tar", "last.ckpt", "pytorch_model.bin", "weights.safetensors", "weights"])
def test_content_decides_how_a_file_is_read_and_not_its_name(
    write: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    write(tmp_path / name)
    assert read_checkpoint(tmp_path / name).weights.keys() == prefixed("").keys()


def test_the_prefix_that_came_off_is_said_and_a_name_of_the_network_ends_it() -> None:
    wanted = network().state_dict()
    named, prefix, left_out = name_weights(prefixed("module.net."), wanted)
    assert (named.keys(), prefix, left_out) == (wanted.keys(), "module.net.", 0)
    inside = {"net.conv1.weight", "net.fc.weight"}
    assert name_weights(dict.fromkeys(inside, torch.zeros(1)), inside)[1] == ""
    for weights in ({"conv1": torch.zeros(1)}, {"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}):
        assert name_weights(weights, {"other"}) == (weights, "", 0)


def test_a_prefix_of_some_names_is_proposed_and_can_be_given() -> None:
    both = prefixed("student.") | prefixed("teacher.") | {"loss.weight": torch.zeros(1)}
    named, prefix, _ = name_weights(both, network().state_dict())
    assert prefix == ""
    for refused in (load_weights, head_classes):
        with pytest.raises(ExportError, match=r"are there under --key-prefix student\. or teacher\.$"):
            refused(network(), named)
    for given in ("teacher", "teacher."):
        named, prefix, left_out = name_weights(both, network().state_dict(), given)
        assert (named.keys(), prefix) == (network().state_dict().keys(), "teacher.")
        assert left_out == len(both) - len(named)
    with pytest.raises(ExportError, match=r"begin with --key-prefix net\., found student\.conv1\.weight, "):
        name_weights(both, network().state_dict(), "net")


def test_two_sets_of_weights_are_not_chosen_between_silently(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": prefixed(""), "state_dict_ema": {name: -w for name, w in prefixed("").items()}}, path)
    with pytest.raises(ExportError, match="found state_dict, state_dict_ema: choose one with --nested-key"):
        read_checkpoint(path)
    chosen = read_checkpoint(path, nested_key="state_dict_ema").weights
    assert torch.equal(chosen["fc.weight"], -network().state_dict()["fc.weight"])
    with pytest.raises(ExportError, match=r"under 'ema', found 'state_dict' \(dict\), 'state_dict_ema' \(dict\)"):
        read_checkpoint(path, nested_key="ema")


def test_the_number_of_classes_is_read_off_the_head() -> None:
    assert head_classes(network(), prefixed("")) == 5
    with pytest.raises(ExportError, match=r"fc\.weight, found none among conv1\.weight$"):
        head_classes(network(), {"conv1.weight": torch.zeros(1)})


def test_only_the_first_ten_keys_of_a_kind_are_listed() -> None:
    with pytest.raises(ExportError) as caught:
        load_weights(network(), {f"other.{i}": torch.zeros(1) for i in range(25)})
    message = str(caught.value)
    assert "25 unexpected: other.0, " in message
    assert "other.9, …" in message
    assert "other.10" not in message

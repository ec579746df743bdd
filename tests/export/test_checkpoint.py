"""Checkpoints as people have them: nested, prefixed, from Lightning, from old PyTorch, or no checkpoints at all."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from export.checkpoint import read_checkpoint
from export.errors import ExportError
from export.weights import head_classes, load_weights
from models import create_model


def network() -> nn.Module:
    torch.manual_seed(0)
    return create_model("aa_wide_resnet10_1", num_classes=5, image_size=16)


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network().state_dict().items()}


SHAPES = {
    "plain": lambda: prefixed(""),
    "state_dict": lambda: {"state_dict": prefixed(""), "epoch": 3, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda: {"model_state_dict": prefixed(""), "loss": 0.5},
    "model": lambda: {"model": prefixed(""), "args": ["--epochs", "90"]},
    "ema alone": lambda: {"ema": prefixed("")},
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
def test_every_sane_shape_loads(content, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    torch.save(content(), tmp_path / "checkpoint.pth")
    loaded = create_model("aa_wide_resnet10_1", num_classes=5, image_size=16)
    load_weights(loaded, read_checkpoint(tmp_path / "checkpoint.pth").weights)
    for name, tensor in network().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_prefixed_safetensors_load(tmp_path: Path) -> None:
    save_file(prefixed("module."), tmp_path / "checkpoint.safetensors")
    assert read_checkpoint(tmp_path / "checkpoint.safetensors").weights.keys() == network().state_dict().keys()


def test_two_sets_of_weights_are_not_chosen_between_silently(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"state_dict": prefixed(""), "state_dict_ema": {name: -w for name, w in prefixed("").items()}}, path)
    with pytest.raises(ExportError, match="found state_dict, state_dict_ema: choose one with --nested-key"):
        read_checkpoint(path)
    chosen = read_checkpoint(path, nested_key="state_dict_ema").weights
    assert torch.equal(chosen["fc.weight"], -network().state_dict()["fc.weight"])
    with pytest.raises(ExportError, match="under 'ema', found none"):
        read_checkpoint(path, nested_key="ema")


def test_a_whole_pickled_module_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "checkpoint.pt")
    with pytest.raises(ExportError, match=r"would run code when loaded.*save the state dict alone"):
        read_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {"weights": 3}, torch.zeros(3)], ids=str)
def test_files_without_a_state_dict_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ExportError, match=r"expected a state dict .*found none"):
        read_checkpoint(tmp_path / "checkpoint.pt")


def test_the_number_of_classes_is_read_off_the_head() -> None:
    assert head_classes("aa_wide_resnet10_1", prefixed("")) == 5
    with pytest.raises(ExportError, match=r"fc\.weight, found none"):
        head_classes("aa_wide_resnet10_1", {"conv1.weight": torch.zeros(1)})


def test_only_the_first_ten_keys_of_a_kind_are_listed() -> None:
    with pytest.raises(ExportError) as caught:
        load_weights(network(), {f"other.{i}": torch.zeros(1) for i in range(25)})
    message = str(caught.value)
    assert "25 unexpected: other.0, " in message
    assert "other.9, …" in message
    assert "other.10" not in message

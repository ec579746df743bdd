"""Files that are no checkpoints, weights that cannot be used, and metadata that training does not write."""

import argparse
import io
import json
import pickle
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import Tensor, nn

from aaserve.export.errors import ExportError
from aaserve.export.sources.checkpoint import METADATA_KEY, read_checkpoint
from aaserve.export.sources.labels import check_labels
from aaserve.export.sources.recorded import read_recorded
from aaserve.export.sources.weights import load_weights
from tests.export.sources.checkpoints import network, prefixed
from tests.helpers import encode, noise


def test_a_whole_pickled_module_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "checkpoint.pt")
    with pytest.raises(
        ExportError,
        match=r"holds aaserve\.models\.networks\.wide_resnet\.WideResNet, .*would run code when loaded"
        r".*save the weights alone",
    ):
        read_checkpoint(tmp_path / "checkpoint.pt")


WITHOUT_WEIGHTS = (
    ([1, 2], "a list"),
    ({}, "nothing"),
    ({"state_dict": {}}, "'state_dict' (dict)"),
    ({"weights": 3, "epoch": 1.5}, "'weights' (int), 'epoch' (float)"),
    ({1: {"a": torch.zeros(1)}}, "a dict"),
    (torch.zeros(3), "a Tensor"),
)


@pytest.mark.parametrize(("content", "found"), WITHOUT_WEIGHTS, ids=str)
def test_files_without_a_state_dict_are_refused_with_what_they_hold(
    content: object, found: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(ExportError, match=re.escape(f"expected a state dict (names to tensors), found {found}")):
        read_checkpoint(tmp_path / "checkpoint.pt")


def zipped(**contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def tarred(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return file.getvalue()


def torch_saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def numpy_saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


SAVED = torch_saved({"a.weight": torch.zeros(100)})

NOT_CHECKPOINTS = {
    "empty": (b"", "found an empty file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 1\n", "`git lfs pull` fetches"),
    "web page": (b"<!DOCTYPE html>\n<html><title>Sign in</title>", "found a web page; the download gave a page"),
    "message": (b"QueuedRequest not found", "found text: 'QueuedRequest not found'"),
    "gzip": (b"\x1f\x8b\x08\0", "found a gzip archive"),
    "tar": (tarred("weights.pt"), "found a tar archive"),
    "PyTorch 0.1": (tarred("sys_info"), "found one of PyTorch before 0.2"),
    "Keras 2": (b"\x89HDF\r\n\x1a\n" + bytes(90), "found an HDF5 file, as Keras writes"),
    "Keras 3": (zipped(config_json=b"{}", model_weights_h5=b""), "found a Keras model"),
    "ONNX": (b"\x08\x0a\x12\x07pytorch", "found an ONNX model"),
    "TorchScript": (zipped(a__data_pkl=b"", a__constants_pkl=b""), "found a TorchScript archive"),
    "zip": (zipped(best_pt=b"", notes_txt=b""), "found a zip archive of best.pt, notes.txt; unpack it"),
    "npz": (zipped(a_npy=b""), "found a NumPy archive"),
    "npy": (numpy_saved(np.zeros(2)), "found a NumPy array"),
    "pickled arrays": (pickle.dumps({"a": np.zeros(2)}), "found a plain pickle, which would run code when loaded"),
    "picture": (encode(noise(4, 4), "PNG"), "found a PNG picture"),
    "cut off": (SAVED[: len(SAVED) // 2], "not a readable file of torch.save: it is damaged or cut off"),
    "zip with damage": (SAVED.replace(b"a.weight", b"a.w\xffight"), "damaged or would run code when loaded"),
    "blocked global": (torch_saved({"args": argparse.Namespace()}), "holds argparse.Namespace, not only tensors"),
    "blocked global before 1.6": (
        torch_saved({"args": argparse.Namespace()}, _use_new_zipfile_serialization=False),
        "holds argparse.Namespace, not only tensors",
    ),
    "short safetensors": (save({"a": torch.zeros(9)})[:-4], "not a readable safetensors file, damaged or cut off: "),
    "safetensors header": (b"\x04\0\0\0\0\0\0\0{{{{", "not a readable safetensors file, damaged or cut off: "),
    "anything": (bytes(range(200)), "found something else"),
}


@pytest.mark.parametrize(("content", "message"), NOT_CHECKPOINTS.values(), ids=NOT_CHECKPOINTS.keys())
def test_a_file_that_is_no_checkpoint_is_refused_with_its_kind(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=re.escape(message)) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected a checkpoint, found a folder; name the file in it"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("bn.running_var", torch.tensor([1.0, torch.inf, 1.0]), "not finite"),
        ("bn.running_var", torch.tensor([1.0, -1.0, 1.0]), "a variance below 0"),
        ("bn.running_mean", torch.tensor([0.0, torch.nan, 0.0]), "not finite"),
        ("bn.weight", torch.full((3,), 1e300, dtype=torch.float64), "not finite"),
        ("bn.weight", torch.ones(3, dtype=torch.int8), "expected torch.float32, found torch.int8"),
        ("bn.weight", torch.ones(3, dtype=torch.complex64), "expected torch.float32, found torch.complex64"),
        ("bn.weight", torch.ones(3).to_sparse(), "found a sparse, quantised or empty tensor"),
        ("bn.weight", torch.ones(3, device="meta"), "found a sparse, quantised or empty tensor"),
    ],
    ids=str,
)
def test_a_weight_that_cannot_be_used_is_named(name: str, value: Tensor, why: str) -> None:
    small = nn.Sequential()
    small.add_module("bn", nn.BatchNorm2d(3))
    load_weights(small, small.state_dict() | {"bn.weight": torch.ones(3, dtype=torch.float16)})
    with pytest.raises(ExportError, match=rf"1 unusable: {re.escape(name)} \(.*{why}\)"):
        load_weights(small, small.state_dict() | {name: value})


HOSTILE_METADATA = {
    "recipe": ({"recipe": [1]}, "another recipe: "),
    "network": ({"recipe": {"network": 5}}, "another recipe.network: "),
    "architecture": ({"recipe": {"network": {"architecture": ["a"]}}}, "another recipe.network.architecture: "),
    "long architecture": (
        {"recipe": {"network": {"architecture": "a" * 10**6}}},
        "another recipe.network.architecture: ",
    ),
    "options": ({"recipe": {"network": {"architecture": "a", "options": "b"}}}, "another recipe.network.options: "),
    "preprocessing": ({"recipe": {"preprocessing": "imagenet"}}, "another recipe.preprocessing: "),
    "labels": ({"labels": 7}, "another labels: "),
    "one label": ({"labels": ["ant", {"bee": 1}]}, "another labels.1: "),
    "long label": ({"labels": ["a" * 10**6]}, "another labels.0: "),
    "surrogates": ({"labels": ["\ud800"]}, "another labels.0: "),
}


@pytest.mark.parametrize(("metadata", "message"), HOSTILE_METADATA.values(), ids=HOSTILE_METADATA.keys())
def test_metadata_that_training_does_not_write_is_refused_in_one_line(
    metadata: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(prefixed(""), path, metadata={METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(
        ExportError, match=f"expected metadata as python -m training writes it, found {message}"
    ) as caught:
        read_recorded(read_checkpoint(path))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    ["5", "[]", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", '{"a": NaN}', '{"b": -Infinity}', '{"c": 1e999}'],
    ids=lambda text: text[:8],
)
def test_metadata_other_than_a_json_object_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(prefixed(""), path, metadata={METADATA_KEY: text})
    with pytest.raises(ExportError, match=r"expected (a JSON object|JSON) as 'aaserve' in its header"):
        read_checkpoint(path)


def test_metadata_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(save(prefixed(""), metadata={METADATA_KEY: "aaaa"}).replace(b"aaaa", b"\xff\xfe\xff\xfe"))
    with pytest.raises(ExportError, match="not a readable safetensors file"):
        read_checkpoint(path)


def test_labels_of_a_checkpoint_are_checked_like_those_of_a_file() -> None:
    path = Path("a.safetensors")
    for labels, message in (
        (["a", ""], "label 1 is empty"),
        (["a", "a"], "'a' once more"),
        (["a\nb"], "line break or a control character"),
    ):
        with pytest.raises(ExportError, match=rf"a\.safetensors: .*{message}"):
            check_labels(labels, path)

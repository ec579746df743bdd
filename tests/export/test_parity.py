"""A graph that does not answer what the network answers is never written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import export.exporter
from bundle.preprocessing import Preprocessing
from export.convert import convert
from export.errors import ExportError
from export.exporter import Request
from export.parity import check_parity
from models import create_model

INPUTS = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("aa_wide_resnet10_1", num_classes=10, image_size=(16, 16)).eval()


def test_the_same_network_agrees_at_every_batch_size() -> None:
    parity = check_parity(network(), convert(network(), (16, 16), {}), INPUTS, batch_sizes=[1, 2, 7])
    assert parity.max_difference < 1e-5
    assert parity.top_1_agreement == 1
    assert (parity.images, parity.batch_sizes) == (4, (1, 2, 7))


def test_another_network_does_not_pass() -> None:
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(network(), convert(network(seed=1), (16, 16), {}), INPUTS, batch_sizes=[1])


def test_a_small_error_in_one_logit_does_not_pass() -> None:
    wrong = network()
    with torch.no_grad():
        wrong.fc.bias[3] += 0.001
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(network(), convert(wrong, (16, 16), {}), INPUTS, batch_sizes=[1])


def test_a_mismatch_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    save_file(network().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(
        export.exporter, "convert", lambda _, image_size, metadata: convert(network(seed=1), image_size, metadata)
    )
    request = Request(
        checkpoint=tmp_path / "weights.safetensors",
        architecture="aa_wide_resnet10_1",
        labels=tuple("abcdefghij"),
        preprocessing=Preprocessing(
            colour="RGB",
            background=(0, 0, 0),
            exif_orientation=True,
            resize=16,
            interpolation="bilinear",
            crop=(16, 16),
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
        ),
        image_size=None,
        name="wrong",
        version="1",
        repository=tmp_path / "repository",
        parity_images=Path("examples"),
        max_batch_size=4,
        accuracy=None,
        command="",
    )
    with pytest.raises(ExportError, match="parity"):
        export.exporter.export(request)
    assert not (tmp_path / "repository").exists()


def test_networks_of_any_height_and_width_convert() -> None:
    torch.manual_seed(0)
    made = create_model("aa_wide_resnet10_1", num_classes=10, image_size=(24, 16)).eval()
    inputs = np.random.default_rng(0).normal(size=(2, 3, 24, 16)).astype(np.float32)
    check_parity(made, convert(made, (24, 16), {}), inputs, batch_sizes=[1, 2])

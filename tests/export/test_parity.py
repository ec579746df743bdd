"""A graph that does not answer what the network answers is never written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import export.exporter
from bundle.preprocessing import Preprocessing
from export.convert import convert
from export.errors import ExportError
from export.normalisation import PixelInput
from export.parity import check_parity
from export.request import Request
from models import create_model

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
PREPROCESSING = Preprocessing(
    colour="RGB",
    background=(0, 0, 0),
    exif_orientation=True,
    resize=16,
    interpolation="bilinear",
    crop=(16, 16),
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return create_model("aa_wide_resnet10_1", num_classes=10, image_size=16).eval()


def pixel_graph(of: nn.Module) -> bytes:
    return convert(PixelInput(of, PREPROCESSING).eval(), torch.zeros(2, 16, 16, 3, dtype=torch.uint8), {})


def float_graph(of: nn.Module) -> bytes:
    return convert(of, torch.zeros(2, 3, 16, 16), {})


@pytest.mark.parametrize("graph", [pixel_graph, float_graph], ids=["uint8", "float32"])
def test_the_same_network_agrees_at_every_batch_size(graph) -> None:  # type: ignore[no-untyped-def]
    parity = check_parity(network(), graph(network()), PIXELS, PREPROCESSING, batch_sizes=[1, 2, 7])
    assert parity.max_difference < 1e-5
    assert parity.top_1_agreement == 1
    assert (parity.images, parity.batch_sizes) == (4, (1, 2, 7))


def test_a_graph_of_another_network_fails_the_parity_check() -> None:
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(network(), pixel_graph(network(seed=1)), PIXELS, PREPROCESSING, batch_sizes=[1])


def test_a_small_error_in_one_logit_fails_the_parity_check() -> None:
    wrong = network()
    with torch.no_grad():
        wrong.fc.bias[3] += 0.001
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(network(), pixel_graph(wrong), PIXELS, PREPROCESSING, batch_sizes=[1])


def test_another_normalisation_fails_the_parity_check() -> None:
    other = PREPROCESSING.model_copy(update={"mean": (0.5, 0.4, 0.31)})
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(network(), pixel_graph(network()), PIXELS, other, batch_sizes=[1])


def test_a_failed_parity_check_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(network().state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(export.exporter, "convert", lambda *_, **__: pixel_graph(network(seed=1)))
    request = Request(
        checkpoint=tmp_path / "weights.safetensors",
        name="wrong",
        version="1",
        repository=tmp_path / "repository",
        command="",
        architecture="aa_wide_resnet10_1",
        labels=tuple("abcdefghij"),
        preprocessing=PREPROCESSING,
    )
    with pytest.raises(ExportError, match="parity"):
        export.exporter.export(request)
    assert not (tmp_path / "repository").exists()

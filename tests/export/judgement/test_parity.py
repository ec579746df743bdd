"""A graph that does not answer what the network answers is never written."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import aaserve.export.exporter
import aaserve.export.opened
from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.preprocessing import Preprocessing
from aaserve.bundle.references.probe import probe_tolerance
from aaserve.export.errors import ExportError
from aaserve.export.graph.convert import convert
from aaserve.export.graph.normalisation import PixelInput
from aaserve.export.graph.runtime import Graph
from aaserve.export.judgement.originals import PyTorch
from aaserve.export.judgement.parity import COARSEST, TOLERANCES, check_parity
from aaserve.export.request import Request
from aaserve.models import create_model
from tests.helpers import REPOSITORY

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


class Tiny(nn.Module):
    """A classifier that is traced in no time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).relu().mean(dim=(2, 3)))


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Tiny().eval()


def original(of: nn.Module) -> PyTorch:
    return PyTorch(of, PREPROCESSING)


def pixel_model(of: nn.Module) -> bytes:
    return convert(PixelInput(of, PREPROCESSING).eval(), torch.zeros(2, 16, 16, 3, dtype=torch.uint8), {})


def pixel_graph(of: nn.Module) -> Graph:
    return Graph(pixel_model(of), PREPROCESSING)


def float_graph(of: nn.Module) -> Graph:
    return Graph(convert(of, torch.zeros(2, 3, 16, 16), {}), PREPROCESSING)


@pytest.mark.parametrize("graph", [pixel_graph, float_graph], ids=["uint8", "float32"])
def test_the_same_network_agrees_at_every_batch_size(graph) -> None:  # type: ignore[no-untyped-def]
    parity = check_parity(original(network()), graph(network()), PIXELS, batch_sizes=[1, 2, 7])
    assert parity.max_difference < 1e-5
    assert parity.top_1_agreement == 1
    assert (parity.images, parity.batch_sizes) == (4, (1, 2, 7))


def test_a_graph_of_another_network_fails_the_parity_check() -> None:
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(original(network()), pixel_graph(network(seed=1)), PIXELS, batch_sizes=[1])


def test_a_small_error_in_one_logit_fails_the_parity_check() -> None:
    wrong = network()
    with torch.no_grad():
        wrong.fc.bias[3] += 0.001
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(original(network()), pixel_graph(wrong), PIXELS, batch_sizes=[1])


def test_another_normalisation_fails_the_parity_check() -> None:
    other = PREPROCESSING.model_copy(update={"mean": (0.5, 0.4, 0.31)})
    with pytest.raises(ExportError, match="parity: logits differ by"):
        check_parity(PyTorch(network(), other), pixel_graph(network()), PIXELS, batch_sizes=[1])


class Coarse(nn.Module):
    """A network whose logits lose their last digits in float32, on every machine: a large number comes and goes."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.network, self.number = network(), number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x) + self.number - self.number


def test_a_network_for_which_float32_is_coarse_passes_with_a_tolerance_that_says_so() -> None:
    said: list[str] = []
    graph = pixel_graph(Coarse(3e4))
    parity = check_parity(original(Coarse(3e4)), graph, PIXELS, batch_sizes=[1, 3], report=said.append)
    assert TOLERANCES["fp32"] < parity.max_difference <= parity.tolerance <= COARSEST
    assert len(said) == 1
    assert re.fullmatch(
        r"warning: logits differ by \S+ from PyTorch's in float64; PyTorch's own in float32 differ by \S+: "
        r"float32 is coarse for this network, so \S+ is allowed",
        said[0],
    )
    wrong = Coarse(3e4)
    with torch.no_grad():
        wrong.network.fc.bias[3] += 0.5
    with pytest.raises(ExportError, match=r"in float64; PyTorch's own in float32 differ by \S+, so the graph is wrong"):
        check_parity(original(wrong), graph, PIXELS, batch_sizes=[1])


def test_a_network_that_float32_cannot_compute_is_refused_and_float32_blamed() -> None:
    with pytest.raises(ExportError, match=r"so float32 itself is too coarse for this network \(tolerance 3e-02\)"):
        check_parity(original(Coarse(3e6)), pixel_graph(Coarse(3e6)), PIXELS, batch_sizes=[1])


def test_the_probe_is_as_exact_as_the_parity_check_was() -> None:
    manifest = open_bundle(REPOSITORY / "aa-cifar100" / "1").manifest
    for precision, tolerance, expected in (("fp32", 1e-4, 1e-3), ("fp32", 2e-2, 2e-2), ("int8", 0.5, 0.2)):
        parity = manifest.parity.model_copy(update={"tolerance": tolerance})
        found = probe_tolerance(manifest.model_copy(update={"precision": precision, "parity": parity}))
        assert found == expected


def test_a_failed_parity_check_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    weights = create_model("aa_wide_resnet10_1", num_classes=10, image_size=16).state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    monkeypatch.setattr(aaserve.export.opened, "convert", lambda *_, **__: pixel_model(network(seed=1)))
    request = Request(
        checkpoint=tmp_path / "weights.safetensors",
        name="wrong",
        version="1",
        repository=tmp_path / "repository",
        command="",
        architecture="aa_wide_resnet10_1",
        labels=tuple("abcdefghij"),
        preprocessing=PREPROCESSING.model_dump(),
    )
    with pytest.raises(ExportError, match="parity"):
        aaserve.export.exporter.export(request)
    assert not (tmp_path / "repository").exists()

"""A graph that crashes ONNX Runtime ends the export with a line, not with it."""

import os
import subprocess
from pathlib import Path

from tests.helpers import EXAMPLES, ROOT

ENCODER = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 8, 8)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.fc = nn.Linear(64, 3)

    def forward(self, x):
        return self.fc(self.encoder(self.stem(x).flatten(2).transpose(1, 2)).mean(1))


def build():
    torch.manual_seed(0)
    return Encoder()
"""
SAVE = "import torch; from encoder_network import build; torch.save(build().state_dict(), 'encoder.pth')"
PREPROCESSING = "--resize 32 --crop 32 --interpolation bilinear --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"


def test_fp16_of_a_transformer_encoder_is_refused_in_a_line(tmp_path: Path, python: Path) -> None:
    """A process of its own: without the refusal it dies of SIGSEGV."""
    (tmp_path / "encoder_network.py").write_text(ENCODER)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    subprocess.run([python, "-"], cwd=tmp_path, input=SAVE, text=True, check=True)
    given = ["encoder.pth", "--arch", "encoder_network:build", "--labels", "labels.txt", *PREPROCESSING.split()]
    given += ["--background", "255,255,255", "--exif-orientation", "--parity-images", str(EXAMPLES)]
    given += ["--name", "encoder", "--version", "1", "--precision", "fp16", "--max-batch-size", "1"]
    done = subprocess.run(
        [python, "-m", "export", *given],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: fp16: ONNX Runtime ")
    assert "crashes (signal 11) while it loads this graph" in last
    assert not (tmp_path / "model_repository").exists()

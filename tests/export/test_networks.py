"""Every network there is becomes a graph that answers as it does; small and not square, to keep it quick."""

import numpy as np
import pytest
import torch

from bundle.preprocessing import Preprocessing
from export.convert import convert
from export.normalisation import PixelInput
from export.parity import check_parity
from models import create_model, list_models

NETWORKS = [(name, {}) for name in list_models()]
NETWORKS += [("aa_wide_resnet10_1", {"position": position}) for position in ("none", "sinusoidal", "coordconv")]
HEIGHT, WIDTH = 32, 64
PREPROCESSING = Preprocessing(
    colour="RGB",
    background=(0, 0, 0),
    exif_orientation=True,
    resize=(HEIGHT, WIDTH),
    interpolation="bilinear",
    crop=(HEIGHT, WIDTH),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


@pytest.mark.parametrize(("name", "overrides"), NETWORKS, ids=[f"{name} {over or ''}" for name, over in NETWORKS])
def test_exported_it_answers_as_the_network(name: str, overrides: dict) -> None:
    torch.manual_seed(0)
    network = create_model(name, num_classes=7, image_size=(HEIGHT, WIDTH), **overrides)
    pixels = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with torch.no_grad():  # a pass in training mode gives the normalisations statistics that fit
        for _ in range(20):
            network(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 64 - 2)
    network.eval()
    example = torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8)
    model = convert(PixelInput(network, PREPROCESSING).eval(), example, {})
    check_parity(network, model, pixels, PREPROCESSING, batch_sizes=[1, 3])

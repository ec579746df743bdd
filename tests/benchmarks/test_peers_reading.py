"""How the peers read pictures: by hand with Pillow, or as aaserve does; the driver chooses, and both see the same."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
from PIL import ExifTags, Image

from aaserve.bundle.bundle import open_bundle
from aaserve.bundle.manifest import Manifest
from aaserve.bundle.preprocessing import normalise
from aaserve.export.preprocessing.presets import PRESETS
from benchmarks.peers import __main__ as driver
from benchmarks.peers.catalogue import PEERS, StartFailed
from benchmarks.peers.servers.reading import READERS
from benchmarks.peers.turn import Server
from tests.benchmarks.expected import SHIPPED, expected_top_1
from tests.helpers import ROOT

CAT = ROOT / "examples" / "cat.jpg"
MANIFEST = open_bundle(SHIPPED).manifest
EXACT = MANIFEST.preprocessing.model_copy(update={"resize": (40, 64), "crop": (32, 32)})


def turned_cat() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.open(CAT).save(file, "JPEG", exif=exif)
    return file.getvalue()


def read(reader: str, picture: bytes, manifest: Manifest) -> np.ndarray:
    return READERS[reader](picture, manifest)


@pytest.mark.parametrize(
    "preprocessing",
    [MANIFEST.preprocessing, PRESETS["imagenet"], EXACT, EXACT.model_copy(update={"exif_orientation": False})],
    ids=["shipped", "imagenet", "exact size", "as it lies"],
)
def test_handwritten_preprocessing_equals_aaserves_up_to_rounding(preprocessing: object) -> None:
    manifest = MANIFEST.model_copy(update={"preprocessing": preprocessing})
    for picture in (CAT.read_bytes(), turned_cat()):
        by_hand, ours = (read(reader, picture, manifest).astype(int) for reader in ("pillow", "bundle"))
        assert by_hand.shape == ours.shape
        assert np.abs(by_hand - ours).max() <= 2


def test_by_hand_normalises_where_the_model_wants_that() -> None:
    tensor = MANIFEST.input.model_copy(update={"dtype": "float32", "layout": "NCHW", "shape": (3, 32, 32)})
    pixels = read("pillow", CAT.read_bytes(), MANIFEST)
    found = read("pillow", CAT.read_bytes(), MANIFEST.model_copy(update={"input": tensor}))
    np.testing.assert_array_equal(found, normalise(pixels, MANIFEST.preprocessing))


def test_a_server_reads_in_the_way_that_it_is_told() -> None:
    hidden = Image.open(CAT).convert("RGBA")
    hidden.putalpha(0)  # aaserve composes it with a background; hand-written servers do not
    file = io.BytesIO()
    hidden.save(file, "PNG")
    found = {}
    for reader in READERS:
        with replace(PEERS["fastapi"], reader=reader).serve(SHIPPED) as served:
            found[reader] = served.top_1(served.ask(file.getvalue(), "image/png"))
    [cat] = expected_top_1(SHIPPED, [CAT])
    assert found["pillow"] == cat
    assert found["bundle"] != cat


@pytest.mark.parametrize(("options", "expected"), [([], "pillow"), (["--read-with", "bundle"], "bundle")])
def test_the_chosen_way_reaches_the_peers_and_the_result(
    options: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {}

    def turn(server: Server, *_: object) -> NoReturn:
        seen[server.name] = getattr(server, "reader", None)
        raise StartFailed("not started here")

    monkeypatch.setattr(driver, "take_turn", turn)
    arguments = ["--servers", "aaserve", "fastapi", "--workloads", "W1s", "--rounds", "1", "--seconds", "0.05"]
    monkeypatch.setattr("sys.argv", ["peers", *arguments, *options, "--output", str(tmp_path / "peers.json")])
    assert driver.main() == 1
    assert seen == {"aaserve": None, "fastapi": expected}
    assert json.loads((tmp_path / "peers.json").read_text())["peers_read_with"] == expected

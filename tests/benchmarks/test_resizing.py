"""What is measured of the resize: pictures that differ are counted, and speeds are of the same work."""

import json
from pathlib import Path

import pytest

from benchmarks import reduced_jpeg, resizing
from tests.helpers import noise


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        noise(90, 120, number).save(folder / f"{number}.jpg")
    return folder


def run(module: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["benchmark", *arguments])
    assert module.main() == 0  # type: ignore[attr-defined]


def test_our_resize_is_nearer_to_pillows_than_what_it_was_preferred_to(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "result.json"
    run(resizing, monkeypatch, str(pictures), "--output", str(output), "--megapixels", "0.01", "--rounds", "1")
    found = json.loads(output.read_text())
    assert found["pictures"] == 2 * len(reduced_jpeg.SCALES) * reduced_jpeg.VARIANTS
    ours, one_call, gap = (found["aa-cifar100"][name] for name in ("ours", "one call", "reducing_gap 3"))
    assert 0 < ours["pixel_difference"] < one_call["pixel_difference"] < gap["pixel_difference"]
    assert ours["pixel_difference_max"] <= 2
    assert ours["values_changed"] < 0.02
    assert set(found["speed"]) == {"resize 32", "resize 256"}
    for by_size in found["speed"].values():
        for figures in by_size["0.01"].values():
            assert figures.keys() == {"pillow_ms", "ours", "one call"}
            assert all(value > 0 for value in figures.values())


def test_only_pictures_that_are_reduced_are_compared(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "result.json"
    monkeypatch.setattr(reduced_jpeg, "MEGAPIXELS", (0.01, 0.1))
    run(reduced_jpeg, monkeypatch, str(pictures), "--output", str(output), "--gaps", "2,8", "--rounds", "1")
    found = json.loads(output.read_text())
    # 8 times 32 pixels at 1/2 take 512 of the shorter side, and of the largest here it has some 400
    assert found["aa-cifar100"]["gap 8"] == {"pictures": 0}
    assert 0 < found["aa-cifar100"]["gap 2"]["pictures"] < found["aa-cifar100"]["saved anew at quality 95"]["pictures"]
    assert found["speed"]["resize 32"]["0.1"].keys() == {"bytes", "full_ms", "gap 2", "gap 8"}

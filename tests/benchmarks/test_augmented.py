"""benchmarks.augmented measures two bundles of one precision, and the noise beside them."""

import json
from pathlib import Path

import pytest

from benchmarks import augmented
from tests.helpers import REPOSITORY

BUNDLE = str(REPOSITORY / "aa-cifar100" / "1")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["augmented", *arguments])
    return augmented.main()


def test_each_session_has_its_times_and_their_ratio_to_the_plain_networks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "result.json"
    few = ("--threads", "1", "--batch-sizes", "1,2", "--rounds", "1", "--output", str(file))
    assert run(monkeypatch, BUNDLE, BUNDLE, *few) == 0
    result = json.loads(file.read_text())
    assert (result["precision"], result["plain"]) == ("fp32", "aa_wide_resnet22_2")
    assert list(result["sessions"]) == ["1 threads, batch 1", "1 threads, batch 2"]
    for rows in result["sessions"].values():
        assert list(rows) == ["plain", "augmented", "augmented, again"]
        assert (rows["plain"]["wall_ratio"], rows["plain"]["processor_ratio"]) == (1, 1)
        assert all(row["wall_ms"] > 0 and row["processor_ratio"] > 0 for row in rows.values())


def test_bundles_of_different_precisions_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "aa-cifar100" / "1"
    other.mkdir(parents=True)
    for file in Path(BUNDLE).iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((other / "manifest.json").read_text())
    lowered = {"judged": 1, "top_1_agreement": 1, "top_1_fp32": None, "top_1": None, "allowed_drop": 1}
    manifest |= {"precision": "fp16", "lowered": {**lowered, "calibrated": None, "quantised": None}}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit, match="error: expected bundles of one precision, found fp32 and fp16"):
        run(monkeypatch, BUNDLE, str(other), "--output", str(tmp_path / "result.json"))

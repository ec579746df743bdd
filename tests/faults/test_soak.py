"""`make soak`, for seconds: every kind of traffic is answered as it should be."""

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT


def test_mixed_traffic_meets_no_error(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.15", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(output.read_text()) if output.is_file() else done.stderr
    assert (found["errors"], found["contract"]["no errors"]) == ({}, True)
    assert {kind.split()[0] for kind in found["by_kind"]} >= {"tiny", "real", "batch", "v2", "bad", "leaving"}

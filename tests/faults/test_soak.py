"""`make soak`, for seconds: every kind of traffic is answered as it should be."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults.soak import Record, findings
from tests.helpers import ROOT


def test_mixed_traffic_meets_no_error(tmp_path: Path) -> None:
    output = tmp_path / "soak.json"
    command = [sys.executable, "-m", "tests.faults.soak", "--minutes", "0.1", "--output", output]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(output.read_text()) if output.is_file() else done.stderr
    assert (found["errors"], found["contract"]) == ({}, {"no errors": True})
    assert (done.returncode, "threads and files are not judged: expected 1.5 minutes" in done.stdout) == (0, True)
    assert {kind.split()[0] for kind in found["by_kind"]} >= {"tiny", "real", "batch", "v2", "bad", "leaving"}
    assert sum(found["changes"].values()) > 1


def threads_over_time(seconds: int) -> Record:
    """Nine at first, twelve once the models have changed, and twenty in the second half."""
    record = Record()
    threads = [9] * 10 + [12] * (seconds // 2 - 10) + [20] * (seconds // 2)
    record.samples = [(float(second), 2**27, 20, number) for second, number in enumerate(threads)]
    return record


def test_growth_is_judged_only_after_the_models_have_changed_several_times() -> None:
    assert findings(threads_over_time(80), 80)["contract"] == {"no errors": True}
    judged = findings(threads_over_time(200), 200)["contract"]
    assert judged == {
        "no errors": True,
        "memory grows by 3 % at most": True,
        "as many threads": False,
        "as many files": True,
    }

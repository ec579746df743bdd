"""What the machine grants, and what a sandbox refuses to say."""

import os
import resource
from pathlib import Path

import pytest

from aaserve.service.resources import allowed_connections, available_cores

AFFINITY = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "100000 100000\n"}, 1),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, AFFINITY),
        ({"cpu.max": "100000000 100000\n"}, AFFINITY),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, AFFINITY),
        ({"cpu.max": "nonsense"}, AFFINITY),
        ({}, AFFINITY),
    ],
    ids=["one core", "half a core", "no quota", "more than there are", "version 1", "version 1, none", "odd", "absent"],
)
def test_the_quota_of_the_control_group_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cores(tmp_path) == expected


@pytest.mark.skipif(AFFINITY < 2, reason="needs two cores")
def test_a_quota_between_whole_cores_is_rounded_up(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("110000 100000\n")
    assert available_cores(tmp_path) == 2


def test_a_sandbox_that_refuses_limits_does_not_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1000, 10_000))
    assert allowed_connections(2000) == 872
    assert "the limit of open files (1000) allows 872" in caplog.text
    monkeypatch.setattr(resource, "getrlimit", refuse)
    assert allowed_connections(2000) == 2000
    assert "cannot be read (Operation not permitted); max_connections stays 2000" in caplog.text

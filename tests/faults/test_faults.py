"""Faults under load: each request ends exactly once, metrics stay true, and the service recovers by itself.

A few seconds of each; `make faults` runs the same for longer (AASERVE_FAULT_SCALE times as long).
"""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.faults.clock_set_back import clock_set_back
from tests.faults.findings import Findings
from tests.faults.hanging_model import hanging_model
from tests.faults.killed_workers import killed_workers
from tests.faults.leaving_clients import leaving_clients
from tests.faults.no_disk import no_disk_for_logs
from tests.faults.no_memory import no_memory_for_a_second_model
from tests.faults.no_reader import nobody_reads_the_log
from tests.faults.raising_model import raising_model
from tests.faults.stopped_process import stopped_process

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux's /proc and prlimit")
SCALE = float(os.environ.get("AASERVE_FAULT_SCALE", "1"))


def assert_all(fault: Coroutine[Any, Any, Findings]) -> None:
    findings = asyncio.run(fault)
    assert all(findings["checks"].values()), findings  # type: ignore[attr-defined]


def test_workers_that_are_killed_under_load_lose_only_what_they_had() -> None:
    assert_all(killed_workers(4.0 * SCALE))


def test_a_model_that_raises_at_every_third_call_fails_only_those() -> None:
    assert_all(raising_model(1.0 * SCALE))


def test_a_second_model_that_does_not_fit_into_memory_leaves_the_first_alone() -> None:
    assert_all(no_memory_for_a_second_model(0.5 * SCALE))


def test_a_full_disk_costs_log_lines_and_no_requests() -> None:
    assert_all(no_disk_for_logs(0.5 * SCALE))


def test_a_log_that_is_not_read_stops_nothing() -> None:
    assert_all(nobody_reads_the_log(1.0 * SCALE))


def test_a_clock_that_is_set_back_is_not_noticed() -> None:
    assert_all(clock_set_back(1.0 * SCALE))


def test_a_process_that_was_stopped_goes_on_as_if_nothing_had_been() -> None:
    assert_all(stopped_process(2.0 * SCALE))


def test_200_clients_who_leave_do_not_disturb_others() -> None:
    assert_all(leaving_clients(200))


def test_a_worker_whose_model_hangs_is_replaced() -> None:
    assert_all(hanging_model(1.0 * SCALE))

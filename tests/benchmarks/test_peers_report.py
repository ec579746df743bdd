"""What is made of the turns: medians, ratios within a round, and who could not be measured."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.bare_service import BareService
from benchmarks.harness.pictures import small_pngs
from benchmarks.harness.random_bundles import SHIPPED
from benchmarks.harness.workloads import Workload
from benchmarks.limits import Way
from benchmarks.peers.own import OURS, Aaserve
from benchmarks.peers.peer import StartFailed
from benchmarks.peers.report import markdown, medians, plot
from benchmarks.peers.turn import Plan, Server, take_turn


def turn(rate: float, codes: dict[str, int] | None = None) -> dict[str, Any]:
    level = {
        "answered_per_second": rate,
        "ms": {"p50": 1000 / rate, "p99": 3000 / rate},
        "codes": codes or {"200": 10},
        "cpu_ms_each": 1.0,
    }
    return {
        "top_1_agreement": 1.0,
        **{f"{clients} clients": level for clients in (1, 8, 32)},
        "80% of capacity": {**level, "answered_per_second": rate * 0.8},
        "resident_mb": rate / 10,
    }


ROUNDS = [
    {"raw": {"per_second": 1000.0}, "aaserve": turn(500), "other": turn(300)},
    {"raw": {"per_second": 500.0}, "aaserve": turn(250), "other": turn(150, {"200": 3, "503": 4})},  # a disturbed round
    {"raw": {"per_second": 1000.0}, "aaserve": turn(800), "other": turn(240)},
]


def test_ratios_are_within_a_round_and_figures_are_medians() -> None:
    found = medians(ROUNDS)
    assert found["other"]["32 clients"]["answered_per_second"] == 240
    assert found["other"]["32 clients"]["over_aaserve"] == 0.6  # of 0.6, 0.6, 0.3; the medians have 240 / 500
    assert found["aaserve"]["32 clients"]["share_of_raw"] == 0.5
    assert found["other"]["32 clients"]["codes"] == {"200": 23, "503": 4}
    assert "raw" not in found


def test_a_share_is_of_the_runtime_that_the_server_has() -> None:
    rounds = [{**one, "raw": {**one["raw"], "other": 600.0}} for one in ROUNDS]
    assert medians(rounds)["other"]["8 clients"]["share_of_raw"] == 0.4  # of 0.5, 0.25, 0.4


def test_a_workload_without_an_int8_bundle_is_refused_not_measured_in_fp32() -> None:
    server = Aaserve("int8", int8=True)
    shipped = Workload("W", "shipped", lambda: SHIPPED, small_pngs, "image/png")
    with pytest.raises(StartFailed, match="no int8 bundle"):
        server.alone(shipped, Way(batch=1, sessions=1, callers=1, threads=1), seconds=0)
    with pytest.raises(StartFailed, match="no int8 bundle"), server.serve(SHIPPED):
        pass


def test_the_table_has_the_fastest_first_and_says_what_went_wrong(tmp_path: Path) -> None:
    rounds = [{**one, "wrong": {"disagrees": {}}, "absent": {"failed": "it did not start\nlog"}} for one in ROUNDS]
    servers = medians(rounds)
    text = markdown("W1", "words", 1000.0, servers)
    rows = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| aaserve", "| other"]
    assert "absent: it did not start" in text
    assert "wrong: gives other answers" in text
    assert "other also answered: 503" in text
    assert "0.50 / 0.50 / 0.50" in text
    plot(tmp_path / "curves.png", {"W1": {"words": "words", "raw_per_second": 1000.0, "servers": servers}})
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.width > 400


def small_workload() -> Workload:
    return Workload("W", "words", lambda: SHIPPED, lambda: small_pngs()[:2], "image/png")


@pytest.mark.parametrize("server", [OURS[0], BareService()], ids=lambda server: server.name)
def test_a_turn_of_a_real_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.turn.WARM_UP", 0.1)  # the figures may be inexact here
    found = take_turn(server, small_workload(), [11, 11], Plan(seconds=0.4, open_loops=True), seed=0)
    assert found["top_1_agreement"] == 1
    assert [found[f"{clients} clients"]["codes"].keys() for clients in (1, 8, 32)] == [{"200"}] * 3
    assert {"50% of capacity", "80% of capacity", "95% of capacity"} <= found.keys()
    assert found["resident_mb"] > 30
    assert found["32 clients"]["cpu_ms_each"] > 0


def test_a_server_that_answers_otherwise_is_not_measured() -> None:
    found = take_turn(OURS[0], small_workload(), [11, 12], Plan(seconds=0.1, open_loops=False), seed=0)
    assert found["top_1_agreement"] == 0.5
    assert found["disagrees"] == {"found": [11, 11], "expected": [11, 12]}
    assert "32 clients" not in found


def test_ours_that_need_nothing_else_are_always_measured() -> None:
    assert {"aaserve", "aaserve, two workers", "aaserve, int8"} <= {one.name for one in OURS if one.installed}
    assert all(one.version for one in OURS)

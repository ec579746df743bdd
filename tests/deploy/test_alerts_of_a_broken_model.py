"""What a real service with a broken model shows makes the alerts fire: its own /metrics, given to promtool."""

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.queries import RULES
from tests.deploy.test_rules_and_dashboard import PROMTOOL, needs_promtool
from tests.helpers import running_service, wait_until
from tests.toy_bundles import write_fragile_bundle

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def series(scrapes: list[str], minutes: int) -> list[dict[str, str]]:
    """Prometheus' view of a service: each scrape's values for so many minutes, one after the other."""
    seen = [
        {(name, labels): value for name, labels, value in _SAMPLE.findall(page) if name.startswith("aaserve_")}
        for page in [f"aaserve_up 1\n{page}" for page in scrapes]
    ]
    found = []
    for name, labels in sorted({key for scrape in seen for key in scrape}):
        values = [
            f"{scrape[name, labels]}x{minutes}" if (name, labels) in scrape else f"_x{minutes}" for scrape in seen
        ]
        given = ", ".join(filter(None, [labels, 'job="aaserve"', 'instance="a"']))
        found.append({"series": f"{name.replace('aaserve_up', 'up')}{{{given}}}", "values": " ".join(values)})
    return found


def alert(summary: str, **labels: str) -> dict[str, Any]:
    return {"exp_labels": {"job": "aaserve", "instance": "a", **labels}, "exp_annotations": {"summary": summary}}


@needs_promtool
def test_the_alerts_fire_on_what_a_service_with_a_broken_model_shows(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    write_fragile_bundle(repository)
    (repository / "broken" / "3").mkdir(parents=True)
    with running_service(repository=repository) as service:
        started = service.client.get("/metrics").text
        shutil.copytree(repository / "fragile" / "1", repository / "fragile" / "2")  # whose manifest says 1
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: service.metric("aaserve_reloads_total", model="fragile", outcome="failed") == 1)
        reloaded = service.client.get("/metrics").text
    not_ready = alert("a is up and does not serve broken", severity="page", model="broken", version="3")
    failed = [
        alert(
            f"a could not load {model}; nothing that was served has changed",
            **{"severity": "ticket", "model": model, "outcome": "failed"},
        )
        for model in ("broken", "fragile")
    ]
    fallback = alert(
        "a serves an older version of fragile, because the newest one is broken", severity="ticket", model="fragile"
    )
    expected: list[tuple[str, str, list[dict[str, Any]]]] = [
        ("AaserveNotReady", "4m", [not_ready]),
        ("AaserveModelFallback", "4m", []),
        ("AaserveReloadFailed", "4m", []),
        ("AaserveNotReady", "14m", [not_ready]),
        ("AaserveModelFallback", "14m", [fallback]),
        ("AaserveReloadFailed", "14m", failed),
    ]
    test = {
        "interval": "1m",
        "input_series": series([started, reloaded], 9),
        "alert_rule_test": [
            {"alertname": name, "eval_time": time, "exp_alerts": alerts} for name, time, alerts in expected
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(path) for path in RULES], "evaluation_interval": "1m", "tests": [test]})
    )
    done = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

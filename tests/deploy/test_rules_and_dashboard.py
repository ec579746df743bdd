"""Dashboard, rules and alerts fit the service and each other."""

import json
import re
import shutil
import subprocess

import pytest
import yaml

from aaserve.service.observability.gpu_metrics import GpuMetrics
from aaserve.service.observability.metrics import Metrics
from aaserve.service.observability.process_metrics import watch_process
from tests.deploy.queries import DASHBOARD, DEPLOY, RULE_TESTS, RULES, dashboard_queries, recorded, rule_queries, rules
from tests.helpers import ROOT

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")


def names_of_the_service() -> set[str]:
    """Every sample name that the service may show."""
    metrics = Metrics()
    watch_process(metrics.registry)
    families = [*metrics.registry.collect(), *GpuMetrics(0).describe()]
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
    return {family.name + suffix for family in families for suffix in suffixes.get(family.type, [""])}


@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_do_what_their_tests_say(path) -> None:  # type: ignore[no-untyped-def]
    done = subprocess.run([PROMTOOL, "test", "rules", path.name], cwd=path.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_accepts_configuration_and_rules() -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["check", "rules", *map(str, RULES)]):
        done = subprocess.run([PROMTOOL, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_that_is_asked_for_exists() -> None:
    known = names_of_the_service() | recorded()
    unknown = {name: query.where for query in dashboard_queries() + rule_queries() for name in query.names - known}
    assert not unknown


def test_every_metric_is_looked_at() -> None:
    asked = set().union(*(query.names for query in dashboard_queries() + rule_queries()))
    families = {family.name for family in (*Metrics().registry.collect(), *GpuMetrics(0).describe())}
    assert {family for family in families if not any(name.startswith(family) for name in asked)} == set()


def test_every_alert_has_a_test_a_severity_and_a_line_in_the_runbook() -> None:
    tests = [test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]]
    fired = {rule["alertname"] for test in tests for rule in test.get("alert_rule_test", []) if rule["exp_alerts"]}
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    runbook = (ROOT / "docs" / "monitoring.md").read_text().split("\n## Alerts\n")[1].split("\n## ")[0]
    assert fired == set(alerts)
    assert set(re.findall(r"^\| `(\w+)` \|", runbook, re.MULTILINE)) == set(alerts)
    assert {rule["labels"]["severity"] for rule in alerts.values()} == {"page", "ticket"}


def test_the_latency_objective_is_a_bucket_of_the_histogram() -> None:
    edges = {bound for query in rule_queries() for bound in re.findall(r'le="([^"]+)"', query.expr)}
    metrics = Metrics()
    metrics.request_duration.labels("/classify", "m").observe(0)
    [family] = metrics.request_duration.collect()
    assert edges
    assert edges <= {sample.labels.get("le") for sample in family.samples}


def test_panels_have_different_ids_and_do_not_lie_over_each_other() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24

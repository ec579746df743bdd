"""The autoscalers of the Kubernetes manifests."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import AUTOSCALERS, KUBERNETES, base_deployment, composed, container_of, plain
from tests.deploy.queries import DEPLOY
from tests.deploy.test_rules_and_dashboard import names_of_the_service
from tests.helpers import ROOT


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_an_autoscaler_has_the_number_of_replicas_to_itself(tmp_path: Path, autoscaler: str) -> None:
    [deployment] = [one for one in composed(tmp_path, "cpu", autoscaler) if one["kind"] == "Deployment"]
    assert "replicas" not in deployment["spec"]


def test_every_metric_that_scales_exists() -> None:
    components = [path for scaler in AUTOSCALERS for path in (KUBERNETES / "components" / scaler).glob("*.yaml")]
    text = "".join(path.read_text() for path in components)
    found = set(re.findall(r"\baaserve_\w+", text))
    assert found == {"aaserve_inflight_requests"}
    assert found <= names_of_the_service()


def test_the_target_of_the_autoscalers_follows_from_the_measured_work() -> None:
    sizing = json.loads(max((ROOT / "benchmarks" / "results").glob("*-sizing.json")).read_text())
    cores = int(container_of(base_deployment())["resources"]["limits"]["cpu"])
    target = math.floor(cores * sizing["planned_requests_inside"])
    [scaler], [scaled] = plain("HorizontalPodAutoscaler"), plain("ScaledObject")
    assert [metric["pods"]["target"]["averageValue"] for metric in scaler["spec"]["metrics"]] == [str(target)]
    assert [trigger["metadata"]["threshold"] for trigger in scaled["spec"]["triggers"]] == [str(target)]
    # The estimate of docs/scaling.md is on the safe side of what was measured, and near it.
    work = sizing["work_ms"]
    s = work["http"] + work["decode"] + work["batch of 1"]
    d = sizing["objective_ms"] / sizing["worst_p99_measured_over_simulated"]
    utilisation = 1 - s * math.log(100) / (2 * (d - s))
    in_flight = utilisation + utilisation**2 / (2 * (1 - utilisation))
    assert 0.7 * sizing["planned_requests_inside"] < in_flight < sizing["planned_requests_inside"]
    document = (ROOT / "docs" / "scaling.md").read_text()
    assert f"s is {s:.1f} ms" in document
    assert f"ρ = {utilisation:.2f}, L = {in_flight:.1f}" in document
    assert f"target of {cores * in_flight:.1f} for {cores} cores" in document.replace("\n", " ")
    assert f"its target is {target}" in document
    ray = yaml.safe_load((DEPLOY / "ray" / "rayservice.yaml").read_text())["spec"]["serveConfigV2"]
    [replicas] = yaml.safe_load(ray)["applications"][0]["deployments"]  # of one core
    in_flight = math.ceil(sizing["planned_requests_inside"])
    assert replicas["autoscaling_config"]["target_ongoing_requests"] == in_flight

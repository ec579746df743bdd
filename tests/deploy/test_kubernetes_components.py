"""Overlays and components of the Kubernetes manifests: what they add fits the service and each other."""

from pathlib import Path

import pytest
import yaml

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from deploy.kubernetes.prometheus_rule import OUTPUT, prometheus_rule
from tests.deploy.manifests import KUBERNETES, OVERLAYS, Resource, built, container_of, kinds, plain
from tests.deploy.queries import DASHBOARD, RULES
from tests.helpers import ROOT


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    assert OUTPUT.read_text() == prometheus_rule(), "run python -m deploy.kubernetes.prometheus_rule"
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    assert plain("PrometheusRule")[0]["spec"]["groups"] == groups


def test_grafana_gets_the_dashboard_that_ships(combinations: dict[str, list[Resource]]) -> None:
    [config] = kinds(combinations["cpu dashboard"], "ConfigMap")
    assert config["data"] == {"aaserve.json": DASHBOARD.read_text()}


@pytest.mark.parametrize("name", ["cpu models-volume", "cpu models-s3"])
def test_models_are_mounted_where_the_image_looks_for_them(combinations: dict[str, list[Resource]], name: str) -> None:
    [deployment] = kinds(combinations[name], "Deployment")
    [mount] = container_of(deployment)["volumeMounts"]
    assert "AASERVE_REPOSITORY=/mnt/models" in (ROOT / "Dockerfile").read_text()
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/models", True)
    for container in deployment["spec"]["template"]["spec"].get("initContainers", []):
        assert {"name": mount["name"], "mountPath": "/mnt/models"} in container["volumeMounts"]
        assert container["command"][-1] == "/mnt/models"
        assert container["securityContext"] == container_of(deployment)["securityContext"]


def test_keys_and_certificate_are_read_from_where_their_secrets_are_mounted(
    combinations: dict[str, list[Resource]],
) -> None:
    [deployment] = kinds(combinations["cpu everything"], "Deployment")
    container, volumes = container_of(deployment), deployment["spec"]["template"]["spec"]["volumes"]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    mounted = {mount["mountPath"]: secrets.get(mount["name"]) for mount in container["volumeMounts"]}
    files = {one["name"]: one["value"] for one in container["env"] if one["value"].startswith("/etc/")}
    assert {name: (mounted[str(Path(file).parent)], Path(file).name) for name, file in files.items()} == {
        "AASERVE_API_KEYS_FILE": ("aaserve-keys", "keys"),
        "AASERVE_TLS_CERTIFICATE": ("aaserve-tls", "tls.crt"),
        "AASERVE_TLS_KEY": ("aaserve-tls", "tls.key"),
    }


def test_all_callers_of_a_pod_with_keys_and_tls_send_a_key_over_https(
    combinations: dict[str, list[Resource]],
) -> None:
    resources = combinations["cpu everything"]
    [deployment], [service] = kinds(resources, "Deployment"), kinds(resources, "Service")
    [monitor], [ingress] = kinds(resources, "ServiceMonitor"), kinds(resources, "Ingress")
    probes = [probe for name, probe in container_of(deployment).items() if name.endswith("Probe")]
    assert [probe["httpGet"]["scheme"] for probe in probes] == ["HTTPS"] * 3
    [published] = service["spec"]["ports"]
    assert (published["port"], published["appProtocol"]) == (443, "https")
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["authorization"]["credentials"] == {"name": "aaserve-metrics-key", "key": "key"}
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "HTTPS"


def test_strangers_reach_inference_but_no_metrics_or_admin(combinations: dict[str, list[Resource]]) -> None:
    [ingress] = kinds(combinations["cpu everything"], "Ingress")
    [route] = kinds(combinations["gpu everything"], "HTTPRoute")
    routes = set(create_app(Settings()).openapi()["paths"]) | {"/metrics"}
    by_ingress = {path["path"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}
    by_gateway = {match["path"]["value"] for rule in route["spec"]["rules"] for match in rule["matches"]}
    assert by_ingress == by_gateway
    reached = {path for path in routes for prefix in by_ingress if path == prefix or path.startswith(f"{prefix}/")}
    assert {"/classify", "/classify/batch", "/detect", "/explain", "/v2/models/{model}/infer"} <= reached
    assert not any(path.startswith(("/metrics", "/admin", "/health")) for path in reached)
    seconds = Settings.model_fields["request_timeout_ms"].default / 1000
    annotations = ingress["metadata"]["annotations"]
    assert int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > seconds
    assert int(route["spec"]["rules"][0]["timeouts"]["request"].removesuffix("s")) > seconds
    mebibytes = int(annotations["nginx.ingress.kubernetes.io/proxy-body-size"].removesuffix("m"))
    assert mebibytes * 2**20 == Settings.model_fields["max_body_bytes"].default


def test_a_canary_has_pods_of_its_own_and_the_gateway_weighs_the_two(combinations: dict[str, list[Resource]]) -> None:
    resources = combinations["canary"]
    names = ["aaserve", "aaserve-canary"]
    for kind in ("Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"):
        assert sorted(one["metadata"]["name"] for one in kinds(resources, kind)) == names
    pods = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in kinds(resources, "Deployment")
    }
    assert pods == {name: {"app.kubernetes.io/name": name} for name in names}
    services = {one["metadata"]["name"]: one for one in kinds(resources, "Service")}
    assert {name: one["spec"]["selector"] for name, one in services.items()} == pods
    [route], [monitor] = kinds(resources, "HTTPRoute"), kinds(resources, "ServiceMonitor")
    [rule] = route["spec"]["rules"]
    assert {one["name"]: one["weight"] for one in rule["backendRefs"]} == {"aaserve": 90, "aaserve-canary": 10}
    assert {one["port"] for one in rule["backendRefs"]} == {
        port["port"] for one in services.values() for port in one["spec"]["ports"]
    }
    # Both are scraped as the job that the alerts ask for.
    for one in services.values():
        assert monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        assert one["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "aaserve"


def test_the_overlays_have_their_images_and_only_one_asks_for_a_gpu() -> None:
    for overlay in OVERLAYS:
        [deployment] = [one for one in built(KUBERNETES / "overlays" / overlay) if one["kind"] == "Deployment"]
        container = container_of(deployment)
        assert container["image"].endswith(f"/aaserve:{overlay}")
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")
    [runtime] = [one for one in built(KUBERNETES / "kserve") if one["kind"] == "ClusterServingRuntime"]
    assert container_of(runtime)["image"].endswith("/aaserve:cpu")

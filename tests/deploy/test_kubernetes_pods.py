"""The pods of the Kubernetes manifests: all settings, paths, ports and users that they name exist in the service."""

import re

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.deploy.manifests import base_deployment, container_of, containers, plain
from tests.helpers import ROOT


def test_every_setting_exists_and_takes_its_value() -> None:
    for container in containers():
        variables = {one["name"]: one["value"] for one in container.get("env", [])}
        assert all(name.startswith("AASERVE_") for name in variables)
        settings = {name.removeprefix("AASERVE_").lower(): value for name, value in variables.items()}
        assert set(settings) <= set(Settings.model_fields)
        Settings(**settings)


def test_no_service_of_the_namespace_can_change_our_settings() -> None:
    """Kubernetes sets NAME_PORT=tcp://… for each Service; of one called aaserve that would be our port."""
    assert base_deployment()["spec"]["template"]["spec"]["enableServiceLinks"] is False
    [isvc] = plain("InferenceService")
    assert isvc["spec"]["predictor"]["enableServiceLinks"] is False
    for resource in [base_deployment(), *plain("ClusterServingRuntime")]:
        assert "AASERVE_PORT" in {one["name"] for one in container_of(resource)["env"]}


def test_every_path_that_is_probed_or_scraped_exists() -> None:
    routes = set(create_app(Settings()).openapi()["paths"]) | {"/metrics"}
    for container in map(container_of, [base_deployment(), *plain("ClusterServingRuntime")]):
        probes = {name: container[name] for name in container if name.endswith("Probe")}
        for name, probe in probes.items():
            assert probe["httpGet"]["path"] in routes
            assert probe["httpGet"]["path"].endswith("live" if name == "livenessProbe" else "ready")
    for deployment in [base_deployment(), *plain("ClusterServingRuntime")]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container_of(deployment))
    [monitor] = plain("ServiceMonitor")
    assert [endpoint["path"] for endpoint in monitor["spec"]["endpoints"]] == ["/metrics"]


def test_every_port_is_the_services() -> None:
    port = Settings.model_fields["port"].default
    for resource in [base_deployment(), *plain("ClusterServingRuntime")]:
        container = container_of(resource)
        [declared] = container["ports"]
        assert declared["containerPort"] == port
        assert {"name": "AASERVE_PORT", "value": str(port)} in container["env"]
        names = {declared.get("name"), declared["containerPort"]}
        assert {container[probe]["httpGet"]["port"] for probe in container if probe.endswith("Probe")} <= names
    [service] = plain("Service")
    [monitor] = plain("ServiceMonitor")
    [policy] = plain("NetworkPolicy")
    [published] = service["spec"]["ports"]
    assert published["targetPort"] == "http"
    assert [endpoint["port"] for endpoint in monitor["spec"]["endpoints"]] == [published["name"]]
    assert [each["port"] for rule in policy["spec"]["ingress"] for each in rule["ports"]] == ["http"]


def test_everything_selects_the_pods_of_the_deployment() -> None:
    wanted = {"app.kubernetes.io/name": "aaserve"}
    assert base_deployment()["spec"]["template"]["metadata"]["labels"] == wanted
    [service], [budget], [policy] = plain("Service"), plain("PodDisruptionBudget"), plain("NetworkPolicy")
    [monitor] = plain("ServiceMonitor")
    assert service["spec"]["selector"] == wanted
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert budget["spec"]["selector"]["matchLabels"] == policy["spec"]["podSelector"]["matchLabels"] == wanted
    for scaler in plain("HorizontalPodAutoscaler", "ScaledObject"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == base_deployment()["metadata"]["name"]


def test_the_pod_is_killed_only_after_it_may_have_drained() -> None:
    pod = base_deployment()["spec"]["template"]["spec"]
    variables = {one["name"]: one["value"] for one in container_of(base_deployment())["env"]}
    draining = int(variables["AASERVE_DRAIN_GRACE_MS"]) + int(variables["AASERVE_REQUEST_TIMEOUT_MS"])
    assert pod["terminationGracePeriodSeconds"] > draining / 1000
    readiness = container_of(base_deployment())["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < int(variables["AASERVE_DRAIN_GRACE_MS"]) / 1000
    [isvc] = plain("InferenceService")
    image = int(re.search(r"AASERVE_DRAIN_GRACE_MS=(\d+)", (ROOT / "Dockerfile").read_text())[1])
    taken = image + Settings.model_fields["request_timeout_ms"].default
    assert isvc["spec"]["predictor"]["terminationGracePeriodSeconds"] > taken / 1000


def test_the_pods_are_restricted_and_the_images_user() -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    pod = base_deployment()["spec"]["template"]["spec"]
    contexts = [pod["securityContext"] | container_of(base_deployment())["securityContext"]]
    contexts += [container_of(runtime)["securityContext"] for runtime in plain("ClusterServingRuntime")]
    for context in contexts:
        assert context["runAsNonRoot"]
        assert context["runAsUser"] == int(user)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_kserve_mounts_models_where_the_image_looks_for_them() -> None:
    [runtime], [isvc] = plain("ClusterServingRuntime"), plain("InferenceService")
    assert {"name": "AASERVE_REPOSITORY", "value": "/mnt/models"} in container_of(runtime)["env"]
    assert container_of(runtime)["name"] == "kserve-container"
    assert runtime["spec"]["protocolVersions"] == [isvc["spec"]["predictor"]["model"]["protocolVersion"]] == ["v2"]
    formats = {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    assert isvc["spec"]["predictor"]["model"]["modelFormat"]["name"] in formats
    assert isvc["spec"]["predictor"]["model"]["runtime"] == runtime["metadata"]["name"]

"""The Kubernetes manifests: valid by the real schemas, and everything they name exists in the service."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.app import create_app
from service.settings import Settings
from tests.clients.environments import environment
from tests.deploy.queries import DEPLOY
from tests.deploy.test_rules_and_dashboard import names_of_the_service
from tests.helpers import ROOT

KUBERNETES = DEPLOY / "kubernetes"
FOLDER = Path(__file__).parent
OVERLAYS = ["cpu", "gpu"]
AUTOSCALERS = ["hpa", "keda"]
OPERATORS = {"monitoring.coreos.com/v1", "keda.sh/v1alpha1", "serving.kserve.io/v1alpha1", "serving.kserve.io/v1beta1"}
Resource = dict[str, Any]


def built(folder: Path) -> list[Resource]:
    """What `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which resolves kustomizations")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def composed(folder: Path, overlay: str, *components: str) -> list[Resource]:
    """An overlay with components, written as docs/deploying.md says."""
    copy = folder / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    (copy / "mine").mkdir()
    kustomization = {
        "resources": [f"../overlays/{overlay}"],
        "components": [f"../components/{component}" for component in components],
    }
    (copy / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return built(copy / "mine")


def plain(*kinds: str) -> list[Resource]:
    """The manifests as they are written, before any kustomization."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(KUBERNETES.rglob("*.yaml"))]
    return [resource for resource in found if resource.get("kind") in kinds]


def container_of(resource: Resource) -> Resource:
    pod = resource["spec"]["template"]["spec"] if resource["kind"] == "Deployment" else resource["spec"]
    [container] = pod["containers"]
    return container


def base_deployment() -> Resource:
    return yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())


def containers() -> list[Resource]:
    return [container_of(resource) for resource in plain("Deployment", "ClusterServingRuntime")]


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_what_is_built(tmp_path: Path, overlay: str, autoscaler: str) -> None:
    python = environment("manifests", FOLDER)
    resources = composed(tmp_path, overlay, autoscaler, "service-monitor")
    ours = [resource for resource in resources if resource["apiVersion"] not in OPERATORS]
    assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {one["kind"] for one in ours}
    (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(ours))
    done = subprocess.run(
        [python.parent / "kubernetes-validate", "--strict", "--no-warn", tmp_path / "built.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_definitions_accept_ours() -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here, from which the compiled definitions come")
    packages = ROOT / ".venv-crds"
    if not (packages / ".installed").exists():
        names = [f"@kubernetes-models/{name}" for name in ("prometheus-operator@6.0.0", "keda@2.0.0")]
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", packages]
        subprocess.run([*install, *names], check=True)
        (packages / ".installed").touch()
    resources = plain("ServiceMonitor", "ScaledObject")
    assert len(resources) == 2
    done = subprocess.run(
        ["node", FOLDER / "crds.mjs", packages / "node_modules"],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""


def test_kserves_own_classes_accept_ours() -> None:
    resources = plain("ClusterServingRuntime", "InferenceService")
    assert len(resources) == 2
    done = subprocess.run(
        [environment("kserve"), "-W", "ignore", FOLDER / "kserve_schema.py"],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""


def test_nothing_is_built_that_is_not_tested() -> None:
    assert sorted(path.name for path in (KUBERNETES / "overlays").iterdir()) == OVERLAYS
    assert sorted(path.name for path in (KUBERNETES / "components").iterdir()) == [*AUTOSCALERS, "service-monitor"]


def test_the_overlays_have_their_images_and_only_one_asks_for_a_gpu() -> None:
    for overlay in OVERLAYS:
        [deployment] = [one for one in built(KUBERNETES / "overlays" / overlay) if one["kind"] == "Deployment"]
        container = container_of(deployment)
        assert container["image"].endswith(f"/aaserve:{overlay}")
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")
    [runtime] = [one for one in built(KUBERNETES / "kserve") if one["kind"] == "ClusterServingRuntime"]
    assert container_of(runtime)["image"].endswith("/aaserve:cpu")


@pytest.mark.parametrize("autoscaler", AUTOSCALERS)
def test_an_autoscaler_has_the_number_of_replicas_to_itself(tmp_path: Path, autoscaler: str) -> None:
    [deployment] = [one for one in composed(tmp_path, "cpu", autoscaler) if one["kind"] == "Deployment"]
    assert "replicas" not in deployment["spec"]


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
    for container in containers():
        probes = {
            name: container[name] for name in container if name.endswith("Probe") and "httpGet" in container[name]
        }
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
    assert service["metadata"]["labels"] == monitor["spec"]["selector"]["matchLabels"] == wanted
    assert budget["spec"]["selector"]["matchLabels"] == policy["spec"]["podSelector"]["matchLabels"] == wanted
    for scaler in plain("HorizontalPodAutoscaler", "ScaledObject"):
        assert scaler["spec"]["scaleTargetRef"]["name"] == base_deployment()["metadata"]["name"]


def test_every_metric_that_scales_exists() -> None:
    text = "".join(path.read_text() for path in (KUBERNETES / "components").rglob("*.yaml"))
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
    # The estimate of docs/scaling.md is on the safe side of the simulation, and near it.
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

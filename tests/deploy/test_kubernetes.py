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

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from deploy.kubernetes.prometheus_rule import OUTPUT, prometheus_rule
from tests.clients.environments import environment
from tests.deploy.queries import DASHBOARD, DEPLOY, RULES
from tests.deploy.test_rules_and_dashboard import names_of_the_service
from tests.helpers import ROOT

KUBERNETES = DEPLOY / "kubernetes"
FOLDER = Path(__file__).parent
OVERLAYS = ["cpu", "gpu"]
AUTOSCALERS = ["hpa", "keda"]
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
COMBINATIONS: dict[str, tuple[str, ...]] = {  # of an overlay, then components in the order that docs/deploying.md gives
    **{f"{overlay} {scaler}": (overlay, "service-monitor", scaler) for overlay in OVERLAYS for scaler in AUTOSCALERS},
    **{f"cpu {component}": ("cpu", component) for component in COMPONENTS},
    "cpu everything": (
        *("cpu", "service-monitor", "prometheus-rule", "dashboard", "models-volume"),
        *("ingress", "keys", "tls", "keda"),
    ),
    "gpu everything": (
        *("gpu", "service-monitor", "prometheus-rule", "dashboard", "models-s3"),
        *("gateway", "keys", "hpa"),
    ),
}
BUILT_IN = {"apps/v1", "autoscaling/v2", "networking.k8s.io/v1", "policy/v1", "v1"}
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
    copy = folder / "deploy" / "kubernetes"
    if not copy.exists():
        shutil.copytree(DEPLOY, copy.parent)
    (copy / "mine").mkdir(exist_ok=True)
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


@pytest.fixture(scope="module")
def combinations(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """What is built of each combination, and of the example of a canary."""
    folder = tmp_path_factory.mktemp("kubernetes")
    found = {name: composed(folder, *combination) for name, combination in COMBINATIONS.items()}
    return found | {"canary": built(KUBERNETES / "canary")}


def kinds(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]


def test_kubernetes_accepts_what_is_built(combinations: dict[str, list[Resource]], tmp_path: Path) -> None:
    python = environment("manifests", FOLDER)
    for resources in combinations.values():
        assert {"Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"} <= {one["kind"] for one in resources}
    ours = [one for resources in combinations.values() for one in resources if one["apiVersion"] in BUILT_IN]
    (tmp_path / "built.yaml").write_text(yaml.safe_dump_all(ours))
    done = subprocess.run(
        [python.parent / "kubernetes-validate", "--strict", "--no-warn", tmp_path / "built.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operators_definitions_accept_ours(combinations: dict[str, list[Resource]]) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here, from which the compiled definitions come")
    packages = ROOT / ".venv-crds"
    versions = ("prometheus-operator@6.0.0", "keda@2.0.0", "gateway-api@2.0.0")
    names = [f"@kubernetes-models/{name}" for name in versions]
    installed = packages / ".installed"
    if not installed.exists() or installed.read_text() != " ".join(names):
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", packages]
        subprocess.run([*install, *names], check=True)
        installed.write_text(" ".join(names))
    resources = [one for each in combinations.values() for one in each if one["apiVersion"] not in BUILT_IN]
    assert {one["kind"] for one in resources} == {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute"}
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
    tried_together = {
        component for name in ("cpu everything", "gpu everything") for component in COMBINATIONS[name][1:]
    }
    assert tried_together == set(COMPONENTS)
    document = (ROOT / "docs" / "deploying.md").read_text()
    assert {name for name in COMPONENTS if f"components/{name}" not in document} == set()


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

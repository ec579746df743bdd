"""The Kubernetes manifests: as they are written, and as kustomize builds them."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.queries import DEPLOY

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
    return list(yaml.load_all(done.stdout, yaml.CSafeLoader))  # C: the text is long


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
    return [resource for resource in _written() if resource.get("kind") in kinds]


@cache
def _written() -> list[Resource]:
    """All files; not to be changed."""
    return [yaml.safe_load(path.read_text()) for path in sorted(KUBERNETES.rglob("*.yaml"))]


def container_of(resource: Resource) -> Resource:
    pod = resource["spec"]["template"]["spec"] if resource["kind"] == "Deployment" else resource["spec"]
    [container] = pod["containers"]
    return container


def base_deployment() -> Resource:
    return yaml.safe_load((KUBERNETES / "base" / "deployment.yaml").read_text())


def containers() -> list[Resource]:
    return [container_of(resource) for resource in plain("Deployment", "ClusterServingRuntime")]


def kinds(resources: list[Resource], kind: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] == kind]

"""The Kubernetes manifests are valid by the schemas of Kubernetes, of the operators and of KServe."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.clients.environments import environment
from tests.deploy.manifests import BUILT_IN, COMBINATIONS, COMPONENTS, FOLDER, KUBERNETES, OVERLAYS, Resource, plain
from tests.helpers import ROOT


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

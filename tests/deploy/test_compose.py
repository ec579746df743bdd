"""The compose file is valid and matches the image and deploy/."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from aaserve.service.settings import Settings
from tests.clients.environments import environment
from tests.deploy.queries import DEPLOY
from tests.helpers import ROOT

COMPOSE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]


def test_compose_file_and_workflow_are_what_their_schemas_say() -> None:
    python = environment("manifests", Path(__file__).parent)
    for schema, path in (("compose-spec", COMPOSE), ("github-workflows", ROOT / ".github/workflows/ci.yml")):
        done = subprocess.run(
            [python, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_pinned_limited_and_may_not_write_or_rise(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"aaserve:(cpu|gpu)|[\w/]+:v?\d+\.\d+\.\d+@sha256:[0-9a-f]{64}", service["image"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    for source, _, mode in (volume.partition(":") for volume in service.get("volumes", [])):
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode.endswith(":ro")


def test_every_container_has_a_health_check_without_a_shell() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^HEALTHCHECK .*CMD \["aaserve", "healthcheck"\]$', dockerfile, re.MULTILINE)
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


def test_every_built_image_is_a_stage_of_the_dockerfile() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    for name, profiles in (("aaserve", None), ("aaserve-gpu", ["gpu"])):
        assert SERVICES[name]["build"]["target"] in stages
        assert SERVICES[name].get("profiles") == profiles
    assert stages[-1] == "cpu"  # what a build without a target gives


def test_the_containers_find_each_other() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["aaserve:8080"]
    assert SERVICES["aaserve-gpu"]["networks"]["default"]["aliases"] == ["aaserve"]
    [source] = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/aaserve.yml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    for name, port in (("aaserve", 8080), ("aaserve-gpu", 8080), ("prometheus", 9090), ("grafana", 3000)):
        assert [published.split(":")[-1] for published in SERVICES[name]["ports"]] == [str(port)]


def test_a_stop_is_given_the_time_that_draining_takes() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    grace = int(re.search(r"AASERVE_DRAIN_GRACE_MS=(\d+)", dockerfile)[1])
    patience = int(SERVICES["aaserve"]["stop_grace_period"].removesuffix("s"))
    assert patience > (grace + Settings.model_fields["request_timeout_ms"].default) / 1000

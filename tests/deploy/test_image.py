"""Tests of the image without building it; CI builds and runs it."""

import http.server
import os
import re
import ssl
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import pytest

from aaserve.service.settings import Settings
from aaserve.service.version import VERSION
from tests.clients.environments import environment
from tests.helpers import ROOT, RunningService, running_service

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def healthcheck(port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "aaserve.service.healthcheck"],
        cwd=ROOT,
        env={**os.environ, "AASERVE_HOST": "0.0.0.0", "AASERVE_PORT": str(port), **environment},
        capture_output=True,
        text=True,
    )


def test_hadolint_finds_nothing() -> None:
    hadolint = environment("manifests", Path(__file__).parent).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_the_health_check_says_whether_the_service_is_ready(service: RunningService) -> None:
    port = service.client.base_url.port
    assert (healthcheck(port).returncode, healthcheck(port).stderr) == (0, "")


def test_the_health_check_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    with running_service("--drain-grace-ms", "60000") as running:
        port = running.client.base_url.port
        running.process.terminate()
        while (found := healthcheck(port)).returncode == 0:
            pass
        assert found.returncode == 1
        assert re.fullmatch(r"error: /health/ready: expected 200, found 503 .*draining.*\n", found.stderr)
        running.process.terminate()  # again: ends the grace
        running.process.wait(30)
    gone = healthcheck(port)
    assert gone.returncode == 1
    assert re.fullmatch(r"error: /health/ready: expected 200, found .*refused\n", gone.stderr)


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers as a service that is ready."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health/ready" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_the_health_check_speaks_tls_where_the_service_does(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=service.example"]
    subprocess.run([*new, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            found = healthcheck(server.server_port, AASERVE_TLS_CERTIFICATE=str(certificate))
            assert (found.returncode, found.stderr) == (0, "")
        finally:
            server.shutdown()
            thread.join()


def test_the_image_sets_settings_that_exist() -> None:
    assert re.findall(r"AASERVE_PROVIDER=(\S+)", DOCKERFILE) == ["cuda", "openvino"]  # of the targets gpu and openvino
    found = dict(re.findall(r"AASERVE_(?!PROVIDER)(\w+)=(\S+)", DOCKERFILE))
    settings = Settings(**{name.lower(): value for name, value in found.items()})
    assert {name.lower() for name in found} <= set(Settings.model_fields)
    assert f"EXPOSE {settings.port}\n" in DOCKERFILE
    assert f"COPY model_repository {settings.repository}\n" in DOCKERFILE


def test_the_user_is_a_number_and_not_root() -> None:
    [user] = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_the_version_stands_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "aaserve.service.version.VERSION"}
    assert VERSION not in DOCKERFILE
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == VERSION


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_everything_that_the_image_installs_by_name_is_pinned(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "constraints-gpu.txt").read_text()
    assert f"'.[{extra},otel]'" in DOCKERFILE
    for requirement in extras[extra] + extras["service"] + extras["otel"]:
        name = re.match(r"[\w-]+", requirement)[0]
        if name != "aaserve":
            assert re.search(rf"^{name.replace('-', '[-_]')}==", pinned, re.MULTILINE), name

"""HTTPS with the operator's own certificate, made by openssl as they would."""

import asyncio
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from aaserve.service.observability.metrics import Metrics
from aaserve.service.process.connection import Connection
from aaserve.service.process.connection_limit import ConnectionLimit
from aaserve.service.process.server import Server
from aaserve.service.process.tls import Certificate
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, RunningService, running_service, start_that_fails, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here to make a certificate with")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """For 127.0.0.1, signed by itself."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-subj", "/CN=aaserve", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def options(certificate: Path, key: Path) -> tuple[str, ...]:
    return "--tls-certificate", str(certificate), "--tls-key", str(key)


def shown_by(service: RunningService) -> bytes:
    """The certificate that a new connection gets to see."""
    return ssl.PEM_cert_to_DER_cert(
        ssl.get_server_certificate((service.client.base_url.host, service.client.base_url.port))
    )


def der(certificate: Path) -> bytes:
    return ssl.PEM_cert_to_DER_cert(certificate.read_text())


def test_https_answers_and_nothing_weaker_does(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(certificate))
    with running_service(*options(certificate, key), verify=trusted) as service:
        assert service.client.base_url.scheme == "https"
        assert service.classify(JPEG).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{service.client.base_url}/health/live")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{service.client.base_url.port}/health/live")
        old = ssl.create_default_context(cafile=str(certificate))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError, match=r"PROTOCOL_VERSION|NO_PROTOCOLS"):
            httpx.get(f"{service.client.base_url}/health/live", verify=old)
        assert service.stop() == 0  # though our client keeps its connection, and does not read the goodbye
    assert not [line for line in service.log if "graceful" in line or "Traceback" in line]


def test_a_new_certificate_is_taken_on_sighup_and_a_broken_one_is_not(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    first = der(certificate)
    trusted = ssl.create_default_context(cafile=str(certificate))
    with running_service(*options(certificate, key), "--workers", "2", verify=trusted) as service:
        wait_until(lambda: sum("ready" in line for line in service.log) >= 2)
        assert service.classify(JPEG).status_code == 200

        def reload() -> None:
            done = sum("reloaded" in line for line in service.log)
            service.process.send_signal(signal.SIGHUP)
            wait_until(lambda: sum("reloaded" in line for line in service.log) >= done + 2)

        good = certificate.read_text(), key.read_text()
        certificate.write_text("-----BEGIN CERTIFICATE-----\nhalf of it")
        reload()
        assert sum("the certificate stays as it was" in line for line in service.log) == 2
        assert {shown_by(service) for _ in range(8)} == {first}
        make_certificate(tmp_path)
        assert good != (certificate.read_text(), key.read_text())
        reload()
        assert {shown_by(service) for _ in range(8)} == {der(certificate)}
        assert service.classify(JPEG).status_code == 200  # on the connection that was open all the time


BROKEN = {
    "no such file": (lambda certificate, key: key.unlink(), "key.pem: expected a readable PEM file, found No such"),
    "no PEM": (lambda certificate, key: certificate.write_text("certificate"), "expected a certificate and its key"),
    "swapped": (lambda certificate, key: swap(certificate, key), "expected a certificate and its key"),
    "another's key": (lambda certificate, key: another_key(key), "found KEY_VALUES_MISMATCH"),
    "a key with a password": (lambda certificate, key: encrypt(key), "a key that needs a password"),
}


def swap(certificate: Path, key: Path) -> None:
    content = certificate.read_text()
    certificate.write_text(key.read_text())
    key.write_text(content)


def another_key(key: Path) -> None:
    make_certificate(key.parent)
    content = key.read_text()
    make_certificate(key.parent)
    key.write_text(content)


def encrypt(key: Path) -> None:
    subprocess.run(
        ["openssl", "ec", "-in", key, "-aes128", "-passout", "pass:secret", "-out", key],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_files_that_are_no_certificate_and_key_are_refused(tmp_path: Path, damage, message: str) -> None:
    certificate, key = make_certificate(tmp_path)
    damage(certificate, key)
    with pytest.raises(Exception, match=message) as caught:
        Certificate(certificate, key)
    assert "\n" not in str(caught.value)


def test_a_broken_or_incomplete_certificate_stops_the_start(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    encrypt(key)
    for arguments, message in (
        (options(certificate, key), "expected a certificate and its key"),
        (options(certificate, key)[:2], "expected tls_certificate and tls_key together"),
    ):
        status, stderr = start_that_fails(*arguments)
        assert (status, len(stderr.splitlines())) == (1, 1)
        assert message in stderr


def test_handshakes_that_do_not_end_are_counted_and_end_in_time(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    limits = ("--client-timeout-ms", "1500", "--max-connections", "10")
    with running_service(*options(certificate, key), *limits, verify=False) as service:
        address = service.client.base_url.host, service.client.base_url.port

        def descriptors() -> int:
            return len(list(Path(f"/proc/{service.process.pid}/fd").iterdir()))

        def live() -> int:  # on a connection of its own: a kept one may be the one that gives way
            return httpx.get(service.client.base_url.join("/health/live"), verify=False, timeout=60).status_code

        assert live() == 200
        before = descriptors()
        silent = [socket.create_connection(address, 60) for _ in range(100)]
        assert live() == 200  # the one that has waited longest gave way to it
        assert descriptors() <= before + 15  # ten, and what is just being closed
        with suppress(ConnectionResetError):
            assert silent[0].recv(1) == b""
        wait_until(lambda: descriptors() <= before)
        for connection in silent:
            connection.close()
        assert not [line for line in service.log if "Traceback" in line]


def test_a_tls_client_not_yet_accepted_when_the_port_closes_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One such client speaks TLS, the other says nothing: that one must neither keep the first nor the end waiting."""
    monkeypatch.setattr("aaserve.service.process.server.HANDSHAKE", 3.0)  # seconds, which the silent client takes
    certificate = Certificate(*make_certificate(tmp_path))
    trusted = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    answers: list[bytes] = []

    def ask(connection: socket.socket) -> None:
        with trusted.wrap_socket(connection, server_hostname="127.0.0.1") as encrypted:
            encrypted.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answers.append(b"".join(iter(lambda: encrypted.recv(4096), b"")))

    class StopsAtOnce(Server):
        async def main_loop(self) -> None:  # no await: nothing is accepted between these and the end
            silent, client = (socket.create_connection(listening.getsockname(), timeout=60) for _ in range(2))
            self.silent = silent
            self.client = threading.Thread(target=ask, args=(client,))
            self.client.start()

    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])
    app.state.lifecycle = SimpleNamespace(drain=lambda: None)
    app.state.settings, app.state.metrics, app.state.room = (
        Settings(_cli_parse_args=False),
        Metrics(),
        ConnectionLimit(10),
    )
    config = uvicorn.Config(
        app, http=Connection, log_config=None, ssl_context_factory=lambda *_: certificate.context, lifespan="off"
    )
    server = StopsAtOnce(config, drain_grace=0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(server.serve(sockets=[listening]))
    server.client.join(60)
    server.silent.close()
    assert answers
    assert answers[0].startswith(b"HTTP/1.1 200")

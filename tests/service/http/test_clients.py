"""Whose time a request takes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from aaserve.service.engine.queueing.client_usage import LONG, ClientUsage
from aaserve.service.http.app import create_app
from aaserve.service.http.auth import client_of
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, served, wait_until

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
OTHER = "127.0.0.2"


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_app(Settings(repository=REPOSITORY, provider="cpu", max_queue_size=4))
    with served(app) as (client, _):
        wait_until(lambda: client.get("/health/ready").status_code == 200)
        yield client, app


@pytest.mark.parametrize("path", ["/classify", "/explain", "/v2/models/aa-cifar100:pictures/infer", "/classify/batch"])
def test_decoding_counts_for_the_address_of_the_peer(service: tuple[httpx.Client, FastAPI], path: str) -> None:
    client, app = service
    usage: ClientUsage = app.state.lifecycle.usage
    transport = httpx.HTTPTransport(local_address=OTHER)
    with httpx.Client(base_url=client.base_url, transport=transport, timeout=60) as other:
        before = usage.used(OTHER), usage.used("127.0.0.1")
        if "v2" in path:
            tensor = {"name": "image", "shape": [1], "datatype": "BYTES"}
            headers = {"Inference-Header-Content-Length": ""}
            head = httpx.Request(
                "POST",
                client.base_url,
                json={"inputs": [tensor | {"parameters": {"binary_data_size": len(JPEG) + 4}}]},
            ).content
            headers["Inference-Header-Content-Length"] = str(len(head))
            answer = other.post(path, content=head + len(JPEG).to_bytes(4, "little") + JPEG, headers=headers)
        elif "batch" in path:
            answer = other.post(path, files=[("image", JPEG)])
        else:
            answer = other.post(path, content=JPEG, headers={"Content-Type": "image/jpeg"})
        assert answer.status_code == 200
        assert usage.used(OTHER) > before[0]
        assert usage.used("127.0.0.1") <= before[1]


def test_a_slow_client_is_refused_from_the_head_when_its_part_of_the_queue_is_full(
    service: tuple[httpx.Client, FastAPI],
) -> None:
    client, app = service
    usage: ClientUsage = app.state.lifecycle.usage
    usage.seen(OTHER)
    usage.add("127.0.0.1", 100 * LONG)
    [predictor] = app.state.lifecycle.repository.predictors
    with predictor.admission.admit(timeout=10, slow=True), predictor.admission.admit(timeout=10, slow=True):
        answers = []
        for local_address in ("127.0.0.1", OTHER):
            transport = httpx.HTTPTransport(local_address=local_address)
            with httpx.Client(base_url=client.base_url, transport=transport, timeout=60) as asking:
                answers.append(asking.post("/classify", content=JPEG, headers={"Content-Type": "image/jpeg"}))
        assert [answer.status_code for answer in answers] == [429, 200]
        assert "take long to decode" in answers[0].json()["detail"]


def test_a_client_is_an_address_or_the_half_of_one_that_it_is_given() -> None:
    def client(peer: tuple[str, int] | None) -> str:
        return client_of([], peer, None)

    assert client(("127.0.0.1", 1)) == client(("127.0.0.1", 2)) != client((OTHER, 1))
    assert client(("2001:db8::1", 1)) == client(("2001:db8::ffff:0:0:1", 1)) != client(("2001:db8:0:1::1", 1))
    assert client(("fe80::1%eth0", 1)) == client(("fe80::2", 1))
    assert client(None) == ""


def test_where_there_are_keys_a_client_is_a_key(tmp_path: Path) -> None:
    from aaserve.service.http.keys import Keys

    path = tmp_path / "keys"
    path.write_text(f"infer {hashlib.sha256(b'one').hexdigest()}\n")

    def client(key: bytes, peer: tuple[str, int]) -> str:
        return client_of([(b"authorization", b"Bearer " + key)], peer, Keys(path))

    assert client(b"one", ("127.0.0.1", 1)) == client(b"one", (OTHER, 1)) != client(b"two", ("127.0.0.1", 1))
    assert b"one" not in client(b"one", ("127.0.0.1", 1)).encode()

"""The application over a socket, in this process, so that a test can break its session."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from fastapi import FastAPI

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import EXAMPLES, REPOSITORY, served

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
PATIENT = {"request_timeout_ms": 60_000, "model_call_timeout_ms": 600_000}  # while a call is held


@contextmanager
def serving(**options: object) -> Iterator[tuple[httpx.Client, FastAPI]]:
    app = create_app(Settings(port=0, repository=REPOSITORY, **options))
    with served(app) as (client, server):
        app.state.server = server
        yield client, app


def classify(client: httpx.Client) -> httpx.Response:
    return client.post("/classify", content=JPEG, headers={"Content-Type": "image/jpeg"})

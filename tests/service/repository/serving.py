"""The application for a repository, in this process."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from aaserve.service.http.app import create_app
from aaserve.service.settings import Settings
from tests.helpers import served, wait_until


@contextmanager
def serving(repository: Path, **settings: object) -> Iterator[tuple[httpx.Client, FastAPI]]:
    """Serve it once its models are loaded; the client has a key for everything."""
    keys = repository.parent / "keys"
    keys.write_text(f"admin,infer,metrics {hashlib.sha256(b'key').hexdigest()}\n")
    app = create_app(Settings(**{"repository": repository, "provider": "cpu", "api_keys_file": keys, **settings}))
    with served(app) as (client, _):
        client.headers["Authorization"] = "Bearer key"
        wait_until(lambda: app.state.lifecycle.state != "starting")
        yield client, app

"""Change what a running service serves: by SIGHUP, or by an endpoint for administrators."""

import hashlib
import signal

import httpx

from tests.helpers import EXAMPLES, RunningService, wait_until
from tests.toy_bundles import picture

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
OLD, NEW = ("a", "b", "c", "d"), ("A", "B", "C", "D")
KEY = "correct horse battery staple"
PICTURE = {"Content-Type": "application/octet-stream"}
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def ask(service: RunningService, red: int = 3, **params: str) -> httpx.Response:
    headers = {"Content-Type": "image/png"}
    return service.client.post("/classify", params={"top_k": 1, **params}, content=picture(red), headers=headers)


def said(answer: httpx.Response) -> tuple[str, str]:
    """Version and best label."""
    assert answer.status_code == 200, answer.text
    return answer.json()["version"], answer.json()["predictions"][0]["label"]


def reload(service: RunningService) -> None:
    """SIGHUP, and wait until it is done."""
    done = sum("aaserve reloaded" in line for line in service.log)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: sum("aaserve reloaded" in line for line in service.log) > done)


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def change(service: RunningService, what: str, name: str = "fragile", key: str = KEY) -> httpx.Response:
    return service.client.post(f"/admin/models/{name}/{what}", headers={"Authorization": f"Bearer {key}"})

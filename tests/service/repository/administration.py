"""Two models, served in this process, and an administrator who asks and changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.service.repository.serving import serving as serving_models
from tests.toy_bundles import picture, write_fragile_bundle


def write_two_models(repository: Path) -> Path:
    """fragile/3, and another model."""
    write_fragile_bundle(repository, version="3")
    write_fragile_bundle(repository, name="other")
    return repository


class Service:
    """The application on this repository, and whom to ask."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def change(self, what: str, name: str = "fragile") -> dict:
        answer = self.client.post(f"/admin/models/{name}/{what}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def classify(self, **params: str) -> httpx.Response:
        return self.client.post("/classify", params={"model": "fragile", **params}, content=picture(3))

    @property
    def version(self) -> str:
        """That answers by default."""
        answer = self.classify()
        assert answer.status_code == 200, answer.text
        return answer.json()["version"]

    def card(self, name: str = "fragile") -> dict:
        return self.client.get(f"/models/{name}").json()

    def metric(self, sample: str) -> float | None:
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.rpartition(" ")[2])
        return None


@contextmanager
def serving(repository: Path, **settings: object) -> Iterator[Service]:
    with serving_models(repository, **settings) as (client, _):
        client.headers["Content-Type"] = "image/png"
        yield Service(client)


def damage(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no model")

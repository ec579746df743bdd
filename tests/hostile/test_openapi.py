"""Schemathesis against our own OpenAPI document, all of its checks."""

import os
import subprocess
from pathlib import Path

from tests.clients.environments import environment
from tests.helpers import EXAMPLES, RunningService

EXAMPLES_PER_OPERATION = os.environ.get("AASERVE_SCHEMATHESIS_EXAMPLES", "8")


def test_every_answer_is_one_that_the_document_describes(service: RunningService, tmp_path: Path) -> None:
    schemathesis = environment("schemathesis").with_name("schemathesis")
    config = Path(__file__).with_name("schemathesis.toml")
    options = ["--checks", "all", "--phases", "coverage,fuzzing", "--max-examples", EXAMPLES_PER_OPERATION]
    options += ["--seed", "8", "--no-color", "--generation-database", "none"]
    document = f"{service.client.base_url}/openapi.json"
    done = subprocess.run(
        [schemathesis, "--config-file", config, "run", document, *options], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-8000:]
    assert "Tested: " in done.stdout
    assert service.classify((EXAMPLES / "rocket.jpg").read_bytes()).status_code == 200


def test_an_address_with_two_methods_says_both(service: RunningService) -> None:
    answer = service.client.get("/predictions/aa-cifar100")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "OPTIONS, POST, PUT"


def test_the_document_names_the_media_type_of_errors(service: RunningService) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    assert list(paths["/classify"]["post"]["responses"]["413"]["content"]) == ["application/problem+json"]
    assert list(paths["/classify"]["post"]["responses"]["200"]["content"]) == ["application/json"]
    assert list(paths["/v2/models/{model}/infer"]["post"]["responses"]["413"]["content"]) == ["application/json"]

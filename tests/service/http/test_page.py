"""What the page is served with, and that it needs nothing else."""

import base64
import hashlib
import re
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.detector_bundle import NAME, SIZE, coloured, write_detector
from tests.helpers import ROOT, RunningService, running_service


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else(service: RunningService) -> None:
    answer = service.client.get("/")
    policy = dict(part.split(" ", 1) for part in answer.headers["Content-Security-Policy"].split("; "))
    for kind in ("style", "script"):
        [text] = re.findall(rf"<{kind}\b[^>]*>(.*?)</{kind}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_names_no_other_address(service: RunningService) -> None:
    found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\"'\s]*", service.client.get("/").text))
    assert found == {"http://www.w3.org/2000/svg"}  # a namespace, never fetched


def test_an_unchanged_page_is_not_sent_again(service: RunningService) -> None:
    tag = service.client.get("/").headers["ETag"]
    again = service.client.get("/", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_the_pictures_that_ship_are_served_with_their_licence_beside_them(service: RunningService) -> None:
    folder = ROOT / "service" / "http" / "page_assets" / "examples"
    names = sorted(path.name for path in folder.glob("*.jpg"))
    assert names == sorted(
        re.findall(r"^\| `(\S+)` .*\| (?:public domain|CC0) \|$", (folder / "README.md").read_text(), re.M)
    )
    for name in names:
        answer = service.client.get(f"/page/examples/{name}")
        assert answer.content == (folder / name).read_bytes()
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert len(answer.content) < 30_000


@pytest.mark.parametrize("name", ["none.jpg", "README.md", "..%2Findex.html", "%2Fetc%2Fpasswd"])
def test_nothing_else_is_served_from_the_pages_folder(service: RunningService, name: str) -> None:
    answer = service.client.get(f"/page/examples/{name}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_the_reference_pictures_of_a_model_are_served_and_no_other_file_of_its_bundle(tmp_path: Path) -> None:
    pixels = [np.asarray(coloured(*SIZE[::-1], red=((9, 9, 30, 30), brightness))) for brightness in (255, 204)]
    folder = write_detector(tmp_path, version="3", pictures=pixels)
    with running_service(repository=tmp_path) as service:

        def get(picture: str, version: str = "3", model: str = NAME) -> httpx.Response:
            return service.client.get(f"/page/models/{model}/{version}/{picture}")

        for picture in ("reference-1.png", "reference-2.png"):
            answer = get(picture)
            assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
            assert answer.headers["Cache-Control"] == "no-store"
            assert answer.content == (folder / picture).read_bytes()
        others = ("reference-3.png", "manifest.json", "model.onnx", "references.json", "..%2Freference-1.png")
        refused = [get(name) for name in others]
        refused += [get("reference-1.png", version="1"), get("reference-1.png", model="none")]
        (folder / "reference-2.png").write_bytes(b"another")
        refused.append(get("reference-2.png"))
        for answer in refused:
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")

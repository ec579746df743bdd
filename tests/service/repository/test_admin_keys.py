"""Keys for the endpoints that change models."""

from pathlib import Path

import pytest

from aaserve.service.errors import StartFailed
from aaserve.service.http.keys import Keys
from tests.helpers import RunningService, running_service, start_that_fails
from tests.service.repository.changing import JPEG, KEY, change, digest


def test_changes_need_a_key_for_them(repository: Path, keys: Path) -> None:
    with running_service("--api-keys-file", str(keys), repository=repository) as service:
        for headers, status in (
            ({}, 401),
            ({"Authorization": f"Basic {KEY}"}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Bearer only for metrics"}, 403),
        ):
            refused = service.client.post("/admin/models/fragile/unload", headers=headers)
            assert refused.status_code == status
            assert refused.headers["content-type"] == "application/problem+json"
        assert change(service, "load", "unknown").status_code == 404
        keys.write_text(f"admin {digest('another')}\n")  # rotated, without a restart
        assert change(service, "load").status_code == 401
        assert change(service, "load", key="another").status_code == 200


def test_without_keys_no_client_changes_anything(service: RunningService) -> None:
    refused = change(service, "unload", "aa-cifar100")
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
    assert service.classify(JPEG).status_code == 200


@pytest.mark.parametrize("content", ["admin", "admin 12ab", f"root {'0' * 64}", "secret"])
def test_a_file_that_holds_no_keys_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(StartFailed, match=r"expected `scope\[,scope\] sha256`"):
        Keys(tmp_path / "keys")


def test_a_missing_file_of_keys_stops_the_start(tmp_path: Path) -> None:
    status, stderr = start_that_fails("--api-keys-file", str(tmp_path / "none"))
    assert (status, stderr.count("\n")) == (1, 1)

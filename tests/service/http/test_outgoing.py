"""The service speaks when it is spoken to: it opens no connection, fetches no address, starts no other program."""

import base64
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from aaserve.service.repository import trial_process
from tests.helpers import EXAMPLES, ROOT, RunningService, running_service, wait_until
from tests.toy_bundles import write_fragile_bundle

JPEG = (EXAMPLES / "rocket.jpg").read_bytes()
WATCHED_SERVICE = "tests/service/watched_service.py"
TRIAL = trial_process.__name__  # a new version of a model is tried in a process of its own
URLS = ["{}/cat.jpg", "{}@x/cat.jpg", "data:text/plain,{}", "data:{}"]


def use(service: RunningService, repository: Path) -> None:
    """Everything that the service does between its start and its end."""
    assert service.client.post("/classify", params={"model": "fragile"}, content=b"no picture").status_code == 415
    service.client.post("/classify", params={"model": "fragile"}, content=JPEG)
    service.client.post("/classify/batch", params={"model": "fragile"}, files=[("image", JPEG)] * 2)
    service.client.post("/v2/models/fragile/infer", json={"inputs": []})
    for path in ("/", "/models", "/models/fragile", "/metrics", "/openapi.json", "/v2", "/nowhere"):
        service.client.get(path)
    write_fragile_bundle(repository, version="2")
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: [line for line in service.log if "reloaded" in line])
    assert service.client.get("/v2/models/fragile").json()["versions"] == ["2"]


def test_python_is_asked_for_no_connection_and_no_program(tmp_path: Path) -> None:
    events = tmp_path / "events"
    write_fragile_bundle(tmp_path / "repository")
    with running_service(repository=tmp_path / "repository", run=(WATCHED_SERVICE, str(events))) as service:
        use(service, tmp_path / "repository")
        assert service.stop() == 0
    found = [line for line in events.read_text().splitlines() if not line.startswith("socket.getaddrinfo")]
    trials = [
        line
        for line in found
        if line.startswith("subprocess.Popen") and f"['{sys.executable}', '-P', '-m', '{TRIAL}']" in line
    ]
    assert len(trials) == 2  # of each version
    assert [line for line in found if "('127.0.0.1', 0)" not in line and line not in trials] == []


def test_the_watch_sees_what_it_is_for(tmp_path: Path) -> None:
    """So that the test above cannot pass by watching nothing."""
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__main__.py").write_text(
        "import pickle, socket, subprocess\n"
        "subprocess.run(['true'])\n"
        "pickle.loads(pickle.dumps(print))\n"
        "socket.socket(type=socket.SOCK_DGRAM).connect(('127.0.0.1', 9))\n"
    )
    subprocess.run([sys.executable, ROOT / WATCHED_SERVICE, tmp_path / "events"], cwd=tmp_path, check=True)
    found = {line.split()[0] for line in (tmp_path / "events").read_text().splitlines()}
    assert {"subprocess.Popen", "pickle.find_class", "socket.connect"} <= found


def test_the_kernel_is_asked_for_no_connection(tmp_path: Path) -> None:
    # -D: the service is the process that the test has started, and gets its signals
    trace = ["strace", "-D", "-f", "-q", "-s", "100", "-e", "trace=connect,sendto,sendmsg,sendmmsg,execve", "-o"]
    if shutil.which("strace") is None or subprocess.run([*trace, "/dev/null", "true"], check=False).returncode:
        pytest.skip("no strace here, or it may not trace")
    calls = tmp_path / "calls"
    write_fragile_bundle(tmp_path / "repository")
    run = (
        "-c",
        f"import os, sys; os.execvp('strace', {[*trace, str(calls), sys.executable, '-m', 'service']} + sys.argv[1:])",
    )
    with running_service(repository=tmp_path / "repository", run=run) as service:
        use(service, tmp_path / "repository")
        assert service.stop() == 0
    wait_until(lambda: calls.read_text().endswith("+++ exited with 0 +++\n"))
    text = calls.read_text()
    started = [line for line in text.splitlines() if "execve(" in line]
    assert len([line for line in started if TRIAL not in line]) == 1  # the service itself: the trace has seen something
    assert len([line for line in started if f'"-m", "{TRIAL}"' in line]) == 2
    assert re.findall(r".*sa_family=AF_INET6?.*", text) == []


@pytest.mark.parametrize("url", URLS)
def test_an_address_in_the_place_of_a_picture_is_refused_and_not_fetched(service: RunningService, url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.settimeout(0)
        address = url.format(f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
        answers = [
            service.client.post("/classify", json={"image": address}),
            service.client.post("/classify", json={"url": address}),
            service.client.post("/classify", json={"image": {"url": address}}),
            service.client.post("/classify", json={"image": base64.b64encode(address.encode()).decode()}),
            service.client.post("/classify", content=address, headers={"Content-Type": "image/jpeg"}),
            service.client.post("/classify", data={"image": address}),
            service.client.post("/predictions/aa-cifar100", content=address),
            service.client.post("/v2/models/aa-cifar100:pictures/infer", json=tensor(address)),
            service.client.post("/v2/repository/models/aa-cifar100/load", json={"parameters": {"url": address}}),
        ]
        assert {answer.status_code // 100 for answer in answers} == {4}
        batch = service.client.post("/classify/batch", json={"images": [address]}).json()
        assert batch["results"][0]["problem"]["code"] == "invalid_request"
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def tensor(text: str) -> dict:
    return {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}


def test_the_serving_side_can_neither_fetch_nor_unpickle_a_model() -> None:
    script = "import sys, service.__main__, service.http.app; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "onnx", "requests", "httpx", "aiohttp", "urllib3", "yaml", "joblib", "dill"}

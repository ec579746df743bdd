"""Each peer starts, gives the bundle's answers, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.harness.process_tree import process_tree, tree
from benchmarks.harness.workloads import WORKLOADS
from benchmarks.limits import Raw
from benchmarks.peers.catalogue import PEERS, StartFailed
from benchmarks.peers.forms import v2_binary_best
from benchmarks.peers.own import Aaserve
from benchmarks.peers.peer import REQUIREMENTS
from tests.benchmarks.expected import EXAMPLES, SHIPPED, expected_top_1
from tests.detector_bundle import coloured_png, write_detector
from tests.helpers import ROOT, wait_until

FASTAPI = PEERS["fastapi"]
DAEMON = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open("daemon", "w").write(str(os.getpid()))
time.sleep(1000)
"""
DRIVER = f"""
import pathlib, sys, time
from benchmarks.harness.process_tree import process_tree
daemon = [sys.executable, "-c", {DAEMON!r}]
with process_tree(daemon, environment={{}}, cores=None, folder=pathlib.Path(sys.argv[1])):
    time.sleep(1000)
"""


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_sees_what_the_bundle_sees_and_leaves_no_process(name: str) -> None:
    peer = PEERS[name]
    if not peer.installed:
        pytest.skip(f"not installed; python -m benchmarks.peers --servers {name} installs it")
    with peer.serve(SHIPPED) as served:
        processes = tree(served.process)
        found = [served.top_1(served.ask(picture.read_bytes(), "image/jpeg")) for picture in EXAMPLES]
    assert found == expected_top_1(SHIPPED, EXAMPLES)
    assert not [pid for pid in processes if is_alive(pid)]


def test_a_detector_is_asked_at_its_address_and_answers_as_the_runtime_does(tmp_path: Path) -> None:
    bundle = write_detector(tmp_path)
    pictures = [coloured_png(64, 48, blue=((1, 2, 30, 40), 255)), coloured_png(64, 48, red=((1, 2, 30, 40), 102))]
    workload = replace(WORKLOADS["W4"], bundle=lambda: bundle, pictures=lambda: pictures, media_type="image/png")
    with Aaserve("aaserve").serve(workload.bundle()) as served:
        found = [served.top_1(served.ask(picture, workload.media_type)) for picture in workload.pictures()]
    assert served.path == "/detect"
    assert found == Raw(workload).top_1() == [2, None]  # the second has a score below 0.5


def test_a_peer_keeps_to_the_cores_it_is_given() -> None:
    core = min(os.sched_getaffinity(0))
    with FASTAPI.serve(SHIPPED, cores=[core]) as served:
        assert [os.sched_getaffinity(pid) for pid in tree(served.process)] == [{core}]


def test_a_start_that_fails_shows_the_log(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"(?s)fastapi: ended with status 1.*manifest\.json: expected a plain file"):
        FASTAPI.serve(tmp_path / "none" / "1").__enter__()


def test_daemons_are_ended_too(tmp_path: Path) -> None:
    with process_tree([sys.executable, "-c", DAEMON], environment={}, cores=None, folder=tmp_path) as root:
        wait_until(lambda: (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text() != "")
        daemon = int((tmp_path / "daemon").read_text())
        assert daemon not in tree(root.pid)
        assert is_alive(daemon)
    assert not is_alive(daemon)
    assert not is_alive(root.pid)


def test_a_driver_that_is_terminated_ends_its_tree(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path], cwd=ROOT)
    wait_until(lambda: (tmp_path / "daemon").exists() and (tmp_path / "daemon").read_text() != "")
    driver.terminate()
    assert driver.wait(60) == 128 + signal.SIGTERM
    assert not is_alive(int((tmp_path / "daemon").read_text()))


def test_all_peers_run_on_the_engine_and_the_decoder_that_we_run_on() -> None:
    ours = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    for file in REQUIREMENTS.iterdir():
        theirs = dict(line.split("==") for line in file.read_text().split())
        for name in ("onnxruntime", "pillow", "cykooz-resizer"):
            assert theirs[name] == ours[name], file.name


def test_every_peer_has_a_server_and_a_version() -> None:
    servers = {file.name.removesuffix("_server.py") for file in (ROOT / "benchmarks/peers/servers").glob("*_server.py")}
    assert servers == set(PEERS)
    assert all(peer.version[0].isdigit() for peer in PEERS.values())


def test_the_best_class_is_found_among_binary_tensors() -> None:
    head = {
        "outputs": [
            {"name": "label", "parameters": {"binary_data_size": 6}},
            {"name": "class_index", "parameters": {"binary_data_size": 8}},
        ]
    }
    assert v2_binary_best(json.dumps(head).encode() + b"\2\0\0\0{}" + bytes([7, 1, 0, 0, 9, 0, 0, 0])) == 263

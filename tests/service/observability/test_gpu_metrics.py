"""A GPU's memory and utilisation in /metrics.

No card here: NVIDIA's two libraries are stand-ins, `pynvml` with the functions that we call and libcuda as a few lines
of C. All else is real. The real ones were read once, on an H200 (docs/gpu.md).
"""

import ctypes
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from shutil import which
from types import ModuleType, SimpleNamespace

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from aaserve.service.engine.predictor import Predictor
from aaserve.service.http.app import create_app
from aaserve.service.observability.gpu_metrics import GpuMetrics, cuda_uuid
from aaserve.service.settings import Settings
from tests.helpers import REPOSITORY, ROOT, running_service, served, wait_until

CARD, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)
GPU = f"GPU-{CARD}"


class NVMLError(Exception):
    """As in pynvml."""


def nvml(**replaced: Callable[..., object]) -> ModuleType:
    """A machine with two cards; `replaced` functions behave otherwise."""
    cards = {GPU: (3 * 2**30, 0.25), f"GPU-{OTHER}": (7, 0.0)}

    def handle(name: str) -> str:
        if name not in cards:
            raise NVMLError("Not Found")
        return name

    module = ModuleType("pynvml")
    functions = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle,
        "nvmlDeviceGetMemoryInfo": lambda card: SimpleNamespace(used=cards[card][0], total=8 * 2**30),
        "nvmlDeviceGetUtilizationRates": lambda card: SimpleNamespace(gpu=round(cards[card][1] * 100), memory=0),
        **replaced,
    }
    for name, value in {"NVMLError": NVMLError, **functions}.items():
        setattr(module, name, value)
    return module


def not_supported(*_: object) -> object:
    raise NVMLError("Not Supported")


def scraped(collector: GpuMetrics) -> dict[str, float]:
    """What a scrape would show, by name and label."""
    registry = CollectorRegistry()
    registry.register(collector)
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    return lambda module: monkeypatch.setitem(sys.modules, "pynvml", module)


def test_the_card_is_found_by_its_identity_not_by_its_number(install: Callable[[ModuleType], None]) -> None:
    install(nvml())
    assert scraped(GpuMetrics(0, uuid_of=[CARD, OTHER].__getitem__)) == {
        f'aaserve_gpu_memory_used_bytes{{device="{GPU}"}}': 3 * 2**30,
        f'aaserve_gpu_memory_total_bytes{{device="{GPU}"}}': 8 * 2**30,
        f'aaserve_gpu_utilisation_ratio{{device="{GPU}"}}': 0.25,
    }
    names = scraped(GpuMetrics(0, uuid_of=[OTHER, CARD].__getitem__))  # as CUDA_VISIBLE_DEVICES=1,0 does
    assert all(f'device="GPU-{OTHER}"' in name for name in names)


def test_a_part_of_a_card_has_memory_and_no_utilisation(
    install: Callable[[ModuleType], None], caplog: pytest.LogCaptureFixture
) -> None:
    part = f"MIG-{CARD}"

    def handle(name: str) -> str:
        if name != part:
            raise NVMLError("Not Found")
        return GPU

    install(nvml(nvmlDeviceGetHandleByUUID=handle, nvmlDeviceGetUtilizationRates=not_supported))
    collector = GpuMetrics(0, uuid_of=lambda _: CARD)
    for _ in range(3):
        assert set(scraped(collector)) == {
            f'aaserve_gpu_memory_{which}_bytes{{device="{part}"}}' for which in ("used", "total")
        }
    assert caplog.messages == ["GPU utilisation is left out of the metrics: Not Supported"]


@pytest.mark.parametrize(
    "module",
    [None, nvml(nvmlInit=not_supported), nvml(nvmlDeviceGetHandleByUUID=not_supported)],
    ids=["no pynvml", "no library", "no such card"],
)
def test_what_cannot_be_read_is_left_out_and_said_once(
    module: ModuleType | None, install: Callable[[ModuleType | None], None], caplog: pytest.LogCaptureFixture
) -> None:
    install(module)
    collector = GpuMetrics(0, uuid_of=lambda _: CARD)
    assert [scraped(collector) for _ in range(3)] == [{}] * 3
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("GPU is left out of the metrics: ")


def test_a_card_that_cuda_does_not_know_is_left_out(
    install: Callable[[ModuleType], None], caplog: pytest.LogCaptureFixture
) -> None:
    install(nvml())
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU here")
    assert scraped(GpuMetrics(0)) == {}
    assert "libcuda" in caplog.text


def test_a_scrape_does_not_wait_for_one_that_hangs(install: Callable[[ModuleType], None]) -> None:
    hangs, let_go = threading.Event(), threading.Event()

    def hang(_: object) -> object:
        hangs.set()
        let_go.wait()
        raise NVMLError("late")

    install(nvml(nvmlDeviceGetMemoryInfo=hang))
    collector = GpuMetrics(0, uuid_of=lambda _: CARD)
    first, second = (threading.Thread(target=scraped, args=[collector]) for _ in range(2))
    first.start()
    try:
        assert hangs.wait(60)
        second.start()
        second.join(10)
        assert not second.is_alive()
    finally:
        let_go.set()
        first.join()


@pytest.mark.skipif(which("gcc") is None, reason="no gcc here for the stand-in of libcuda")
def test_cuda_is_asked_whose_number_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libcuda.so.1"
    source = """
        #include <string.h>
        int cuInit(unsigned flags) { return flags; }
        int cuDeviceGet(int *device, int ordinal) { *device = ordinal + 40; return ordinal < 2 ? 0 : 101; }
        int cuDeviceGetUuid_v2(unsigned char *found, int device) { memset(found, device, 16); return 0; }
    """
    subprocess.run(["gcc", "-shared", "-o", library, "-x", "c", "-"], input=source, text=True, check=True)
    load = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", lambda name: load(str(library) if name == library.name else name))
    assert cuda_uuid(1) == uuid.UUID(bytes=bytes([41] * 16))
    with pytest.raises(OSError, match=r"cuDeviceGet of card 2 failed with CUDA's error 101"):
        cuda_uuid(2)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that run on the CPU and say that they run on CUDA, on the first card."""
    monkeypatch.setattr(Predictor, "on_cpu", False)
    monkeypatch.setattr("aaserve.service.observability.gpu_metrics.cuda_uuid", [CARD].__getitem__)


def test_a_model_on_a_gpu_brings_its_card_into_the_metrics(
    on_a_gpu: None, install: Callable[[ModuleType], None]
) -> None:
    install(nvml())
    with served(create_app(Settings(repository=REPOSITORY))) as (client, _):
        wait_until(lambda: client.get("/health/ready").is_success)
        assert f'aaserve_gpu_memory_used_bytes{{device="{GPU}"}} 3.22' in client.get("/metrics").text


def test_the_scrape_succeeds_where_the_card_cannot_be_read(
    on_a_gpu: None, install: Callable[[ModuleType | None], None]
) -> None:
    install(None)
    with served(create_app(Settings(repository=REPOSITORY))) as (client, _):
        wait_until(lambda: client.get("/health/ready").is_success)
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert "aaserve_model_ready" in answer.text
        assert "aaserve_gpu" not in answer.text


def test_a_model_on_the_cpu_neither_shows_nor_loads_anything_of_a_gpu(
    install: Callable[[ModuleType], None],
) -> None:
    opened: list[bool] = []
    install(nvml(nvmlInit=lambda: opened.append(True)))
    with served(create_app(Settings(repository=REPOSITORY, provider="cpu"))) as (client, _):
        wait_until(lambda: client.get("/health/ready").is_success)
        assert "aaserve_gpu" not in client.get("/metrics").text
    assert not opened


def test_workers_do_not_add_up_the_card_they_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins reach the workers as modules on the path."""
    (tmp_path / "pynvml.py").write_text(
        "from types import SimpleNamespace\n"
        "class NVMLError(Exception): pass\n"
        "def nvmlInit(): pass\n"
        "def nvmlDeviceGetHandleByUUID(name): return name\n"
        "def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(used=5, total=9)\n"
        "def nvmlDeviceGetUtilizationRates(handle): return SimpleNamespace(gpu=50)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import uuid\n"
        "from aaserve.service.engine.predictor import Predictor\n"
        "from aaserve.service.observability import gpu_metrics\n"
        "gpu_metrics.cuda_uuid = lambda number: uuid.UUID(int=number)\n"
        "Predictor.on_cpu = False\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with running_service("--workers", "2", "--gpu-device-id", "7") as service:
        wait_until(lambda: sum("ready" in line for line in service.log) >= 2)
        for _ in range(6):  # of either worker
            text = httpx.get(f"{service.client.base_url}/metrics", timeout=60).text
            lines = [line for line in text.splitlines() if line.startswith("aaserve_gpu")]
            device = f'{{device="GPU-{uuid.UUID(int=7)}"}}'
            assert sorted(lines) == [
                f"aaserve_gpu_memory_total_bytes{device} 9.0",
                f"aaserve_gpu_memory_used_bytes{device} 5.0",
                f"aaserve_gpu_utilisation_ratio{device} 0.5",
            ]

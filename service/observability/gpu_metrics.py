"""Memory and utilisation of the GPU that models run on, read from NVIDIA's library (NVML) at each scrape.

    gpu_device_id --CUDA--> UUID --NVML--> aaserve_gpu_…{device="GPU-…"}

NVML counts the cards of the machine; CUDA counts those that CUDA_VISIBLE_DEVICES leaves, the fastest first unless
CUDA_DEVICE_ORDER says otherwise, and parts of a card (MIG) as cards. So CUDA is asked which card a number means.

A scrape never fails for it: what NVML cannot tell is left out, and the log says why, once. What is told is the card's,
with all that others do on it, so each of several workers tells the same, and nothing is added up over them.

Tested with stand-ins for both libraries; the real ones told of an H200 (benchmarks/results/2026-11-28-gpu-memory.json).
"""

import ctypes
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

_DOCUMENTATION = {
    "memory_used_bytes": "Memory in use on the card, by all processes.",
    "memory_total_bytes": "Memory of the card.",
    "utilisation_ratio": "Share of the last moments in which the card computed anything, 0 to 1.",
}
_PATIENCE = 1.0  # seconds that a scrape waits for one before it, which a driver that hangs may keep
log = logging.getLogger("aaserve")


class GpuMetrics(Collector):
    """Collects `aaserve_gpu_*` of one card.

    Args:
        device_id: among the cards that CUDA sees.
        uuid_of: whose number that is; by default CUDA tells.
    """

    def __init__(self, device_id: int, uuid_of: Callable[[int], uuid.UUID] | None = None) -> None:
        self._device_id = device_id
        self._uuid_of = uuid_of or cuda_uuid
        self._reading = threading.Lock()  # scrapes come in threads
        self._device: tuple[str, object] | None = None  # its name and NVML's handle
        self._said: set[str] = set()

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """All that may be told, without a value."""
        yield from map(_family, _DOCUMENTATION)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if not self._reading.acquire(timeout=_PATIENCE):
            return
        try:
            device, values = self._read()
        except Exception as error:  # no module, no library, no card, a card that was lost: never the scrape's failure
            self._say("GPU", error)
            return
        finally:
            self._reading.release()
        for name, value in values.items():
            family = _family(name)
            family.add_metric([device], value)
            yield family

    def _read(self) -> tuple[str, dict[str, float]]:
        import pynvml  # here, so that it is loaded only where a model runs on a GPU

        if self._device is None:
            pynvml.nvmlInit()
            self._device = _find(pynvml, self._uuid_of(self._device_id))
        device, handle = self._device
        values: dict[str, float] = {}
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            values["memory_used_bytes"] = memory.used
            values["memory_total_bytes"] = memory.total
        except pynvml.NVMLError as error:
            self._say("GPU memory", error)
        try:
            values["utilisation_ratio"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except pynvml.NVMLError as error:  # as of parts of a card (MIG)
            self._say("GPU utilisation", error)
        return device, values

    def _say(self, what: str, error: Exception) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning("%s is left out of the metrics: %s", what, error)


def cuda_uuid(device_id: int) -> uuid.UUID:
    """Which card CUDA means by a number in this process; of a part of a card (MIG) that part's.

    Raises:
        OSError: no driver, or no such card.
    """
    cuda = ctypes.CDLL("libcuda.so.1")
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    for function, *arguments in (
        (cuda.cuInit, 0),
        (cuda.cuDeviceGet, ctypes.byref(device), device_id),
        (cuda.cuDeviceGetUuid_v2, found, device),
    ):
        if status := function(*arguments):
            raise OSError(f"{function.__name__} of card {device_id} failed with CUDA's error {status}")
    return uuid.UUID(bytes=bytes(found))


def _find(pynvml: ModuleType, identity: uuid.UUID) -> tuple[str, object]:
    """Name and handle of a card, or else of the part of one that has this identity."""
    try:
        name = f"GPU-{identity}"
        return name, pynvml.nvmlDeviceGetHandleByUUID(name)
    except pynvml.NVMLError:
        name = f"MIG-{identity}"
        return name, pynvml.nvmlDeviceGetHandleByUUID(name)


def _family(name: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"aaserve_gpu_{name}", _DOCUMENTATION[name], labels=["device"])

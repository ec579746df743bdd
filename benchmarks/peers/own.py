"""aaserve itself as a peer: the real `python -m service` with default settings, at /classify or /detect."""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aaserve.bundle.bundle import open_bundle
from aaserve.service.http.inference import ADDRESSES
from aaserve.service.version import VERSION
from benchmarks import openvino_alone
from benchmarks.harness.circumstances import ROOT
from benchmarks.harness.process_tree import process_tree
from benchmarks.harness.random_bundles import FOLDER, random_bundle
from benchmarks.harness.workloads import Workload
from benchmarks.limits import Raw, Way
from benchmarks.peers import forms
from benchmarks.peers.peer import Served, StartFailed, Top1, log_when_ready

BEST: dict[str, Top1] = {"classification": forms.best, "detection": forms.best_detection}  # by task


@dataclass(frozen=True)
class Aaserve:
    """`python -m service --workers WORKERS OPTIONS`.

    Args:
        openvino: precision of OpenVINO; None: ONNX Runtime.
        int8: serve an int8 bundle of the same network.
    """

    name: str
    workers: int = 1
    openvino: str | None = None
    int8: bool = False
    version: str = VERSION

    @property
    def installed(self) -> bool:
        return self.openvino is None or self.openvino in openvino_alone.precisions()

    def install(self) -> Path:
        return Path(sys.executable)

    def alone(self, workload: Workload, way: Way, seconds: float) -> float:
        """Images per second of the same runtime and model without a server; ONNX Runtime is called in `way`.

        Raises:
            StartFailed: there is no such model.
        """
        bundle = self._bundle(workload.bundle())
        if self.openvino is None:
            return Raw(replace(workload, bundle=lambda: bundle)).images_per_second(way, seconds)
        return max(openvino_alone.images_per_second(bundle, self.openvino, seconds).values())

    def _bundle(self, fp32: Path) -> Path:
        """The folder of the model, made if it is missing.

        Raises:
            StartFailed: as `alone`.
        """
        if not self.int8:
            return fp32
        if FOLDER not in fp32.parents:
            raise StartFailed("there is no int8 bundle of this network")
        return random_bundle(fp32.parent.parent.name, "int8")

    @contextmanager
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> Iterator[Served]:
        """Like `Peer.serve`; logs one line per request into a file, as in production.

        Raises:
            StartFailed: it did not become ready.
        """
        with tempfile.TemporaryDirectory(prefix="aaserve-") as scratch:
            folder = Path(scratch)
            bundle = self._bundle(bundle)
            (folder / "repository").mkdir()
            (folder / "repository" / bundle.parent.name).symlink_to(bundle.parent.resolve())
            command = [sys.executable, "-m", "service", "--port", "0", "--log-format", "json"]
            command += ["--repository", str(folder / "repository"), "--workers", str(self.workers)]
            if self.openvino:
                command += ["--provider", "openvino", "--cpu-precision", self.openvino]
            with process_tree(command, environment={"PYTHONPATH": str(ROOT)}, cores=cores, folder=folder) as root:
                lines = log_when_ready(self.name, root, folder, '"message":"ready"', self.workers)
                found = re.search(r"listening on http://([\d.]+):(\d+)", lines)
                assert found
                task = open_bundle(bundle).manifest.task
                yield Served(found[1], (int(found[2]),), ADDRESSES[task], root.pid, forms.raw, BEST[task])


OURS = (
    Aaserve("aaserve"),
    Aaserve("aaserve, two workers", workers=2),
    Aaserve("aaserve, OpenVINO", openvino="fp32"),
    Aaserve("aaserve, OpenVINO bf16", openvino="bf16"),
    Aaserve("aaserve, int8", int8=True),
    Aaserve("aaserve, OpenVINO int8", openvino="fp32", int8=True),
    Aaserve("aaserve, OpenVINO int8 and bf16", openvino="bf16", int8=True),
)

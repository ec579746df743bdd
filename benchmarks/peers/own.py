"""aaserve itself, in the form of a peer: the real `python -m service`, as it comes, asked at /classify."""

import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aaserve.service.version import VERSION
from benchmarks.circumstances import ROOT
from benchmarks.peers import forms
from benchmarks.peers.peer import Served, log_when_ready
from benchmarks.peers.process_tree import process_tree


@dataclass(frozen=True)
class Aaserve:
    """`python -m service --workers WORKERS OPTIONS`."""

    name: str
    workers: int = 1
    options: tuple[str, ...] = ()
    version: str = VERSION
    installed: bool = True

    def install(self) -> Path:
        return Path(sys.executable)

    @contextmanager
    def serve(self, bundle: Path, *, cores: list[int] | None = None) -> Iterator[Served]:
        """As `Peer.serve`; it logs a line a request into a file, as users have it.

        Raises:
            StartFailed: it did not become ready.
        """
        with tempfile.TemporaryDirectory(prefix="aaserve-") as scratch:
            folder = Path(scratch)
            (folder / "repository").mkdir()
            (folder / "repository" / bundle.parent.name).symlink_to(bundle.parent.resolve())
            command = [sys.executable, "-m", "service", "--port", "0", "--log-format", "json"]
            command += ["--repository", str(folder / "repository"), "--workers", str(self.workers), *self.options]
            with process_tree(command, environment={"PYTHONPATH": str(ROOT)}, cores=cores, folder=folder) as root:
                lines = log_when_ready(self.name, root, folder, '"message":"ready"', self.workers)
                found = re.search(r"listening on http://([\d.]+):(\d+)", lines)
                assert found
                yield Served(found[1], (int(found[2]),), "/classify", root.pid, forms.raw, forms.best)


OURS = (Aaserve("aaserve"), Aaserve("aaserve, two workers", workers=2))

"""What is measured on a device, and the cases measured so far."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.circumstances import write_result

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured on a device.

    Args:
        served: workers, and lanes of each.
        max_batch_size: of the service in the step serving.
        batches: in the steps throughput and pytorch.
        seconds: of one measurement.
    """

    device: str
    networks: tuple[str, ...]
    served: tuple[tuple[int, int], ...]
    clients: tuple[int, ...]
    max_batch_size: int
    batches: tuple[int, ...]
    seconds: float


PLANS = {
    "cuda": Plan(
        device="cuda",
        networks=("aa_resnet50", "resnet50"),
        served=((1, 1), (4, 1), (8, 1), (4, 2), (1, 2)),
        clients=(1, 16, 64, 256),
        max_batch_size=64,
        batches=(1, 8, 64, 256),
        seconds=2.0,
    ),
    "cpu": Plan(
        device="cpu",
        networks=("tiny",),
        served=((1, 1),),
        clients=(1, 2),
        max_batch_size=2,
        batches=(1, 2),
        seconds=0.25,
    ),
}


class Results:
    """The cases measured so far, kept in a file."""

    def __init__(self, path: Path, facts: Row) -> None:
        self._path, self._facts = path, facts
        self.cases: dict[str, Row] = {}

    def case(self, name: str, measure: Callable[[], Row]) -> None:
        """Measure one case and write the file. An error is a result too."""
        try:
            row = measure()
        except (Exception, SystemExit) as error:  # SystemExit: the service did not start
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        self.cases[name] = row
        print(f"{name:<48} {row}", flush=True)
        write_result(self._path, {**self._facts, "cases": self.cases}, "numpy")

    @property
    def failed(self) -> list[str]:
        return [name for name, row in self.cases.items() if "error" in row]

"""What can be tried on this machine, and which of the results to recommend.

What runs here --first()--> one candidate for each provider and precision --measured--> further() around the best one
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import onnxruntime

from aaserve.service.engine.runtime import openvino_runtime
from aaserve.service.settings import CpuPrecision, ProviderName, Settings

CLIENTS = (1, 8, 32)
JUDGED_AT = 8  # clients
_WORTH_IT = 1.05  # times as fast as what comes before it; less is noise
_BATCH_MS = (0.0, 60.0)  # besides what is set


@dataclass(frozen=True)
class Candidate:
    """Settings of one model to try."""

    provider: ProviderName
    cpu_precision: CpuPrecision
    intra_op_num_threads: int  # on CPUs as many batches side by side
    cpu_batch_ms: float

    @property
    def settings(self) -> dict[str, Any]:
        """All of them, also defaults: the service that reads them later may have others."""
        return asdict(self)

    @property
    def words(self) -> str:
        if self.provider == "cuda":
            return "cuda"
        plural = "s" if self.intra_op_num_threads > 1 else ""
        return (
            f"{self.provider} {self.cpu_precision}, {self.intra_op_num_threads} thread{plural}, "
            f"cpu_batch_ms {self.cpu_batch_ms:g}"
        )


@dataclass(frozen=True)
class Load:
    """What a number of clients got, each of which sends a picture when it has the answer to the one before."""

    images_per_second: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Measured:
    """What one candidate did.

    Args:
        load: by the number of clients.
        memory_mib: of the whole process.
        classes: of each picture the best one, or of a detector those of its objects.
    """

    load: dict[int, Load]
    memory_mib: float
    classes: tuple[list[int], ...]


Results = dict[Candidate, Measured | str]  # or why it cannot be had


def first(settings: Settings) -> list[Candidate]:
    """One for each provider that is installed and each precision that the processor has; the reference comes first."""
    pairs: list[tuple[ProviderName, CpuPrecision]] = [("cpu", "fp32")]
    try:
        openvino_runtime.core()
    except ImportError:
        pass
    else:
        pairs.append(("openvino", "fp32"))
        if openvino_runtime.has_bf16():
            pairs.append(("openvino", "bf16"))
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pairs.append(("cuda", "fp32"))
    return [Candidate(*pair, settings.intra_op_num_threads, settings.cpu_batch_ms) for pair in pairs]


def further(best: Candidate) -> Iterator[Candidate]:
    """Other threads and batches for the best so far; one number sets the threads and the batches side by side."""
    if best.provider == "cuda":
        return
    for milliseconds in _BATCH_MS:
        if milliseconds != best.cpu_batch_ms:
            yield Candidate(best.provider, best.cpu_precision, best.intra_op_num_threads, milliseconds)
    threads = best.intra_op_num_threads
    while (threads := threads // 2) >= 1:
        yield Candidate(best.provider, best.cpu_precision, threads, best.cpu_batch_ms)


def agreement(measured: Measured, reference: Measured) -> float:
    """Share of the pictures with the same best class, or with objects of the same classes."""
    same = sum(a == b for a, b in zip(measured.classes, reference.classes, strict=True))
    return same / len(reference.classes)


def recommended(results: Results, least_agreement: float) -> Candidate | None:
    """The fastest at 8 clients of those that agree with the first; of two that are close, the earlier."""
    found: tuple[Candidate, float] | None = None
    worked = [(candidate, measured) for candidate, measured in results.items() if isinstance(measured, Measured)]
    for candidate, measured in worked:
        rate = measured.load[JUDGED_AT].images_per_second
        if agreement(measured, worked[0][1]) >= least_agreement and (not found or rate > _WORTH_IT * found[1]):
            found = candidate, rate
    return found[0] if found else None


def table(results: Results, best: Candidate | None) -> str:
    """The results for people; the recommended row is marked."""
    reference = next((measured for measured in results.values() if isinstance(measured, Measured)), None)
    heads = ["", *(f"images/s at {clients}" for clients in CLIENTS), "p50 / p99 ms at 8", "MiB", "same classes"]
    rows = [heads]
    for candidate, measured in results.items():
        name = f"{'*' if candidate == best else ' '} {candidate.words}"
        if isinstance(measured, str) or reference is None:
            rows.append([name, f"not possible: {measured}"])
            continue
        at = measured.load[JUDGED_AT]
        rates = [f"{measured.load[clients].images_per_second:.1f}" for clients in CLIENTS]
        same = f"{agreement(measured, reference):.1%}"
        rows.append([name, *rates, f"{at.p50_ms:.0f} / {at.p99_ms:.0f}", f"{measured.memory_mib:.0f}", same])
    widths = [max(len(row[column]) for row in rows if len(row) == len(heads)) for column in range(len(heads))]
    widths[0] = max(len(row[0]) for row in rows)
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0].ljust(widths[0])]
    cells += row[1:] if len(row) == 2 else [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
    return "  ".join(cells).rstrip()

"""Lines on stderr during an export, and the duration of each step."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console


class Progress:
    """`with Progress() as progress: progress.begin("reading …")`; a spinner shows the running step."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("")
        self._steps: list[tuple[str, float]] = []  # and the start of each, in seconds
        self._started = self._ended = time.monotonic()

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._status.stop()
        self._ended = time.monotonic()

    def begin(self, step: str) -> None:
        now = time.monotonic()
        self._steps.append((step, now))
        self._status.update(step)
        self._console.print(f"[{now - self._started:5.1f} s] {step}", markup=False, soft_wrap=True)

    def seconds(self) -> dict[str, float]:
        """Seconds of each step and in total; complete after the block."""
        ends = [began for _, began in self._steps[1:]] + [self._ended]
        spent = {step: round(end - began, 3) for (step, began), end in zip(self._steps, ends, strict=True)}
        return {**spent, "total": round(self._ended - self._started, 3)}

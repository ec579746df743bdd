"""One JSON file a step, written anew after each case, so that a step that was cut off goes on where it was."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.circumstances import write_result

PACKAGES = ("torch", "numpy")


class Results:
    """The cases of one step.

    Args:
        retry: whether cases that failed are tried again.
        deadline: instant of the monotonic clock after which no case begins.
        facts: of the device, for the file.
    """

    def __init__(self, path: Path, deadline: float, facts: dict[str, Any], *, retry: bool) -> None:
        self._path = path
        self._deadline = deadline
        self._facts = facts
        self.cases: dict[str, dict[str, Any]] = json.loads(path.read_text())["cases"] if path.exists() else {}
        if retry:
            self.cases = {name: row for name, row in self.cases.items() if "error" not in row}
        self.left: list[str] = []

    def case(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure it, unless that was done or the time is up; an error is a result too, and the next case goes on."""
        if name in self.cases:
            return
        if time.monotonic() > self._deadline:
            self.left.append(name)
            return
        started = time.monotonic()
        try:
            row = measure()
        except (Exception, SystemExit) as error:  # the latter where the service does not start
            row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        self.cases[name] = {**row, "took_seconds": round(time.monotonic() - started, 1)}
        print(f"{self._path.stem:<12} {name:<48} {row}", flush=True)
        partial = self._path.with_suffix(".partial")
        write_result(partial, {**self._facts, "cases": self.cases}, *PACKAGES)
        partial.replace(self._path)

    @property
    def failed(self) -> list[str]:
        """Cases that ended with an error."""
        return [name for name, row in self.cases.items() if "error" in row]

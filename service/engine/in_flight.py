"""What the lanes have been given and not answered yet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aaserve.service.engine.inference_threads import InferenceThreads

Fail = Callable[[Exception], None]


@dataclass(eq=False, slots=True)
class InFlightBatch:
    """Some rows for one lane."""

    rows: int
    fail: Fail  # tells whoever waits for it
    all_cores: bool = False  # leaves no core to other threads


class InFlightBatches:
    """In the order in which they were given: as many compute as there are lanes, the rest is prepared.

    Args:
        lanes: threads, open as long as this is in use.
        on_end: called in the event loop when an assignment has ended, with a bug in what was done about its outcome.
    """

    def __init__(self, lanes: InferenceThreads, on_end: Callable[[Exception | None], None]) -> None:
        self._lanes = lanes
        self._on_end = on_end
        self._given: dict[InFlightBatch, None] = {}

    def __bool__(self) -> bool:
        return bool(self._given)

    @property
    def rows(self) -> int:
        """Of all of them."""
        return sum(assignment.rows for assignment in self._given)

    @property
    def computing(self) -> int:
        """Rows that a lane has begun."""
        return sum(assignment.rows for assignment in list(self._given)[: self._lanes.number])

    @property
    def free(self) -> int:
        """InferenceThreads without work; less than 0 where some is prepared."""
        return self._lanes.number - len(self._given)

    @property
    def any_has_all_cores(self) -> bool:
        """Whether one of them leaves no core to others."""
        return any(assignment.all_cores for assignment in self._given)

    def give(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        on_error: Fail,
        assignment: InFlightBatch,
    ) -> None:
        """Have work done; its outcome goes to `then` or `on_error`, unless it has been given up meanwhile."""
        self._given[assignment] = None

        def ended(result: Any, error: Exception | None) -> None:
            if assignment not in self._given:
                return
            del self._given[assignment]
            bug = None
            try:
                if error:
                    on_error(error)
                else:
                    then(result)
            except Exception as raised:
                assignment.fail(raised)
                bug = raised
            self._on_end(bug)

        self._lanes.give(work, ended)

    def give_up(self, cause: Exception) -> None:
        """Wait for none of them any more."""
        for assignment in self._given:
            assignment.fail(cause)
        self._given.clear()

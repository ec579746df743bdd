"""Keeps one model running: a session that died is opened again, or the service says so and ends.

On the CPU it is one session of one thread, in which every lane runs its own batch. Where a single call takes long, a
second session, of all the threads, is there for the few rows of a quiet time (docs/decisions/0018), and few rows go
together, as more in one call are no faster there (docs/decisions/0025).

open --warm-up--> probe answered as where the bundle was made --> run
run --raises--> batcher retries caller by caller --all raise--> recover --self-test--> fine | reopened | ModelLost
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aaserve.bundle.bundle import REFERENCES_FILE, Bundle
from aaserve.bundle.detections import detections_of
from aaserve.bundle.model_input import pixels_input
from aaserve.bundle.preprocessing import normalisation_problem
from aaserve.bundle.references.probe import PROBE, probe_pixels, probe_tolerance
from aaserve.bundle.references.references import (
    attention_difference,
    detection_difference,
    difference,
    parse_references,
)
from aaserve.service.engine.runtime.agreement import Agreement, compare
from aaserve.service.engine.runtime.model_session import ModelSession
from aaserve.service.engine.runtime.watchdog import Watchdog
from aaserve.service.errors import ModelLost, StartFailed
from aaserve.service.settings import Settings

log = logging.getLogger("aaserve")
_LONG_CALL = 0.01  # seconds of one row in one thread; the threads of shorter calls wait for each other half the time
_WORTH_IT = 1.2  # times as fast; less is not worth a second copy of the weights


class ModelRunner:
    """A session, warmed up, perhaps with a second one beside it, and their successors.

    Args:
        open_session: a bundle and a number of threads in, a session out; called again for a successor.
        settings: of this model.
        on_reopen: called before a successor is opened.

    Raises:
        StartFailed: the first session cannot be opened or warmed up.
    """

    def __init__(
        self,
        served: Bundle,
        open_session: Callable[[Bundle, int], ModelSession],
        settings: Settings,
        on_reopen: Callable[[], None],
    ) -> None:
        call_timeout = settings.model_call_timeout_ms / 1000  # opening a session is no call
        self._served = served
        self._open_session = open_session
        self._threads = settings.intra_op_num_threads
        self._on_reopen = on_reopen
        self.watchdog = Watchdog(call_timeout)
        self.agreement: Agreement | None = None  # with full precision, where the settings ask for less
        session = open_session(served, 1)
        session.warm_up()
        self.seconds_of_one_row = session.seconds_of_one_row()  # in one thread
        self.provider = session.provider
        self.on_cpu = self.decodes_in_lanes = session.on_cpu
        if self.on_cpu:
            self.lanes = self._threads
            rows = int(settings.cpu_batch_ms / 1000 / self.seconds_of_one_row)
            self.max_rows = max(1, min(rows, settings.max_batch_size))
        else:
            self.lanes, self.max_rows = settings.gpu_lanes, settings.max_batch_size
        self._session = self._prepared(session)
        self._wide, self.speedup = self._open_wide()
        if problem := normalisation_problem(served.manifest.preprocessing):
            log.warning("%s: %s", served.folder, problem)
        self.ready = True

    def run(self, batch: NDArray[Any], names: Sequence[str] = (), all_cores: bool = False) -> dict[str, NDArray[Any]]:
        """As `ModelSession.run`, in any inference thread; with all cores `speedup` times as fast, if above 1."""
        with self.watchdog.watching():
            return ((all_cores and self._wide) or self._session).run(batch, names)

    def close(self) -> None:
        """Let go of the session, its memory and its threads now, not when the garbage collector comes by."""
        del self._session, self._wide

    def recover(self) -> None:
        """Make sure that the model works after a batch of which nothing could be answered.

        The requests may be to blame: a session that still runs a row of zeros is alive and kept.

        Raises:
            ModelLost: it does not, and opening it again failed.
        """
        try:
            with self.watchdog.watching():
                for session in filter(None, (self._session, self._wide)):
                    session.warm_up(sizes=(1,))
        except StartFailed as error:
            self._reopen(error)

    def _reopen(self, cause: StartFailed) -> None:
        name = self._served.manifest.name
        log.error("%s died and is being opened again: %s", name, cause)
        self.ready = False
        self._on_reopen()
        try:
            self._session = self._open()
            self._wide, self.speedup = self._open_wide()
        except Exception as error:  # BundleError, StartFailed; or no memory, no thread, no file to be had
            raise ModelLost(f"{name} died and could not be opened again: {str(error) or repr(error)}") from cause
        self.ready = True
        log.info("%s works again", name)

    def _open(self, threads: int = 1) -> ModelSession:
        return self._prepared(self._open_session(self._served, threads))

    def _prepared(self, session: ModelSession) -> ModelSession:
        """The session, warm and compared with the bundle's answers, for calls of up to `max_rows`."""
        if self.max_rows == 1:
            session.only_one_row()
        session.warm_up(sorted({*session.warm_sizes, self.max_rows}) if self.on_cpu else None)
        if exact := session.in_fp32():
            exact.warm_up()
            self._compare(exact)
            self.agreement = compare(session, exact, self._served)
        else:
            self._compare(session)
        return session

    def _open_wide(self) -> tuple[ModelSession | None, float]:
        """A session of all the threads and how many times as fast it is, where it is worth its memory."""
        if self._threads == 1 or self.seconds_of_one_row < _LONG_CALL or not self.on_cpu:
            return None, 1.0
        wide = self._open(self._threads)
        speedup = self._session.seconds_of_one_row() / wide.seconds_of_one_row()
        return (wide, speedup) if speedup >= _WORTH_IT else (None, 1.0)

    def _compare(self, session: ModelSession) -> None:
        """Ask about the probe: does this machine answer as the one did where the bundle was made?"""
        served, manifest = self._served, self._served.manifest
        tolerance = probe_tolerance(manifest)
        for reference in parse_references(served.content(REFERENCES_FILE), served.folder / REFERENCES_FILE):
            if reference.picture == PROBE:
                row = pixels_input(probe_pixels(manifest.preprocessing.crop), manifest)
                names = [output.name for output in manifest.all_outputs]
                outputs = {name: values[0] for name, values in session.run(row[np.newaxis], names).items()}
                if manifest.task == "detection":
                    answer = detection_difference(detections_of(outputs), reference, manifest, tolerance=tolerance)
                else:
                    answer = difference(outputs[manifest.outputs[0].name], reference)
                found = {"answer to the probe": answer}
                if manifest.attention:
                    maps = {one.layer: outputs[one.output] for one in manifest.attention}
                    found["attention to the probe"] = attention_difference(maps, reference, manifest)
                for what, worst in found.items():
                    if not worst <= tolerance:
                        raise StartFailed(
                            f"{served.model_path}: expected the stored {what} within {tolerance:.0e}, "
                            f"found {worst:.1e} on {session.provider}"
                        )

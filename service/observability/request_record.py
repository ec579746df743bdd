"""What is known of one request while it is answered: for metrics, the log and traces."""

import time
from dataclasses import dataclass, field

from aaserve.bundle.manifest import Manifest
from aaserve.service.errors import ServiceError

CLIENT_LEFT = 499  # nginx's status for a client that disconnected; clients never see it


@dataclass(slots=True)
class Record:
    """What is known of one request while it is answered; `stages` are seconds."""

    request_id: str
    started: float = field(default_factory=time.perf_counter)
    endpoint: str = "other"
    model: str = ""
    version: str = ""
    batch_size: int | None = None
    status: int = CLIENT_LEFT
    stages: dict[str, float] = field(default_factory=dict)
    error: ServiceError | None = None
    predicted_at: float | None = None

    @property
    def outcome(self) -> str:
        """In a word: `ok`, an error code, `disconnected`, or the status of a preflight that is refused."""
        if self.status == CLIENT_LEFT:
            return "disconnected"
        return self.error.code if self.error else "ok" if self.status < 400 else str(self.status)

    def asks(self, manifest: Manifest) -> None:
        """Note whom the request is for."""
        self.model, self.version = manifest.name, manifest.version

    def received(self) -> None:
        """Note that the body is here."""
        self.stages["receive"] = time.perf_counter() - self.started

    def predicted(self, stages: dict[str, float], batch_size: int) -> None:
        """Note that the answer is known; what is left is to send it."""
        self.stages |= stages
        self.batch_size = batch_size
        self.predicted_at = time.perf_counter()

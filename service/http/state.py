"""What the application owns, by name."""

from pathlib import Path
from typing import Protocol, cast

from starlette.requests import Request

from aaserve.service.http.body.receiving import ReceiveStage
from aaserve.service.http.keys import Keys
from aaserve.service.observability.metrics import Metrics
from aaserve.service.repository.lifecycle import Lifecycle
from aaserve.service.settings import Settings


class Worker(Protocol):
    """What the application needs to know if its process is one of several workers."""

    @property
    def slot(self) -> int:
        """Its number among the workers."""

    @property
    def supervisor(self) -> int:
        """The supervisor's process id."""

    @property
    def shared(self) -> Path:
        """Folder of all workers."""

    def reload_all(self) -> None:
        """Make every worker reload its models."""


class ApplicationState(Protocol):
    """`app.state`, as the routes see it."""

    settings: Settings
    metrics: Metrics
    lifecycle: Lifecycle
    receive_stage: ReceiveStage
    keys: Keys | None
    worker: Worker | None


def state_of(request: Request) -> ApplicationState:
    return cast(ApplicationState, request.app.state)

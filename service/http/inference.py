"""The one path of every inference request, from its head to the model that answers it.

head --room in a queue?--> receive stage: body --parse--> parameters --> permit for its rows --> handler

Load is shed from the head, before the body is read: 429 if the queues are full, 503 if no model is ready. A permit is
taken only when the body is there, so a client that announces a body and sends none takes no one's place. Large bodies
are parsed in a thread, so that the event loop goes on answering.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import Request

from aaserve.bundle.manifest import Manifest
from aaserve.service.engine.predictor import Predictor
from aaserve.service.engine.queueing.admission import Admission
from aaserve.service.errors import NotReady, WrongTask
from aaserve.service.http.auth import client_of
from aaserve.service.http.body.body import (
    JOINED_INLINE,
    BodyReader,
    Content,
    Fields,
    Upload,
    announced_bytes,
    has_fields,
)
from aaserve.service.http.disconnect import cancel_on_disconnect
from aaserve.service.http.params import Asked, with_fields
from aaserve.service.http.state import state_of
from aaserve.service.observability.request_record import Record
from aaserve.service.repository.lookup import RECOVERING

PARSED_INLINE = 4096  # bytes of text; parsing so few takes less time than telling a thread of it
WRITTEN_INLINE = 2048  # values of an answer, rows times classes; writing them takes half a millisecond
ADDRESSES = {"classification": "/classify", "detection": "/detect"}  # by task
Checked = TypeVar("Checked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Models(Generic[Checked]):
    """The models that may answer a request, at least one.

    Args:
        default: the name of the one that does unless the body names another; None if the body must.
        choose: from the fields of the body, returns the model that answers, and what the answer needs to know.
    """

    candidates: Sequence[Predictor]
    choose: Callable[[Fields], tuple[Predictor, Checked]]
    default: str | None = None


@dataclass(slots=True)
class Taken(Generic[Content, Checked]):
    """A request that was let in, with its body.

    Args:
        deadline: an instant of the event loop's clock.
        client: who sent it.
    """

    predictor: Predictor
    content: Content
    checked: Checked
    deadline: float
    client: str

    async def written(self, write: Callable[[], Answer], *, values: int) -> Answer:
        """Return `write()`, which runs in a thread if it would hold up the event loop.

        Args:
            values: that it reads: rows times classes.

        Raises:
            DeadlineExceeded: it was not done in time.
        """
        if values <= WRITTEN_INLINE:
            return write()
        return await self.predictor.offload(write, client=self.client, deadline=self.deadline)


@asynccontextmanager
async def take_in(
    request: Request,
    models: Models[Checked],
    reader: BodyReader[Upload, Content],
    timeout_ms: int | None,
    *,
    slow: bool = False,
) -> AsyncIterator[Taken[Content, Checked]]:
    """Run the block while the request holds a permit for its rows; cancel it if the client leaves.

    Args:
        timeout_ms: from the request's header.
        slow: True if the work takes longer than to classify a picture.

    Raises:
        ServiceError: refused.
        ClientDisconnect: the client left.
    """
    state = state_of(request)
    record: Record = request.state.record
    longest = state.settings.request_timeout_ms
    timeout = min(timeout_ms or longest, longest) / 1000
    deadline = asyncio.get_running_loop().time() + timeout
    client = client_of(request.scope["headers"], request.scope["client"], state.keys)
    slow = slow or state.lifecycle.usage.is_slow(client)
    require_room(models.candidates, timeout, slow=slow)
    announced = announced_bytes(request)
    state.receive_stage.check(announced)

    leases = [predictor.admission.lease() for predictor in models.candidates]
    try:
        with state.receive_stage.receipt(announced, expected(models.candidates, models.default)) as receipt:
            upload = await receipt.received(reader.read, deadline)
            record.received()
            if receipt.held > (PARSED_INLINE if reader.parses_text else JOINED_INLINE):
                offload = models.candidates[0].offload
                body = await offload(partial(reader.parse, upload), client=client, deadline=deadline)
            else:
                body = reader.parse(upload)
            del upload
            predictor, checked = models.choose(body.fields)
            record.asks(predictor.manifest)
            if body.timeout is not None:
                deadline = min(deadline, asyncio.get_running_loop().time() + body.timeout)
                timeout = min(timeout, body.timeout)
            # The estimate is against the whole timeout, as for the head: what the body has cost is spent already.
            with predictor.admission.admit(rows=body.rows, client=client, timeout=timeout, slow=slow):
                async with cancel_on_disconnect(request):
                    yield Taken(predictor, body.content, checked, deadline, client)
    finally:
        for lease in leases:
            lease.release()


def by_parameters(
    request: Request, asked: Asked, check: Callable[[Predictor, Asked], Checked], task: str | None
) -> Models[Checked]:
    """The models that a request may mean whose query, and perhaps body, names one.

    Args:
        asked: `model`, `version` and the other parameters of the query.
        check: returns what the answer needs to know, or raises, for a model and all parameters.
        task: of the models that the address is for; None for any.

    Raises:
        ModelNotFound, NotReady, InvalidParameter, WrongTask: known from the head alone.
    """
    repository = state_of(request).lifecycle.repository
    record: Record = request.state.record
    if not has_fields(request.headers.get("content-type", "")):
        predictor = repository.predictor(asked["model"], asked["version"], task)
        record.asks(predictor.manifest)
        _require_task(predictor.manifest, task)
        checked = check(predictor, asked)
        return Models([predictor], lambda _: (predictor, checked))
    candidates = repository.candidates(asked["model"], asked["version"], task)
    named = asked["model"] or repository.default_model
    only = candidates[0] if len(candidates) == 1 and candidates[0].manifest.name == named else None
    if only:
        record.asks(only.manifest)

    def choose(fields: Fields) -> tuple[Predictor, Checked]:
        together = with_fields(asked, fields)
        named_in_body = fields.keys() & {"model", "version"}
        predictor = (
            only if only and not named_in_body else repository.predictor(together["model"], together["version"], task)
        )
        _require_task(predictor.manifest, task)
        return predictor, check(predictor, together)

    return Models(candidates, choose, asked["model"] or repository.default_for(task))


def _require_task(manifest: Manifest, task: str | None) -> None:
    """Raise WrongTask if the address is for models of another task."""
    if task not in (None, manifest.task):
        address = ADDRESSES[manifest.task]
        raise WrongTask(f"{manifest.name} is a model of {manifest.task}; {address} and {address}/batch take it")


def expected(candidates: Sequence[Predictor], default: str | None) -> list[Admission]:
    """That of the model which answers unless the body names another: its queue will soon need room.

    Args:
        default: as of `Models`.
    """
    if len(candidates) == 1:
        return [candidates[0].admission]
    return [each.admission for each in candidates if each.manifest.name == default][-1:]


def require_room(candidates: Sequence[Predictor], timeout: float, *, slow: bool, behind_arriving: bool = False) -> None:
    """Raise NotReady or QueueFull unless one of the candidates would take a row now.

    Args:
        timeout: seconds that the request has.
        slow: whether it is a slow row, as `Admission` has it.
        behind_arriving: whether rows whose bodies are on their way come first.
    """
    ready = [predictor.admission for predictor in candidates if predictor.ready]
    if not ready:
        raise NotReady(RECOVERING)
    # Under overload this is asked for each request, so only one model is asked for its reason.
    if any(each.has_room(timeout=timeout, behind_arriving=behind_arriving, slow=slow) for each in ready[:-1]):
        return
    if refusal := ready[-1].refusal(timeout=timeout, behind_arriving=behind_arriving, slow=slow):
        raise refusal

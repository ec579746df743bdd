"""The path of every inference request, from its head to the model that answers it.

head --room in a queue?--> receive stage: body --parse--> parameters --> permit for its rows --> handler

Load is shed from the head, before the body is read: 429 if the queues are full, 503 if no model is ready. A permit is
taken only when the body is there, so a client that announces a body and sends none takes no one's place. Large bodies
are parsed in a thread, so that the event loop goes on answering.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from fastapi import Request

from aaserve.service.engine.predictor import Predictor
from aaserve.service.errors import NotReady
from aaserve.service.http.auth import client_of
from aaserve.service.http.body.body import JOINED_INLINE, Fields, body_bytes, has_fields
from aaserve.service.http.body.receiving import ReceiveStage
from aaserve.service.http.disconnect import cancel_on_disconnect
from aaserve.service.http.params import Asked, deadline_of, parts, with_fields
from aaserve.service.observability.request_record import Record
from aaserve.service.repository.repository import RECOVERING

PARSED_INLINE = 4096  # bytes of text; parsing so few takes less time than telling a thread of it
Upload = TypeVar("Upload")
Body = TypeVar("Body")
Checked = TypeVar("Checked")
Choose = Callable[[Fields], tuple[Predictor, Checked]]


@dataclass(slots=True)
class Taken(Generic[Body, Checked]):
    """A request that was let in, with its body.

    Args:
        deadline: an instant of the event loop's clock.
        client: who sent it.
    """

    predictor: Predictor
    body: Body
    checked: Checked
    deadline: float
    client: str


@asynccontextmanager
async def take_in(
    request: Request,
    candidates: Sequence[Predictor],
    timeout_ms: int | None,
    *,
    read: Callable[[Request], Awaitable[Upload]],
    parse: Callable[[Upload], tuple[Body, Fields]],
    choose: Choose[Checked],
    parses_text: bool,
    rows_of: Callable[[Body], int] = lambda body: 1,
    timeout_of: Callable[[Body], float | None] = lambda body: None,
    slow: bool = False,
) -> AsyncIterator[Taken[Body, Checked]]:
    """Run the block while the request holds a permit for its rows; cancel it if the client leaves.

    Args:
        candidates: the models that may answer, at least one.
        timeout_ms: from the request's header.
        read: returns what the client sent.
        parse: returns the body that this is, and the parameters that it contains.
        choose: returns the model that answers, and what it needs to know.
        parses_text: True if `parse` decodes JSON or base64, which takes long for a large body.
        rows_of: returns the number of rows that the body asks for.
        timeout_of: returns the seconds from now to the deadline, if the body shortens it.
        slow: True if the work takes longer than to classify a picture.

    Raises:
        ServiceError: refused.
        ClientDisconnect: the client left.
    """
    state, settings, _ = parts(request)
    record: Record = request.state.record
    timeout, deadline = deadline_of(timeout_ms, settings)
    client = client_of(request.scope["headers"], request.scope["client"], request.app.state.keys)
    slow = slow or state.usage.is_slow(client)
    _require_room(candidates, timeout, slow=slow)
    stage: ReceiveStage = request.app.state.receive_stage
    announced = body_bytes(request, max_body_bytes=settings.max_body_bytes)
    stage.check(announced)

    leases = [predictor.admission.lease() for predictor in candidates]
    try:
        with stage.receipt(announced) as receipt:
            request.state.receipt = receipt
            upload = await receipt.received(partial(read, request), deadline)
            record.received()
            if receipt.held > (PARSED_INLINE if parses_text else JOINED_INLINE):
                body, fields = await candidates[0].offload(partial(parse, upload), client=client, deadline=deadline)
            else:
                body, fields = parse(upload)
            del upload
            predictor, checked = choose(fields)
            record.asks(predictor.manifest)
            if (shorter := timeout_of(body)) is not None:
                deadline = min(deadline, asyncio.get_running_loop().time() + shorter)
                timeout = min(timeout, shorter)
            # The estimate is against the whole timeout, as for the head: what the body has cost is spent already.
            with predictor.admission.admit(rows=rows_of(body), client=client, timeout=timeout, slow=slow):
                async with cancel_on_disconnect(request):
                    yield Taken(predictor, body, checked, deadline, client)
    finally:
        for lease in leases:
            lease.release()


def by_parameters(
    request: Request, asked: Asked, check: Callable[[Predictor, Asked], Checked]
) -> tuple[Sequence[Predictor], Choose[Checked]]:
    """The candidates for a request whose query, and perhaps body, name a model; and how to choose among them.

    Args:
        asked: `model`, `version` and the other parameters of the query.
        check: returns what the answer needs to know, or raises, for a model and all parameters.

    Raises:
        ModelNotFound, NotReady, InvalidParameter: known from the head alone.
    """
    repository = parts(request)[0].repository
    if not has_fields(request):
        predictor = repository.predictor(asked["model"], asked["version"])
        request.state.record.asks(predictor.manifest)
        checked = check(predictor, asked)
        return [predictor], lambda _: (predictor, checked)
    candidates = repository.candidates(asked["model"], asked["version"])
    named = asked["model"] or repository.default_model
    only = candidates[0] if len(candidates) == 1 and candidates[0].manifest.name == named else None
    if only:
        request.state.record.asks(only.manifest)

    def choose(fields: Fields) -> tuple[Predictor, Checked]:
        together = with_fields(asked, fields)
        if only and not fields.keys() & {"model", "version"}:
            return only, check(only, together)
        predictor = repository.predictor(together["model"], together["version"])
        return predictor, check(predictor, together)

    return candidates, choose


def _require_room(candidates: Sequence[Predictor], timeout: float, *, slow: bool) -> None:
    """Raise NotReady or QueueFull unless one of the candidates would take a row now."""
    ready = [predictor for predictor in candidates if predictor.ready]
    if not ready:
        raise NotReady(RECOVERING)
    refusals = [predictor.admission.refusal(timeout=timeout, slow=slow) for predictor in ready]
    if all(refusals):
        assert refusals[0] is not None
        raise refusals[0]

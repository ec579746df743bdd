"""A request's head --> a place in a queue --> its body --> the model that is meant, and what is asked of it.

head that says all      --> model, checked --> place there --> body
body may say something  --> place where there is room --> body --> model, checked --> place there

A request without room is refused before its body is read, whichever way it goes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from fastapi import Request

from service.admission import Place
from service.deadlines import until
from service.errors import NotReady
from service.model_repository import RECOVERING
from service.observation import Record
from service.parameters import Asked, deadline_of, parts, with_fields
from service.predictor import Predictor
from service.uploads import Fields, body_bytes, has_fields

Body = TypeVar("Body")
Checked = TypeVar("Checked")


@dataclass(frozen=True, slots=True)
class Taken(Generic[Body, Checked]):
    """A request that was let in, with its body.

    Args:
        deadline: an instant of the event loop's clock.
    """

    predictor: Predictor
    body: Body
    checked: Checked
    place: Place
    deadline: float


@asynccontextmanager
async def take_in(
    request: Request,
    asked: Asked,
    timeout_ms: int | None,
    *,
    read: Callable[[Request], Awaitable[tuple[Body, Fields]]],
    check: Callable[[Predictor, Asked], Checked],
) -> AsyncIterator[Taken[Body, Checked]]:
    """Hold a place for the request while it is answered.

    Args:
        asked: `model`, `version` and whatever else the query says.
        read: returns the body, and the parameters that it had.
        check: what the answer needs to know, or an error, by the model and all parameters.

    Raises:
        ServiceError: refused.
    """
    lifecycle, settings, _ = parts(request)
    record: Record = request.state.record
    repository = lifecycle.repository
    timeout, deadline = deadline_of(timeout_ms, settings)
    size = body_bytes(request, max_body_bytes=settings.max_body_bytes)

    complete = not has_fields(request)  # the query has said all there is to say
    if complete:
        candidates = [repository.predictor(asked["model"], asked["version"])]
    else:
        candidates = repository.candidates(asked["model"], asked["version"])
    predictor = _with_room(candidates, body_bytes=size, timeout=timeout)
    if len(candidates) == 1:
        record.asks(predictor.manifest)
    if complete:
        checked = check(predictor, asked)
    with predictor.admission.admit(body_bytes=size, timeout=timeout) as place:
        async with until(deadline):
            body, fields = await read(request)
        record.received()
        if not complete:
            asked = with_fields(asked, fields)
            if len(candidates) > 1 or fields.keys() & {"model", "version"}:
                predictor = repository.predictor(asked["model"], asked["version"])
                record.asks(predictor.manifest)
                place.move(predictor.admission, timeout=deadline - asyncio.get_running_loop().time())
            checked = check(predictor, asked)
        yield Taken(predictor, body, checked, place, deadline)


def _with_room(candidates: list[Predictor], *, body_bytes: int, timeout: float) -> Predictor:
    """Where the request waits for its body: with the first that lets it in, or with one that refuses it.

    Raises:
        NotReady: none works now.
    """
    ready = [each for each in candidates if each.ready]
    if not ready:
        raise NotReady(RECOVERING)
    if len(ready) == 1:
        return ready[0]
    lets_in = (each for each in ready if each.admission.refusal(body_bytes=body_bytes, timeout=timeout) is None)
    return next(lets_in, ready[0])

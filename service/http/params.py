"""The parameters of the addresses where a model runs: query, header, and the fields of a form or of JSON.

An unknown name that resembles one of ours is refused, so that it is not answered with a default:

?topk=2 at an address that takes top_k   --> refused, with the name that was meant
?layer=x at an address that has no layer --> refused: another address takes it
?utm_source=mail                         --> ignored: proxies, caches and trackers add such names
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any

from fastapi import Header, Query
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from aaserve.service.errors import InvalidParameter

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
TopK = Annotated[int | None, Query(ge=1, description="Labels wanted (default: 5, or all if fewer).")]
ScoreThreshold = Annotated[
    float | None, Query(ge=0, le=1, allow_inf_nan=False, description="Least score of a detection (default: 0.5).")
]
MaxDetections = Annotated[
    int | None, Query(ge=1, description="Detections wanted, at most (default: all that the model finds).")
]
ModelName = Annotated[
    str | None,
    Query(description="Name of the model (default: default_model of GET /models, or the only one of this task)."),
]
ModelVersion = Annotated[str | None, Query(description="Version of the model (default: the highest).")]
TimeoutMs = Annotated[int | None, Header(alias=TIMEOUT_HEADER, ge=1, description="Milliseconds to answer in.")]

Asked = Mapping[str, Any]  # parameter --> its value, None where it is not given
ANYWHERE = frozenset({"model", "version", "top_k", "score_threshold", "max_detections", "layer", "head", "position"})
FRACTIONS = frozenset({"score_threshold"})  # in JSON, all others are texts or whole numbers
_CHECKS: dict[str, TypeAdapter[Any]] = {  # the others are any text
    "top_k": TypeAdapter(TopK),
    "score_threshold": TypeAdapter(ScoreThreshold),
    "max_detections": TypeAdapter(MaxDetections),
    TIMEOUT_HEADER: TypeAdapter(TimeoutMs),
}
_TIMEOUT = "timeout_ms"  # which comes as a header
_CLOSE = 0.75  # "session" is no "version"
_LONGEST = 30  # characters of a name that can resemble one of ours
LOOKED_AT = 50  # names that are compared; more than a person misspells, and cheap


def with_fields(asked: Asked, fields: Mapping[str, str]) -> Asked:
    """What query and body ask for together: the same checks for both.

    Raises:
        RequestValidationError: a value of the body is off.
        InvalidParameter: the two differ.
    """
    together = dict(asked)
    for name, text in fields.items():
        try:
            value = _CHECKS[name].validate_python(text) if name in _CHECKS else text
        except ValidationError as error:
            raise RequestValidationError([{**each, "loc": ("body", name)} for each in error.errors()]) from error
        if together[name] not in (None, value):
            raise InvalidParameter(f"{name} is given in the query and in the body, with different values")
        together[name] = value
    return together


def range_of(name: str) -> str:
    """The values that a parameter may have, in words; it has a minimum, and perhaps a maximum."""
    schema = _CHECKS[name].json_schema()["anyOf"][0]
    most = schema.get("maximum")
    return f"{schema['minimum']:g} or more" if most is None else f"{schema['minimum']:g} to {most:g}"


def check_query(names: Iterable[str], takes: Collection[str], in_path: Collection[str]) -> None:
    """Refuse the names in a query that mean a parameter and are none of this address.

    Args:
        takes: names that this address takes in its query.
        in_path: names that are part of its path.

    Raises:
        InvalidParameter: says which name was meant, and where it belongs.
    """
    for name in islice((name for name in names if name not in takes), LOOKED_AT):
        if name in in_path:
            raise InvalidParameter(f"{name} is part of the path here, and not of the query")
        if name in ANYWHERE:
            raise InvalidParameter(f"{name} is not a parameter of this address")
        meant = resembling(name, (*takes, *in_path, _TIMEOUT))
        if meant == _TIMEOUT:
            raise InvalidParameter(f"unknown parameter {name!r}; send the header {TIMEOUT_HEADER}")
        if meant is not None:
            place = " in the path" if meant in in_path else ""
            raise InvalidParameter(f"unknown parameter {name!r}; did you mean {meant!r}{place}?")


def resembling(name: str, known: Collection[str]) -> str | None:
    """The known name that another one is most likely meant to be; None if it resembles none.

    Case, hyphens and underscores make no difference, nor does a word before or behind (`modelname`).
    """
    if len(name) > _LONGEST:
        return None
    plain = {_plain(each): each for each in known}
    given = _plain(name)
    close = get_close_matches(given, plain, n=1, cutoff=_CLOSE)
    if close:
        return plain[close[0]]
    behind = (each for word, each in plain.items() if given.endswith(word))  # model_version is a version
    before = (each for word, each in plain.items() if given.startswith(word))
    return next(behind, None) or next(before, None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())

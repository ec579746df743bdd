"""An error in the words of whoever asked: the address decides.

    /v2/…                  {"error"}                    as the Open Inference Protocol has it
    /predictions/…, /ping  {"code", "type", "message"}  as TorchServe has it
    anything else          application/problem+json     RFC 9457

The two media types are exact: KServe's client compares the whole header.
"""

from collections.abc import Callable

from aaserve.service.http.schemas import Problem, ProtocolError, TorchServeError

PROBLEM_TYPE = "application/problem+json"
_JSON = "application/json"
_TORCHSERVE_TYPES = {
    400: "BadRequestException",
    401: "InvalidKeyException",
    403: "InvalidKeyException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    413: "RequestEntityTooLargeException",
    415: "UnsupportedMediaTypeException",
    429: "ServiceUnavailableException",
    503: "ServiceUnavailableException",
    504: "RequestTimeoutException",
}


def error_body(path: str, problem: Problem) -> tuple[str, str]:
    """The body and its media type, for an error at this address."""
    return _form(path)(problem)


def _form(path: str) -> Callable[[Problem], tuple[str, str]]:
    first = path.split("/", 2)[1] if path.startswith("/") else ""
    return {"v2": _protocol, "predictions": _torchserve, "ping": _torchserve}.get(first, _problem)


def _problem(problem: Problem) -> tuple[str, str]:
    return problem.model_dump_json(), PROBLEM_TYPE


def _protocol(problem: Problem) -> tuple[str, str]:
    return ProtocolError(error=problem.detail).model_dump_json(), _JSON


def _torchserve(problem: Problem) -> tuple[str, str]:
    kind = "ModelNotFoundException" if problem.code == "model_not_found" else None
    kind = kind or _TORCHSERVE_TYPES.get(problem.status)
    kind = kind or ("InternalServerException" if problem.status >= 500 else "BadRequestException")
    return TorchServeError(code=problem.status, type=kind, message=problem.detail).model_dump_json(), _JSON

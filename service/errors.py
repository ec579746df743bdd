"""Every way a request can fail, with its HTTP status and stable code. Messages may be shown to any client."""

from typing import Self

_LONGEST = 500  # characters of a message, quoted input included


class ServiceError(Exception):
    """Base of all: ours unless a subclass says otherwise. Details belong in the log, not in the message."""

    status = 500
    code = "internal"
    message = "the server failed; the request id finds the details in its log"
    retry_after: int | None = None  # seconds

    def __init__(self, message: str | None = None) -> None:
        text = message or self.message
        super().__init__(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")

    def without_origin(self) -> Self:
        """The same error without where it was raised and what caused it, unless the log will show that.

        A traceback keeps the frames it names, and these the request's body: often in a cycle with the error, which only
        the garbage collector ends.
        """
        if self.status != 500:
            self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


class InvalidImage(ServiceError):
    status = 400
    code = "invalid_image"


class InvalidRequest(ServiceError):
    status = 400
    code = "invalid_request"


class Unauthorized(ServiceError):
    status = 401
    code = "unauthorized"
    message = "a key is needed: Authorization: Bearer KEY"


class Forbidden(ServiceError):
    status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    status = 404
    code = "model_not_found"


class NoAttention(ServiceError):
    status = 404
    code = "no_attention"


class NotAcceptable(ServiceError):
    status = 406
    code = "not_acceptable"


class HeadTimeout(ServiceError):
    status = 408
    code = "head_timeout"
    message = "the head of the request did not come in time"


class BodyTimeout(ServiceError):
    status = 408
    code = "body_timeout"
    message = "the body of the request came too slowly"


class Conflict(ServiceError):
    status = 409
    code = "conflict"


class BodyTooLarge(ServiceError):
    status = 413
    code = "body_too_large"


class ImageTooLarge(ServiceError):
    status = 413
    code = "image_too_large"


class UnsupportedMediaType(ServiceError):
    status = 415
    code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMediaType):
    """A Content-Encoding that is not known here; the answer names those that are."""


class InvalidParameter(ServiceError):
    status = 422
    code = "invalid_parameter"


class TooManyRows(ServiceError):
    status = 413
    code = "too_many_images"


class HeadTooLarge(ServiceError):
    status = 431
    code = "head_too_large"
    message = "the head of the request is too large, or has too many headers"


class QueueFull(ServiceError):
    """Refused at once; `retry_after` is when what is ahead should be answered."""

    status = 429
    code = "queue_full"
    message = "the queue is full"

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(ServiceError):
    status = 503
    code = "not_ready"
    message = "starting: models are being loaded and warmed up"
    retry_after = 1


class Draining(ServiceError):
    status = 503
    code = "draining"
    message = "stopping: no new requests are taken"
    retry_after = 5


class TooManyConnections(ServiceError):
    status = 503
    code = "too_many_connections"
    message = "too many connections are open"
    retry_after = 1


class DeadlineExceeded(ServiceError):
    status = 504
    code = "deadline_exceeded"
    message = "no answer within the request's deadline"


class InferenceFailed(ServiceError):
    """The model call raised or gave no usable numbers."""


class StartFailed(Exception):
    """The service cannot start; the message is one line for the operator."""


class ProviderMissing(StartFailed):
    """The execution provider that was asked for is not to be had."""


class LoadFailed(Exception):
    """A model cannot be served as asked; the message is one line for the operator."""


class ModelLost(Exception):
    """A model died and could not be loaded again; the message is one line for the operator."""


class ThreadEnded(ModelLost):
    """A thread that the whole service needs has ended; the message is one line for the operator."""


class ModelHung(ModelLost):
    """A model call does not come back, nor does its thread; only the end of the process gets rid of both."""

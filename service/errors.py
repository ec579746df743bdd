"""Every way a request can fail, with its HTTP status and stable code. Messages may be shown to any client.

The docstring of each says when it happens and what its client can do: docs/reference.md is made from them.
"""

from typing import Self

_LONGEST = 500  # characters of a message, quoted input included


class ServiceError(Exception):
    """The service failed.

    Look for the request id in the log.
    """

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
    """The file is empty, truncated or damaged, or its pixels have no defined colour.

    Send another file.
    """

    status = 400
    code = "invalid_image"


class InvalidRequest(ServiceError):
    """Malformed HTTP, multipart or JSON; no image, or more than one; two Authorization headers where keys are
    in use.

    See requests.md.
    """

    status = 400
    code = "invalid_request"


class Unauthorized(ServiceError):
    """Keys are in use, and the request has none or an unknown one. Its body was not read.

    Send Authorization: Bearer KEY.
    """

    status = 401
    code = "unauthorized"
    message = "a key is needed: Authorization: Bearer KEY"


class Forbidden(ServiceError):
    """The key does not have the scope for this; or a model should be changed, and no keys are in use.

    Use a key with the scope that the detail names.
    """

    status = 403
    code = "forbidden"


class ModelNotFound(ServiceError):
    """No such model or version is served.

    The detail lists what is served.
    """

    status = 404
    code = "model_not_found"


class NoAttention(ServiceError):
    """/explain of a model that was exported without attention maps.

    Export it with --with-attention.
    """

    status = 404
    code = "no_attention"


class NotAcceptable(ServiceError):
    """Accept names no format that /explain or /detect has.

    The detail lists the formats.
    """

    status = 406
    code = "not_acceptable"


class HeadTimeout(ServiceError):
    """A request was begun, and its head did not arrive within client_timeout_ms.

    Send the head at once.
    """

    status = 408
    code = "head_timeout"
    message = "the head of the request did not come in time"


class BodyTimeout(ServiceError):
    """The body arrives slower than 1,000 bytes a second, after 2 s without a minimum.

    Send the body at once.
    """

    status = 408
    code = "body_timeout"
    message = "the body of the request came too slowly"


class Conflict(ServiceError):
    """The model cannot be loaded, or several workers cannot share the change. Nothing was changed.

    The detail, or GET /models/NAME, says why.
    """

    status = 409
    code = "conflict"


class BodyTooLarge(ServiceError):
    """The body has more than max_body_bytes, or more than 65,536 chunks.

    Send a smaller body.
    """

    status = 413
    code = "body_too_large"


class ImageTooLarge(ServiceError):
    """The image has more than max_image_pixels (WebP: a quarter of it).

    The detail names both sizes.
    """

    status = 413
    code = "image_too_large"


class UnsupportedMediaType(ServiceError):
    """Not JPEG, PNG, WebP, GIF, BMP or TIFF (HEIC, for example), or an unknown Content-Type or
    Content-Encoding.

    Convert the image; see the detail or the header Accept-Encoding.
    """

    status = 415
    code = "unsupported_media_type"


class UnsupportedEncoding(UnsupportedMediaType):
    """A Content-Encoding that is not known here; the answer names those that are."""


class InvalidParameter(ServiceError):
    """A value is out of range or given twice with different values; an unknown name in a form or in JSON; a
    misspelt name in the query.

    The detail names it.
    """

    status = 422
    code = "invalid_parameter"


class WrongTask(ServiceError):
    """The model has another task: /classify and /explain are for classification, /detect is for detection.

    The detail names the address that takes the model.
    """

    status = 422
    code = "wrong_task"


class TooManyRows(ServiceError):
    """More than max_batch_items images in one request.

    Send several requests.
    """

    status = 413
    code = "too_many_images"


class HeadTooLarge(ServiceError):
    """More than 65,536 bytes or 100 headers before the body, or in its trailers.

    Send fewer headers.
    """

    status = 431
    code = "head_too_large"
    message = "the head of the request is too large, or has too many headers"


class QueueFull(ServiceError):
    """max_queue_size, max_queue_bytes or max_inflight_bytes is reached; the estimated wait is longer than the deadline;
    or a quarter of max_queue_size is taken by /explain, by /detect with Accept: image/png and by clients whose images
    take long to decode.

    Retry after Retry-After, or add replicas.
    """

    status = 429
    code = "queue_full"
    message = "the queue is full"

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotReady(ServiceError):
    """Models are loading or warming up, or one died. /health/ready also: one of required_models, or
    the default model that was named, is not served.

    Retry after Retry-After.
    """

    status = 503
    code = "not_ready"
    message = "starting: models are being loaded and warmed up"
    retry_after = 1


class Draining(ServiceError):
    """The process is stopping.

    Retry elsewhere.
    """

    status = 503
    code = "draining"
    message = "stopping: no new requests are taken"
    retry_after = 5


class TooManyConnections(ServiceError):
    """More than max_connections are open.

    Retry after Retry-After, or add replicas.
    """

    status = 503
    code = "too_many_connections"
    message = "too many connections are open"
    retry_after = 1


class DeadlineExceeded(ServiceError):
    """No answer within the deadline.

    Allow more time, or add replicas.
    """

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

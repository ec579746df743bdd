"""The header Accept --> one of the media types that are offered (RFC 9110, section 12.5.1)."""

from collections.abc import Sequence

from aaserve.service.errors import NotAcceptable


def preferred(accept: str, offered: Sequence[str]) -> str:
    """The type that the client likes best, the first of several; the first of all if it does not say.

    Raises:
        NotAcceptable: it wants none of them.
    """
    if not accept.strip():
        return offered[0]
    qualities = [_quality(media_type, accept) for media_type in offered]
    if not any(qualities):
        raise NotAcceptable(f"Accept: offered are {', '.join(offered)}")
    return offered[qualities.index(max(qualities))]


def _quality(media_type: str, accept: str) -> float:
    """What the most specific range that matches says, 0..1."""
    matches = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
    found: dict[int, float] = {}
    for part in accept.lower().split(","):
        media_range, *parameters = (word.strip() for word in part.split(";"))
        if media_range in matches:
            found[matches.index(media_range)] = _weight(parameters)
    return found[max(found)] if found else 0.0


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0

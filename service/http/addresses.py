"""The addresses that run a model: which paths they are, and what metrics call them."""

import re

EXPLAIN = "/explain"
_ADDRESSES = [
    (re.compile(pattern), endpoint)
    for pattern, endpoint in (
        (r"/classify", "/classify"),
        (r"/classify/batch", "/classify/batch"),
        (EXPLAIN, EXPLAIN),
        (r"/v2/models/[^/]+/infer", "/v2/models/{model}/infer"),
        (r"/v2/models/[^/]+/versions/[^/]+/infer", "/v2/models/{model}/versions/{version}/infer"),
        (r"/predictions/[^/]+", "/predictions/{model}"),
        (r"/predictions/[^/]+/[^/]+", "/predictions/{model}/{version}"),
    )
]


def inference_endpoint(path: str) -> str | None:
    """The route of a path at which a model runs, as metrics name it; None for all other paths."""
    return next((endpoint for pattern, endpoint in _ADDRESSES if pattern.fullmatch(path)), None)

"""GET / --> the page: one self-contained HTML file, and the pictures it offers.

    page/index.html --> sha256 of its style and script --> Content-Security-Policy that allows these two and no others

The page uses the public addresses: /classify, /models, /metrics. Nothing comes from other hosts.
"""

import asyncio
import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from aaserve.bundle.errors import BundleError
from aaserve.bundle.references.pictures import reference_picture_names
from aaserve.service.http.state import state_of

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parents[1] / "page_assets"
_INLINE = re.compile(r"<(style|script)\b[^>]*>(.*?)</\1>", re.DOTALL)
_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=()",
}


@router.get("/")
def page(request: Request) -> Response:
    """The page."""
    html, headers = _page()
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


@router.get("/page/examples/{name}")
def example(name: str) -> Response:
    """One of the photographs that the page offers."""
    picture = _examples().get(name)
    if picture is None:
        raise HTTPException(404)
    return Response(picture, media_type="image/jpeg", headers={**_HEADERS, "Cache-Control": "max-age=86400"})


@router.get("/page/models/{name}/{version}/{picture}")
async def reference_picture(request: Request, name: str, version: str, picture: str) -> Response:
    """One of a model's reference pictures, which the page offers; for those who may see the model's card."""
    model = state_of(request).lifecycle.models.get(name)
    loaded = model.serving.get(version) if model else None
    if loaded is None or picture not in reference_picture_names(loaded.bundle.manifest):
        raise HTTPException(404)
    try:
        content = await asyncio.to_thread(loaded.bundle.content, picture)
    except BundleError:  # it has changed on the disk
        raise HTTPException(404) from None
    return Response(content, media_type="image/png", headers={**_HEADERS, "Cache-Control": "no-store"})


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    """The page and its headers, which say what a browser may do with it."""
    text = (_FOLDER / "index.html").read_text("utf-8")
    html, policy = text.encode(), _policy(text)
    tag = f'"{hashlib.sha256(html).hexdigest()[:32]}"'
    return html, {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache", "ETag": tag}


@cache
def _examples() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (_FOLDER / "examples").glob("*.jpg")}


def _policy(html: str) -> str:
    """Only the inline style and script of this very file run; pictures may also be those the reader dropped."""
    allowed: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _INLINE.findall(html):
        allowed[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    return "; ".join(
        [
            "default-src 'none'",
            f"style-src {' '.join(allowed['style'])}",
            f"script-src {' '.join(allowed['script'])}",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )

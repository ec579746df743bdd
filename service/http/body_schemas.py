"""The bodies of requests that bring images, as OpenAPI describes them. What the query may say, they may say instead."""

from typing import Any

Schema = dict[str, Any]

_BINARY: Schema = {"type": "string", "format": "binary", "minLength": 1}
_BASE64: Schema = {"type": "string", "description": "Base64, in either alphabet, or a data URI."}
_TEXT: Schema = {"type": "string"}
MODEL: Schema = {"model": _TEXT, "version": _TEXT}
LABELS: Schema = {"top_k": {"type": "integer", "minimum": 1}}
LOOK: Schema = {"layer": _TEXT, "head": _TEXT, "position": _TEXT}


def image_body(fields: Schema) -> Schema:
    """One image: as the body, as a form, or in JSON."""
    return _body(
        {
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": _object("image", _BINARY, fields),
            "application/json": _object("image", _BASE64, fields),
        }
    )


def images_body(fields: Schema) -> Schema:
    """Several images: as a form or in JSON."""
    return _body(
        {
            "multipart/form-data": _object("image", _several(_BINARY), fields),
            "application/json": _object("images", _several(_BASE64), fields),
        }
    )


def raw_or_form_body(field: str, fields: Schema) -> Schema:
    """One image: as the body, or as a form."""
    return _body(
        {
            "application/octet-stream": {"schema": _BINARY},
            "multipart/form-data": _object(field, _BINARY, fields),
        }
    )


def _body(content: Schema) -> Schema:
    return {"requestBody": {"required": True, "content": content}}


def _object(name: str, image: Schema, fields: Schema) -> Schema:
    properties = {name: image, **fields}
    return {"schema": {"type": "object", "required": [name], "properties": properties, "additionalProperties": False}}


def _several(image: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": image}

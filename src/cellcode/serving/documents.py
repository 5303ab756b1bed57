"""What OpenAPI says of the routes whose bodies are read by hand."""

from typing import Any

from pydantic import BaseModel

from cellcode.serving.problems import CODES, ErrorBody

_FILE = {"type": "string", "format": "binary", "contentMediaType": "image/jpeg"}
_FILES = {"type": "array", "items": _FILE, "minItems": 1}


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that are errors, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in ("unauthorized", "internal", *codes):
        status, action = CODES[code]
        described = found.get(status, {}).get("description")
        text = f"{code}: {action}"
        found[status] = {"model": ErrorBody, "description": f"{described}; {text}" if described else text}
    return found


PHOTO_ERRORS = (
    "bad_request", "region_invalid", "photo_too_large", "too_many_photos", "photo_unreadable", "region_empty",
    "rate_limited", "overloaded", "timeout",
)  # fmt: skip


def photos(request: type[BaseModel], response: type[BaseModel], one: str | None = None) -> dict[str, Any]:
    """Return how a route is documented that takes photos as JSON or as multipart.

    Args:
        one: the field of the JSON that holds the one photo; None: a list `photos`.
    """
    schema = request.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return _route(schema, {"model": response}, one, {"application/json": {"schema": schema}})


def batch(settings: type[BaseModel]) -> dict[str, Any]:
    """Return how the batch is documented."""
    line = {
        "description": "one PhotoAnswer or Unreadable per line",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
    return _route(settings.model_json_schema(), line, None, {})


def _route(schema: dict[str, Any], answer: dict[str, Any], one: str | None, others: dict[str, Any]) -> dict[str, Any]:
    """Return how a route is documented whose form has the fields of a schema; `others` are its other kinds of body."""
    fields = {name: _text(value) for name, value in schema["properties"].items() if name not in (one, "photos")}
    required = ["photo", *(name for name in schema.get("required", []) if name not in (one, "photos"))]
    properties = fields | {"photo": _FILE if one else _FILES}
    form = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    content = {"multipart/form-data": {"schema": form}, **others}
    return {
        "response_model": None,
        "responses": {200: answer, **errors(*PHOTO_ERRORS)},
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def _text(value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a form's field: of several kinds, the one that a text can spell."""
    kinds = [kind for kind in value.get("anyOf", []) if kind.get("type") not in ("null", "array", "object")]
    if not kinds:
        return value
    return {**{key: part for key, part in value.items() if key not in ("anyOf", "default")}, **kinds[0]}

"""What the service is asked and what it answers, as OpenAPI documents it. Degrees WGS84, metres, tokens of S2 cells.

The routes whose bodies are read by hand are described at the end.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cellcode.client.answers import Claim, Heat, Metadata, Searched
from cellcode.serving.problems import CODES, ErrorBody, ErrorFacts
from cellcode.serving.settings import Basemap

Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-180, le=180)]
Heading = Annotated[float, Field(ge=0, le=360, description="degrees clockwise from north; echoed, not used")]
Top = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
PHOTO_ERRORS = (
    "bad_request", "region_invalid", "photo_too_large", "too_many_photos", "photo_unreadable", "region_empty",
    "rate_limited", "overloaded", "timeout", "too_slow",
)  # fmt: skip
_FILE = {"type": "string", "format": "binary", "contentMediaType": "image/jpeg"}
_FILES = {"type": "array", "items": _FILE, "minItems": 1}


class Asked(BaseModel):
    """A request in JSON: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class EncodedPhoto(Asked):
    """A photo in JSON."""

    name: str = Field("photo", max_length=255)
    data: str = Field(description="the bytes of its file, base64")


class LocateRequest(Asked):
    """Where were these photos taken?"""

    photos: list[EncodedPhoto] = Field(min_length=1)
    top: Top = 5
    region: list[float] | dict[str, Any] | str | None = Field(
        None,
        description="[west, south, east, north], GeoJSON, or cap:LAT,LON,RADIUS_M: only cells with their centre inside",
    )
    fuse: bool = Field(False, description="the photos are of one place: one answer")
    heading_deg: Heading | None = None
    heat: bool = Field(False, description="with the posterior as a map")


class VerifyRequest(Asked):
    """Was this photo taken here?"""

    photo: EncodedPhoto
    lat: Latitude
    lon: Longitude
    top: Top = 5
    region: list[float] | dict[str, Any] | str | None = None
    heading_deg: Heading | None = None


class CandidateFacts(BaseModel):
    """A cell that may hold the photo's position."""

    lat: float
    lon: float
    cell: str
    score: float = Field(description="similarity of the photo and the cell's code; not comparable between photos")
    probability: Share = Field(description="share of the posterior over all cells searched")


class Located(CandidateFacts):
    """Where a photo was taken, judged by its pixels."""

    radius_50_m: float | None = Field(description="half of such photos are within this distance; null: not measured")
    radius_90_m: float | None = Field(description="90 % of such photos are")
    in_region: bool | None = Field(description="it looks like a photo of the region; null: this database does not say")
    inside_probability: Share | None
    mean_lat: float
    mean_lon: float
    candidates: list[CandidateFacts]
    search: Searched
    heading_deg: float | None = None
    metadata: Metadata | None = None
    heat: Heat | None = None


class PhotoAnswer(Located):
    """The answer to one photo."""

    file: str


class Unreadable(BaseModel):
    """A photo that could not be answered; the others are."""

    file: str
    error: ErrorFacts


class FusedAnswer(Located):
    """One answer to several photos of one place."""

    files: list[str]
    unreadable: list[Unreadable]


class LocateResponse(BaseModel):
    """Answers in the order of the photos; with `fuse` one."""

    answers: list[PhotoAnswer | FusedAnswer | Unreadable]


class Crops(BaseModel):
    """Addresses of aerial crops; null where there is no imagery."""

    claim: str | None
    answer: str | None


class VerifyResponse(BaseModel):
    """How plausible a claimed place is; docs/serving.md has the rule of the verdict."""

    verdict: Literal["plausible", "implausible", "outside_database", "not_sure"]
    reason: str
    claim: Claim
    distance_m: float = Field(description="from the claim to the answer")
    within: Literal["50", "90"] | None = Field(description="the smallest circle of the answer that holds the claim")
    distances_m: list[float] = Field(description="from the claim to each candidate")
    answer: PhotoAnswer
    aerial: Crops


class CellCounts(BaseModel):
    """Cells of a database by what their code is made of."""

    total: int
    both: int
    aerial_only: int
    prototype_only: int


class Levels(BaseModel):
    """S2 levels."""

    prototype: int
    cell: int


class ImageryFacts(BaseModel):
    """The imagery that crops and tiles are cut from."""

    attribution: str
    date: str | None
    min_zoom: int
    max_zoom: int


class LimitFacts(BaseModel):
    """What the service accepts."""

    photo_bytes: int
    photo_pixels: int
    photos: int
    batch_photos: int
    region_vertices: int
    top: int
    heat_cells: int


class DatabaseFacts(BaseModel):
    """What is searched, and what may be asked."""

    name: str
    identity: str
    version: str = Field(description="of cellcode")
    levels: Levels
    cell_edge_m: float
    cells: CellCounts
    bounds: tuple[float, float, float, float] = Field(description="west, south, east, north")
    training_photos: int
    licences: list[str]
    attributions: list[str]
    tells_outside: bool
    imagery: ImageryFacts | None
    basemap: Basemap | None
    keys_needed: bool
    limits: LimitFacts


class PolygonFacts(BaseModel):
    """A GeoJSON polygon: rings of [longitude, latitude]."""

    type: Literal["Polygon"] = "Polygon"
    coordinates: list[list[tuple[float, float]]]


class CellFacts(BaseModel):
    """A cell of the database."""

    cell: str
    level: int
    lat: float
    lon: float
    polygon: PolygonFacts
    has_prototype: bool
    has_aerial: bool
    training_photos: int
    aerial: str | None


class Health(BaseModel):
    """A sign of life."""

    status: Literal["ok", "starting"]


def errors(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a route that are errors, by status."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in ("unauthorized", "internal", *codes):
        status, action = CODES[code]
        before = f"{found[status]['description']}; " if status in found else ""
        found[status] = {"model": ErrorBody, "description": f"{before}{code}: {action}"}
    return found


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
    """How a route is documented whose form has the fields of a schema; `others` are its other kinds of body."""
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
    """The schema of a form's field: of several kinds, the one that a text can spell."""
    kinds = [kind for kind in value.get("anyOf", []) if kind.get("type") not in ("null", "array", "object")]
    if not kinds:
        return value
    return {**{key: part for key, part in value.items() if key not in ("anyOf", "default")}, **kinds[0]}

"""What the service is asked and what it answers, as OpenAPI documents it. Degrees WGS84, metres, tokens of S2 cells."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cellcode.client.answers import Claim, Heat, Metadata, Searched
from cellcode.serving.problems import ErrorFacts
from cellcode.serving.settings import Basemap

Latitude = Annotated[float, Field(ge=-90, le=90)]
Longitude = Annotated[float, Field(ge=-180, le=180)]
Heading = Annotated[float, Field(ge=0, le=360, description="degrees clockwise from north; echoed, not used")]
Top = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]


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

    radius_50_m: float = Field(description="half of such photos are within this distance of the answer")
    radius_90_m: float = Field(description="90 % of such photos are")
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

"""Limits of the service, in one place."""

import os
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellcode.errors import UsageError


class Basemap(BaseModel):
    """An online map that the page may show when its user turns it on."""

    model_config = ConfigDict(frozen=True)

    url: str = Field("https://tile.openstreetmap.org/{z}/{x}/{y}.png", pattern=r"^https://[^/\s;,'\"]+/\S*\{z\}\S*$")
    attribution: str = "© OpenStreetMap contributors"

    @property
    def origin(self) -> str:
        """Scheme and host, as a content security policy names them."""
        return "/".join(self.url.split("/")[:3])


class Settings(BaseModel):
    """What one service accepts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    photo_bytes: int = Field(20_000_000, ge=1, description="of one photo's file")
    request_bytes: int = Field(60_000_000, ge=1, description="of all photos of one request but a batch")
    photo_pixels: int = Field(50_000_000, ge=1, description="of one photo, as its header says, before it is decoded")
    photos: int = Field(16, ge=1, description="in one request to locate")
    batch_photos: int = Field(1000, ge=1, description="in one batch")
    region_vertices: int = Field(2000, ge=4, description="of a region's polygons")
    top: int = Field(100, ge=1, description="candidates of an answer")
    heat_cells: int = Field(10_000, ge=4, description="polygons of a heat map")
    # Of more cells than these, a heat map shows the best `heat_cells`.
    heat_reach: int = Field(200_000, ge=1, description="cells up to which a heat map is made of all")
    body_bytes: int = Field(1_000_000_000, ge=1, description="of all requests together, in memory; more are refused")
    connections: int = Field(700, ge=1, description="open; beyond, those silent longest are closed; below `ulimit -n`")
    idle_seconds: float = Field(10.0, gt=0, description="until a client that neither sends nor reads is given up")
    photo_seconds: float = Field(60.0, gt=0, description="for a client to send the next photo of a batch")
    request_seconds: float = Field(30.0, gt=0, description="until a request to locate or verify is given up")
    batch_seconds: float = Field(3600.0, gt=0, description="until a batch is given up")
    requests: int = Field(128, ge=1, description="with photos, at work at the same time")
    queue: int = Field(256, ge=1, description="photos decoded and waiting for the encoder")
    encoder_batch: int = Field(16, ge=1, description="photos in one call of the encoder")
    encoder_calls: int = Field(2, ge=1, description="calls of the encoder at the same time, which share the cores")
    decoders: int = Field(default_factory=lambda: min(os.cpu_count() or 1, 8) + 2, ge=1, description="worker processes")
    decode_seconds: float = Field(10.0, gt=0, description="until a photo is given up that takes so long to decode")
    rate_per_minute: float | None = Field(None, gt=0, description="photos per minute of one key, or of one address")
    imagery_min_zoom: int = Field(12, ge=0, description="coarsest tiles of the imagery; lower ones read far more of it")
    imagery_max_zoom: int = Field(19, ge=0)
    basemap: Basemap | None = Basemap()
    cors: tuple[str, ...] = Field((), description="origins of other pages that may use the API; none by default")


def parse(overrides: Sequence[str], **options: Any) -> Settings:
    """Return settings of a command line.

    Args:
        overrides: "name=value".
        options: by name, None as if it were not given; a basemap is given as its URL template, "none" for none.

    Raises:
        UsageError: an unknown name, or a value that does not fit.
    """
    values = {name: value for name, value in options.items() if value is not None}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set {text}: a limit is given as name=value")
        values[name] = value
    if isinstance(url := values.get("basemap"), str):
        named = {} if url == Basemap().url else {"attribution": ""}
        values["basemap"] = None if url == "none" else {"url": url, **named}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        known = ", ".join(Settings.model_fields)
        said = f"unknown limit; valid limits: {known}" if first["type"] == "extra_forbidden" else first["msg"]
        raise UsageError(f"{name}: {said}") from None

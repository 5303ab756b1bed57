"""Everything that can be set when photos are ingested; the command line, Python and every source use this one model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cellcode.errors import UsageError
from cellcode.geography import Region
from cellcode.http import Politeness
from cellcode.photos.reading.panorama import PanoramaRule
from cellcode.photos.table.item import Selection, utc
from cellcode.photos.table.settings import Settings

Check = Literal["decode", "header", "none"]
_EVERY_SOURCE = ("since", "until", "max_photos", "confirm", "allow_missing")


def _moment(of_day: time) -> Callable[[Any], Any]:
    """Return a reader of ISO 8601 text: a date gets a time of day, a time with a zone becomes UTC."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            moment = utc(datetime.fromisoformat(value))
        except ValueError:
            raise UsageError(f"{value} is no date: write a date such as 2024-05-31, or 2024-05-31T12:00") from None
        return datetime.combine(moment, of_day) if len(value.strip()) <= len("2024-05-31") else moment

    return read


def _columns(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    pairs = [word.partition("=") for word in value]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise UsageError(f"--column {wrong[0]}: write NAME=COLUMN, such as lat=latitude")
    return {name.strip(): column.strip() for name, _, column in pairs}


def _panoramas(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        count, fov, pitch = value.split(",")
        return PanoramaRule(int(count), float(fov), float(pitch))
    except ValueError:
        raise UsageError(f"--panoramas {value}: write COUNT,FOV,PITCH, such as 4,90,0") from None


def decline(question: str) -> bool:
    """Answer no: nobody can be asked."""
    return False


class IngestOptions(Settings):
    """How photos are ingested.

    Every source takes since, until, max_photos, confirm and allow_missing, and the further ones that it declares.

    Raises:
        UsageError: an option is unknown, or its value is out of range.
    """

    since: Annotated[datetime | None, BeforeValidator(_moment(time.min))] = Field(
        None, description="First capture date or time (ISO 8601); photos without a date are left out."
    )
    until: Annotated[datetime | None, BeforeValidator(_moment(time.max))] = Field(
        None, description="Last capture date or time; a date includes all of its day."
    )
    max_photos: int | None = Field(None, ge=1, description="Random subset of N photos (deterministic).")
    allow_missing: float = Field(
        0.0, ge=0, le=1, description="Fraction of photos allowed to fail with temporary errors."
    )
    confirm: Callable[[str], bool] = Field(
        decline,
        description="Answers the question asked before more than 2,000 photos or 500 MB are fetched or unpacked.",
    )
    columns: Annotated[Mapping[str, str], BeforeValidator(_columns)] = Field(
        {}, description="NAME=COLUMN, such as lat=Y; may be repeated. NAME= uses no column."
    )
    check: Check = Field(
        "decode",
        description="decode (default) reads every photo, header opens it only, none uses width and height from the list.",
    )
    gpx: tuple[Path, ...] = Field(
        (), description="GPX track that gives photos without a position one by their time; may be repeated."
    )
    track_heading: bool = Field(False, description="Give photos without a heading the direction of the track.")
    camera_zone: str | None = Field(
        None, description="Time zone of the camera's clock, for photos that state none: +02:00 or Europe/Paris."
    )
    clock_offset_s: float = Field(0.0, description="Camera clock correction in seconds.")
    panoramas: Annotated[PanoramaRule | None, BeforeValidator(_panoramas)] = Field(
        None,
        description="COUNT,FOV,PITCH of the views that 360 degree photos are cut into, such as 4,90,0; without it they are "
        "left out.",
    )
    politeness: Politeness = Field(Politeness(), description="Rate, connections and retries for each host.")
    min_width_px: int = Field(480, ge=1, description="Minimum image width in pixels.")
    min_quality: float | None = Field(None, ge=0, le=1, description="Minimum quality score, 0 to 1, from Mapillary.")
    max_accuracy_m: float | None = Field(None, gt=0, description="Maximum stated position error in metres.")

    @model_validator(mode="after")
    def _dates_in_order(self) -> IngestOptions:
        if self.since and self.until and utc(self.since) > utc(self.until):
            raise UsageError(f"since {self.since} is after until {self.until}")
        return self

    def selection(self, region: Region | None) -> Selection:
        """Return which photos of a region are wanted."""
        return Selection(region, self.since, self.until, self.max_photos)

    def refuse_unused(self, uses: Collection[str], source: str) -> None:
        """Refuse options that have no effect, beside those that a source and every source uses: UsageError names one."""
        for name, field in type(self).model_fields.items():
            if name not in (*_EVERY_SOURCE, *uses) and getattr(self, name) != field.default:
                raise UsageError(
                    f"{name} is set, which has no meaning for {source}; its options are {', '.join([*uses, *_EVERY_SOURCE])}"
                )

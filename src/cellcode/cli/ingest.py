"""cellcode ingest."""

from __future__ import annotations

from datetime import datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from cellcode.cli.common import REGION_FORMS
from cellcode.errors import UsageError
from cellcode.photos import IngestOptions

if TYPE_CHECKING:
    from cellcode.photos.reading.panorama import PanoramaRule

_LISTS, _CAMERA, _SERVICES = "Lists and archives", "Folders of photos", "Online services"
_SPLIT = "Splits"


def command(
    source: Annotated[
        str,
        Argument(
            help="A folder of photos; a .csv, .parquet, .geoparquet or .geojson list; osv5m:FOLDER or osv5m:hub; "
            "webdataset:FOLDER; panoramax:[URL]; mapillary:"
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the photo table, and for the photos that are fetched or unpacked.")],
    region: Annotated[str | None, Option(help=REGION_FORMS)] = None,
    since: Annotated[str | None, Option(help="First capture date or time (ISO 8601).")] = None,
    until: Annotated[str | None, Option(help="Last capture date or time; a date means all of its day.")] = None,
    max_photos: Annotated[int | None, Option(help="A random choice of so many, the same at every run.")] = None,
    yes: Annotated[bool, Option("--yes", help="Do not ask before much is fetched or unpacked.")] = False,
    allow_missing: Annotated[float, Option(help="Share of photos that may be missing by passing faults.")] = 0.0,
    column: Annotated[
        list[str] | None,
        Option(help="NAME=COLUMN, such as lat=Y; may be repeated. NAME= takes none.", rich_help_panel=_LISTS),
    ] = None,
    check: Annotated[
        str,
        Option(
            help="decode reads every photo once, header opens it only, none takes width and height of the list.",
            rich_help_panel=_LISTS,
        ),
    ] = "decode",
    gpx: Annotated[
        list[Path] | None,
        Option(help="Track that places photos without a position; may be repeated.", rich_help_panel=_CAMERA),
    ] = None,
    track_heading: Annotated[
        bool, Option("--track-heading", help="Photos without a heading look along it.", rich_help_panel=_CAMERA)
    ] = False,
    camera_zone: Annotated[
        str | None, Option(help="Time zone of the camera: +02:00 or Europe/Paris.", rich_help_panel=_CAMERA)
    ] = None,
    clock_offset_s: Annotated[
        float, Option(help="Seconds to add to the camera's time to have the true one.", rich_help_panel=_CAMERA)
    ] = 0.0,
    panoramas: Annotated[
        str | None,
        Option(
            help="COUNT,FOV,PITCH of the views that 360 degree photos are cut into, such as 4,90,0; else left out.",
            rich_help_panel=_CAMERA,
        ),
    ] = None,
    rate: Annotated[float, Option(min=0.01, help="Requests a second to one host.", rich_help_panel=_SERVICES)] = 10.0,
    connections: Annotated[int, Option(min=1, help="Connections to one host.", rich_help_panel=_SERVICES)] = 4,
    min_width_px: Annotated[int, Option(help="Fetch pictures at least so wide.", rich_help_panel=_SERVICES)] = 480,
    min_quality: Annotated[
        float | None, Option(help="0 to 1, as Mapillary rates photos.", rich_help_panel=_SERVICES)
    ] = None,
    max_accuracy_m: Annotated[
        float | None, Option(help="Stated error of positions, at most.", rich_help_panel=_SERVICES)
    ] = None,
    split: Annotated[
        str | None,
        Option(help="position, date, both or none; without it, a list's own split is kept.", rich_help_panel=_SPLIT),
    ] = None,
    block_m: Annotated[
        float, Option(help="Edge of the blocks of a split by position.", rich_help_panel=_SPLIT)
    ] = 100.0,
    test_share: Annotated[
        float, Option(help="About this share of the photos is tested.", rich_help_panel=_SPLIT)
    ] = 0.1,
    test_dates: Annotated[int, Option(help="Number of last capture days that are tested.", rich_help_panel=_SPLIT)] = 1,
    buffer_m: Annotated[
        float, Option(help="Training photos nearer than this to a tested one are left out.", rich_help_panel=_SPLIT)
    ] = 0.0,
    seed: Annotated[int, Option(help="Seed of the choice of blocks.", rich_help_panel=_SPLIT)] = 0,
) -> None:
    """Fill a photo table; photos that cannot be used go to rejects.csv with the reason.

    What would be fetched or unpacked is told first, and asked for if it is more than 2,000 photos or 500 MB.
    A run that was cut off, or that misses photos by passing faults (exit status 1), goes on where it was.
    """
    from cellcode.geography import Region
    from cellcode.http import Politeness
    from cellcode.photos import SplitRule, ingest
    from cellcode.photos.sources import columns

    rule = SplitRule(split or "position", block_m, test_share, test_dates, buffer_m, seed)  # type: ignore[arg-type]
    if split is None and rule != SplitRule():
        raise UsageError("--block-m, --test-share, --test-dates, --buffer-m and --seed need --split")
    options = IngestOptions(
        columns=columns.parse(column or []),
        check=check,  # type: ignore[arg-type]  # it checks
        since=_moment("--since", since, time.min),
        until=_moment("--until", until, time.max),
        max_photos=max_photos,
        gpx=tuple(gpx or ()),
        track_heading=track_heading,
        camera_zone=camera_zone,
        clock_offset_s=clock_offset_s,
        panoramas=_panoramas(panoramas),
        politeness=Politeness(requests_per_s=rate, connections=connections),
        min_width_px=min_width_px,
        min_quality=min_quality,
        max_accuracy_m=max_accuracy_m,
        confirm=(lambda _: True) if yes else _ask,
        allow_missing=allow_missing,
    )
    where = Region.parse(region) if region is not None else None
    ingest(source, out=out, region=where, split=rule if split is not None else None, options=options)
    print(out)


def _ask(question: str) -> bool:
    """Ask at a terminal; elsewhere nobody can answer."""
    import sys

    from typer import confirm

    return sys.stdin.isatty() and confirm(question, err=True)


def _moment(flag: str, text: str | None, of_day: time) -> datetime | None:
    """Read a date, which gets a time of day, or a time; with a zone it becomes UTC."""
    if text is None:
        return None
    from cellcode.photos.table.selection import utc

    try:
        moment = utc(datetime.fromisoformat(text))
    except ValueError:
        raise UsageError(f"{flag} {text}: write a date such as 2024-05-31, or 2024-05-31T12:00") from None
    return datetime.combine(moment, of_day) if len(text.strip()) <= len("2024-05-31") else moment


def _panoramas(text: str | None) -> PanoramaRule | None:
    if text is None:
        return None
    from cellcode.photos.reading.panorama import PanoramaRule

    try:
        count, fov, pitch = text.split(",")
        return PanoramaRule(int(count), float(fov), float(pitch))
    except ValueError:
        raise UsageError(f"--panoramas {text}: write COUNT,FOV,PITCH, such as 4,90,0") from None

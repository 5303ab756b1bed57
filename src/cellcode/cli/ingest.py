"""cellcode ingest: every option is one of `IngestOptions` or `SplitRule`, which have the descriptions, defaults and limits."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Context, Option

from cellcode.cli.common import REGION_FORMS
from cellcode.errors import UsageError
from cellcode.http import Politeness
from cellcode.photos import IngestOptions, SplitRule
from cellcode.photos.table.settings import Settings

S = TypeVar("S", bound=Settings)
_LISTS, _FOLDERS, _SERVICES, _SPLITS = "Lists and archives", "Folders of photos", "Online services", "Splits"


def _option(name: str, panel: str | None = None, *flags: str, model: type[Settings] = IngestOptions) -> Any:
    """Return the option of a field. Its value is None where it is not given, so that the model's default counts."""
    field = model.model_fields[name]
    shown = isinstance(field.default, int | float) and not isinstance(field.default, bool)
    return Option(
        *flags, help=field.description, rich_help_panel=panel, show_default=str(field.default) if shown else False
    )


def _split(name: str, *flags: str) -> Any:
    return _option(name, _SPLITS, *flags, model=SplitRule)


def command(
    context: Context,
    source: Annotated[
        str,
        Argument(
            help="A folder of photos; a .csv, .parquet, .geoparquet or .geojson list; osv5m:FOLDER or osv5m:hub; "
            "webdataset:FOLDER; panoramax:[URL]; mapillary:; a plug-in as MODULE:ARGUMENT or MODULE:NAME?ARGUMENT"
        ),
    ],
    out: Annotated[Path, Option(help="Folder for the photo table, and for the photos that are fetched or unpacked.")],
    region: Annotated[str | None, Option(help=REGION_FORMS)] = None,
    since: Annotated[str | None, _option("since")] = None,
    until: Annotated[str | None, _option("until")] = None,
    max_photos: Annotated[int | None, _option("max_photos")] = None,
    yes: Annotated[bool, Option("--yes", help="Fetch and unpack without asking.")] = False,
    allow_missing: Annotated[float | None, _option("allow_missing")] = None,
    columns: Annotated[list[str] | None, _option("columns", _LISTS, "--column")] = None,
    check: Annotated[str | None, _option("check", _LISTS)] = None,
    gpx: Annotated[list[Path] | None, _option("gpx", _FOLDERS)] = None,
    track_heading: Annotated[bool | None, _option("track_heading", _FOLDERS, "--track-heading")] = None,
    camera_zone: Annotated[str | None, _option("camera_zone", _FOLDERS)] = None,
    clock_offset_s: Annotated[float | None, _option("clock_offset_s", _FOLDERS)] = None,
    panoramas: Annotated[str | None, _option("panoramas", _FOLDERS)] = None,
    rate: Annotated[float, Option(min=0.01, help="Requests per second per host.", rich_help_panel=_SERVICES)] = 10.0,
    connections: Annotated[int, Option(min=1, help="Connections per host.", rich_help_panel=_SERVICES)] = 4,
    min_width_px: Annotated[int | None, _option("min_width_px", _SERVICES)] = None,
    min_quality: Annotated[float | None, _option("min_quality", _SERVICES)] = None,
    max_accuracy_m: Annotated[float | None, _option("max_accuracy_m", _SERVICES)] = None,
    kind: Annotated[str | None, _split("kind", "--split")] = None,
    block_m: Annotated[float | None, _split("block_m")] = None,
    test_share: Annotated[float | None, _split("test_share")] = None,
    test_dates: Annotated[int | None, _split("test_dates")] = None,
    buffer_m: Annotated[float | None, _split("buffer_m")] = None,
    seed: Annotated[int | None, _split("seed")] = None,
) -> None:
    """Write a photo table; photos that cannot be used go to rejects.csv with the reason.

    Shows the download size and asks for confirmation above 2,000 photos or 500 MB. Resumes when run again; retries photos
    that failed with temporary errors (exit status 1).
    """
    from cellcode.photos import ingest

    rule = _given(context, SplitRule)
    if kind is None and rule != SplitRule():
        raise UsageError("--block-m, --test-share, --test-dates, --buffer-m and --seed need --split")
    politeness = Politeness(requests_per_s=rate, connections=connections)
    options = _given(context, IngestOptions, politeness=politeness, confirm=(lambda _: True) if yes else _ask)
    ingest(source, out=out, region=region, split=rule if kind is not None else None, options=options)
    print(out)


def _given(context: Context, model: type[S], **more: Any) -> S:
    """Return a model of the options of its names that were given."""
    values = {name: value for name, value in context.params.items() if name in model.model_fields}
    return model(**{name: value for name, value in values.items() if value not in (None, [], ())}, **more)


def _ask(question: str) -> bool:
    """Ask at a terminal; elsewhere nobody can answer."""
    import sys

    from typer import confirm

    return sys.stdin.isatty() and confirm(question, err=True)

"""Commands that make, fetch and list photos and imagery."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from typer import Argument, Context, Option

from cellcode.cli.common import REGION_FORMS, Region
from cellcode.errors import UsageError
from cellcode.http import Politeness
from cellcode.photos import IngestOptions, SplitRule
from cellcode.photos.table.settings import Settings


def simulate(
    out: Annotated[Path, Option(help="Folder for photos/, aerial.tif and truth.csv.")],
    size_km: Annotated[float, Option(help="Edge of the square world.")] = 4.0,
    photos: Annotated[int, Option(help="Number of photos.")] = 12_000,
    seed: Annotated[int, Option(help="Seed; another seed gives another world.")] = 0,
    look: Annotated[str, Option(help="Style of facades, roofs, plants and cameras: north or south.")] = "north",
    coast: Annotated[bool, Option("--coast", help="The west of the world is sea.")] = False,
) -> None:
    """Render a region: JPEGs with EXIF, an aerial GeoTIFF, the truth."""
    from cellcode.simulation import simulate

    made = simulate(out, size_km=size_km, photos=photos, seed=seed, look=look, coast=coast)
    print(made.out)


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


def ingest(
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
    import sys

    from typer import confirm

    return sys.stdin.isatty() and confirm(question, err=True)


def pack(
    photos: Annotated[Path, Argument(help="Photo table.")],
    out: Annotated[Path, Option(help="Folder for the shards; an interrupted packing into it is continued.")],
    config: Annotated[
        Path | None,
        Option(
            help="The configuration of the training: its cells group the photos, its validation photos are set apart, "
            "and images are encoded at its photo size times --factor. Without it images are copied as they are."
        ),
    ] = None,
    factor: Annotated[
        float, Option(min=1, help="Width and height of packed images, as a multiple of the configuration's.")
    ] = 2.0,
    originals: Annotated[bool, Option("--originals", help="Copy images as they are, with --config too.")] = False,
    shard_photos: Annotated[int, Option(min=1, help="Photos of a shard, about.")] = 4096,
    group_photos: Annotated[int, Option(min=1, help="Photos of one place that lie together, at most.")] = 8,
    quality: Annotated[int, Option(min=1, max=100, help="Of JPEGs that are encoded again.")] = 90,
    seed: Annotated[int, Option(help="Of the order.")] = 0,
) -> None:
    """Pack a photo table into shards that a training reads from end to end, from disk or a store such as S3."""
    from cellcode import config as configuration
    from cellcode.config import Config
    from cellcode.photos.packed import pack
    from cellcode.training.setup.data_setup import set_apart

    settings = configuration.load(config) if config is not None else Config()
    width, height = round(settings.photo.width_px * factor), round(settings.photo.height_px * factor)
    size_px = (width, height) if config is not None and not originals else None
    packing = pack.Packing(settings.levels.cell, group_photos, shard_photos, size_px, settings.photo.fit, quality, seed)
    choose = partial(set_apart, config=settings) if config is not None else None
    pack.run(photos, packing, out=out, set_apart=choose)
    print(out)


def presets() -> None:
    """List the imagery that --aerial takes by name, with licences and the providers' conditions."""
    from cellcode.aerial.tiles.presets import presets

    for preset in presets():
        west, south, east, north = preset.bounds
        print(f"{preset.name}: {preset.title}")
        print(f"  licence      {preset.licence}; {preset.attribution}")
        print(f"  bounds       {south:g} to {north:g} N, {west:g} to {east:g} E, up to zoom {preset.max_zoom}")
        print(f"  bulk use     {preset.bulk}; at most {preset.requests_per_s:g} requests per second")
        if not preset.met:
            print("  untested against the live service: compare a first crop with a map")


def pmtiles(
    aerial: Annotated[str, Argument(help="Aerial imagery: a path, a service or a preset (docs/aerial.md).")],
    out: Annotated[Path, Option(help="The .pmtiles file to write.")],
    region: Region = None,
    max_zoom: Annotated[int, Option(help="Finest zoom; at 52 degrees zoom 17 has 0.7 m per pixel.")] = 17,
    min_zoom: Annotated[int | None, Option(help="Coarsest zoom; default: eight less than the finest.")] = None,
) -> None:
    """Write the imagery of a region as one PMTiles file, for a map in a browser without a tile server."""
    from cellcode.aerial import open_source
    from cellcode.aerial.tiles import pmtiles

    pmtiles.export(open_source(aerial), region, out, max_zoom=max_zoom, min_zoom=min_zoom)
    print(out)

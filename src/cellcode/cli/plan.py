"""cellcode plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from cellcode.cli.common import REGION_FORMS, Aerial, AsJson, Device, Overrides, Precision, machine

if TYPE_CHECKING:
    from cellcode.config import Config
    from cellcode.geography import Region
    from cellcode.planning import Photos


def command(
    region: Annotated[str, Option(help=REGION_FORMS)],
    config: Annotated[Path, Option(help="A YAML configuration, or the name of a shipped one.")] = Path("town"),
    photos: Annotated[
        str | None, Option(help="A photo table, or panoramax:... or mapillary:..., whose listing is requested.")
    ] = None,
    photos_count: Annotated[
        int | None, Option(help="Instead of --photos: approximate number of photos; makes no request.")
    ] = None,
    aerial: Aerial = None,
    no_aerial: Annotated[bool, Option("--no-aerial", help="Without imagery: prototypes only.")] = False,
    mbit_per_s: Annotated[float, Option(help="Download rate.", min=0.001)] = 50.0,
    processes: Annotated[
        int | None, Option(help="Estimate a training on this many devices: memory, network and time per step.", min=1)
    ] = None,
    tflops: Annotated[
        float,
        Option(help="With --processes: sustained TFLOP/s per device, about a third of its data sheet.", min=0.001),
    ] = 100.0,
    gbit_per_s: Annotated[
        float, Option(help="With --processes: link rate of a device to the others.", min=0.001)
    ] = 100.0,
    overrides: Overrides = None,
    as_json: AsJson = False,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Estimate what a region takes before anything is fetched: cells, photos, imagery, bytes and time on this machine.

    Without --aerial, a service of map tiles is assumed.
    """
    import json

    from cellcode import config as configuration
    from cellcode import planning
    from cellcode.errors import UsageError
    from cellcode.geography import Region

    if (photos is None) == (photos_count is None):
        raise UsageError("give --photos or --photos-count, one of them")
    if aerial is not None and no_aerial:
        raise UsageError("give --aerial or --no-aerial, not both")
    where, settings = Region.parse(region), configuration.load(config, overrides or ())
    settings = configuration.resolve(settings, machine=machine(device, precision, settings.machine))
    plan = planning.make(
        where,
        settings,
        _photos(photos, photos_count, where, settings),
        aerial,
        with_imagery=not no_aerial,
        mbit_per_s=mbit_per_s,
        tiles_per_s=_tiles_per_s(aerial),
        processes=processes,
        device=planning.Device(tflops, gbit_per_s),
    )
    print(json.dumps(plan.to_json()) if as_json else plan.table())


def _tiles_per_s(aerial: str | None) -> float:
    from cellcode.aerial.tiles.presets import presets
    from cellcode.http import Politeness

    return next((preset.requests_per_s for preset in presets() if preset.name == aerial), Politeness.requests_per_s)


def _photos(spec: str | None, count: int | None, region: Region, config: Config) -> Photos:
    from cellcode.photos.sources.registry import PHOTO_SOURCES
    from cellcode.planning import Photos

    if spec is None:
        assert count is not None  # the command requires one of them
        return Photos.of_count(count)
    if PHOTO_SOURCES.knows(spec) or PHOTO_SOURCES.is_plugin(spec):
        return Photos.of_service(spec, region)
    return Photos.of_table(spec, region, config)

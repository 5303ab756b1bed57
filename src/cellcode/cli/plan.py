"""cellcode plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from cellcode.cli.common import REGION_FORMS

if TYPE_CHECKING:
    from cellcode.config import Config
    from cellcode.geography import Region
    from cellcode.planning import Photos


def command(
    region: Annotated[str, Option(help=REGION_FORMS)],
    config: Annotated[Path | None, Option(help="A YAML configuration; without it, that of configs/town.yaml.")] = None,
    photos: Annotated[
        str | None, Option(help="A photo table, or panoramax:... or mapillary:..., which is asked what it has.")
    ] = None,
    photos_count: Annotated[int | None, Option(help="In place of --photos: about how many photos there are.")] = None,
    aerial: Annotated[
        str | None, Option(help="The imagery, as for train and build; without it, a service of map tiles is assumed.")
    ] = None,
    no_aerial: Annotated[bool, Option("--no-aerial", help="Without imagery: prototypes only.")] = False,
    mbit_per_s: Annotated[float, Option(help="Rate of the connection.", min=0.001)] = 50.0,
    processes: Annotated[
        int | None,
        Option(help="Derive a training on so many devices, on paper: memory, network and time of a step.", min=1),
    ] = None,
    tflops: Annotated[
        float, Option(help="With --processes: what a device reaches, about a third of its data sheet.", min=0.001)
    ] = 100.0,
    gbit_per_s: Annotated[
        float, Option(help="With --processes: rate of a device's link to others.", min=0.001)
    ] = 100.0,
    overrides: Annotated[list[str] | None, Option("--set", help="Override a setting: a.b=c; may be repeated.")] = None,
    as_json: Annotated[bool, Option("--json", help="Print JSON: bytes and seconds.")] = False,
) -> None:
    """Say what a region will take before anything is fetched: cells, photos, imagery, bytes and time on this machine."""
    import json

    from cellcode.aerial import open_source
    from cellcode.errors import UsageError
    from cellcode.geography import Region
    from cellcode.planning import Device, make

    if (photos is None) == (photos_count is None):
        raise UsageError("give --photos or --photos-count, one of them")
    if aerial is not None and no_aerial:
        raise UsageError("give --aerial or --no-aerial, not both")
    where, settings = Region.parse(region), _config(config, overrides or [])
    plan = make(
        where,
        settings,
        _photos(photos, photos_count, where, settings),
        open_source(aerial) if aerial is not None else None,
        with_imagery=not no_aerial,
        mbit_per_s=mbit_per_s,
        tiles_per_s=_tiles_per_s(aerial),
        processes=processes,
        device=Device(tflops, gbit_per_s),
    )
    print(json.dumps(plan.to_json()) if as_json else plan.table())


def _config(path: Path | None, overrides: list[str]) -> Config:
    from importlib.resources import as_file, files

    from cellcode import config as configuration

    if path is not None:
        return configuration.load(path, overrides)
    with as_file(files("cellcode") / "configs" / "town.yaml") as town:
        return configuration.load(town, overrides)


def _tiles_per_s(aerial: str | None) -> float:
    from cellcode.aerial.tiles.presets import presets
    from cellcode.http import Politeness

    return next((preset.requests_per_s for preset in presets() if preset.name == aerial), Politeness.requests_per_s)


def _photos(spec: str | None, count: int | None, region: Region, config: Config) -> Photos:
    from cellcode.photos.sources.registry import PHOTO_SOURCES
    from cellcode.planning import Photos

    if spec is None:
        assert count is not None  # the command asks for one of them
        return Photos.of_count(count)
    if PHOTO_SOURCES.knows(spec) or PHOTO_SOURCES.is_plugin(spec):
        return Photos.of_service(spec, region)
    return Photos.of_table(spec, region, config)

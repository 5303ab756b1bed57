"""cellcode pack."""

from functools import partial
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def command(
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
    size_px = None
    if config is not None and not originals:
        size_px = (round(settings.photo.width_px * factor), round(settings.photo.height_px * factor))
    packing = pack.Packing(settings.levels.cell, group_photos, shard_photos, size_px, settings.photo.fit, quality, seed)
    choose = partial(set_apart, config=settings) if config is not None else None
    pack.run(photos, packing, out=out, set_apart=choose)
    print(out)

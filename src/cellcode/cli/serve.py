"""cellcode serve."""

from pathlib import Path
from typing import Annotated

from typer import Option

from cellcode.cli.common import Aerial, Cells, Cluster, Device, Precision, machine


def command(
    database: Cells,
    host: Annotated[str, Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    aerial: Aerial = None,
    keys: Annotated[Path | None, Option(help="File of API keys, one per line.")] = None,
    rate: Annotated[float | None, Option(help="Photos per minute of one key, or of one address.")] = None,
    cors: Annotated[
        list[str] | None, Option(help="Origin of another page that may use the API; repeat for more.")
    ] = None,
    basemap: Annotated[
        str | None,
        Option(
            help="https:// template of the online map that the page offers, by default OpenStreetMap's; none: offer none."
        ),
    ] = None,
    engine: Annotated[str, Option(help="What runs the encoder: torch, or openvino (extra openvino).")] = "torch",
    cluster: Cluster = None,
    overrides: Annotated[
        list[str] | None, Option("--set", help="A limit, as photo_bytes=5000000; repeat for more.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
) -> None:
    """Serve a page and an HTTP API that locate photos."""
    from cellcode.errors import MissingExtraError

    try:
        from cellcode.serving import run, settings
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] == "cellcode":
            raise
        raise MissingExtraError(error.name or "fastapi", "serve", "the service") from None
    limits = settings.parse(overrides or [], rate_per_minute=rate, cors=cors, basemap=basemap)
    run.serve(
        database,
        limits,
        host=host,
        port=port,
        aerial=aerial,
        key_file=keys,
        engine=engine,
        cluster=cluster,
        machine=machine(device, precision),
    )

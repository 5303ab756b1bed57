"""From the text of a command line to a service."""

from __future__ import annotations

from cellcode.errors import UsageError
from cellcode.http import Client
from cellcode.photos.sources.online import mapillary, panoramax
from cellcode.photos.sources.online.service import Service

PREFIXES = (panoramax.PREFIX, mapillary.PREFIX)


def open_service(spec: str, client: Client) -> Service:
    """Return the service of `panoramax:...` or `mapillary:...`.

    Raises:
        UsageError: another kind of source, or an address that is none.
        InputError: a token is missing.
    """
    if spec.startswith(panoramax.PREFIX):
        return panoramax.Panoramax(spec, client)
    if spec.startswith(mapillary.PREFIX):
        return mapillary.Mapillary(spec, client)
    raise UsageError(f"{spec}: online photos come from {' or '.join(PREFIXES)}")

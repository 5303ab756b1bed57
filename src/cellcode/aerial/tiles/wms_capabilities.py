"""The capabilities of a WMS: what of a layer a client has to know."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from cellcode.aerial.tiles.grid import Box
from cellcode.aerial.tiles.service import WORLD
from cellcode.aerial.tiles.xml_text import all_of, child, child_text, children, local
from cellcode.errors import InputError, UsageError

_NOTHING = {"none", "no conditions apply", "no fees", "-", "n/a"}


@dataclass(frozen=True)
class Capabilities:
    """What a service says of one layer.

    Attributes:
        version: of the document.
        crs: names of the reference systems it renders, as it spells them; empty if it names none.
        bounds: west, south, east, north in degrees.
        max_px: pixels along an image that it renders at most, None where it does not say.
        formats: of images.
        attribution, licence: may be empty.
    """

    version: str
    crs: tuple[str, ...]
    bounds: Box
    max_px: int | None
    formats: tuple[str, ...]
    attribution: str
    licence: str


def read_capabilities(document: Element, layers: str, shown: str) -> Capabilities:
    """Read what holds for the layers of a request, `A` or `A,B`; of several, the first is described.

    Raises:
        InputError: the document is not one of a WMS.
        UsageError: unknown layer; the sentence names the valid ones.
    """
    service, capability = child(document, "Service"), child(document, "Capability")
    if service is None or capability is None:
        raise InputError(f"{shown} did not answer with the capabilities of a WMS")
    line = _line(capability, layers.split(",")[0])
    if not line:
        names = [child_text(each, "Name") for each in all_of(capability, "Layer")]
        some = ", ".join(sorted(filter(None, names))[:20])
        raise UsageError(f"{shown} has no layer {layers or '(none was named)'}; write LAYERS=..., one of {some}")
    # Servers before 1.1.1 list several in one element.
    named = [each.text or "" for layer in line for kind in ("CRS", "SRS") for each in children(layer, kind)]
    sizes = [child_text(service, name) for name in ("MaxWidth", "MaxHeight")]
    limits = [int(size) for size in sizes if size.isdigit() and int(size) > 0]
    terms = (child_text(service, name) for name in ("AccessConstraints", "Fees"))
    get_map = next(iter(all_of(capability, "GetMap")), None)
    return Capabilities(
        version=document.get("version", ""),
        crs=tuple(dict.fromkeys(" ".join(named).split())),
        bounds=_bounds(line),
        max_px=min(limits, default=None),
        formats=tuple((each.text or "").strip() for each in children(get_map, "Format")) if get_map is not None else (),
        attribution=_attribution(line, service),
        licence="; ".join(text for text in terms if text and text.lower() not in _NOTHING),
    )


def _line(capability: Element, name: str) -> list[Element]:
    """The layer of a name, then those it lies in, which it inherits from; empty if there is none."""

    def search(element: Element, above: list[Element]) -> list[Element]:
        for layer in children(element, "Layer"):
            line = [layer, *above]
            if child_text(layer, "Name") == name:
                return line
            below = search(layer, line)
            if below:
                return below
        return []

    return search(capability, [])


def _bounds(line: list[Element]) -> Box:
    """The nearest box in degrees; both versions give it longitude first."""
    for layer in line:
        for box in layer:
            try:
                if local(box) == "EX_GeographicBoundingBox":
                    sides = ("westBoundLongitude", "southBoundLatitude", "eastBoundLongitude", "northBoundLatitude")
                    west, south, east, north = (float(child_text(box, side)) for side in sides)
                elif local(box) == "LatLonBoundingBox":
                    west, south, east, north = (float(box.get(side, "")) for side in ("minx", "miny", "maxx", "maxy"))
                else:
                    continue
            except ValueError:
                continue
            if west < east and south < north and abs(south) <= 90 and abs(north) <= 90:
                return max(west, -180.0), max(south, WORLD[1]), min(east, 180.0), min(north, WORLD[3])
    return WORLD


def _attribution(line: list[Element], service: Element) -> str:
    for layer in line:
        named = child(layer, "Attribution")
        if named is not None and child_text(named, "Title"):
            return child_text(named, "Title")
    organisation = next((each.text or "" for each in all_of(service, "ContactOrganization")), "")
    return organisation.strip() or child_text(service, "Title")

"""Reading a service's XML by local names: prefixes and versions of namespaces differ between servers."""

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from cellcode.errors import InputError


def parse(body: bytes, shown: str) -> Element:
    """Parse a document that came from anyone; InputError, which names it as `shown`, if it is not XML or declares entities."""
    try:
        document: Element = fromstring(body)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise InputError(f"{shown} did not answer with a document that can be read ({type(error).__name__})") from None
    return document


def local(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def all_of(element: Element, name: str) -> list[Element]:
    """Return the descendants of a local name, in order."""
    return [each for each in element.iter() if local(each) == name and each is not element]


def children(element: Element, name: str) -> Iterator[Element]:
    """Yield the children of a local name."""
    return (each for each in element if local(each) == name)


def child(element: Element, name: str) -> Element | None:
    """Return the first child of a local name."""
    return next(children(element, name), None)


def child_text(element: Element | None, name: str) -> str:
    """Return the text of the first child of a local name; empty if there is none, or no element."""
    found = child(element, name) if element is not None else None
    return (found.text or "").strip() if found is not None else ""

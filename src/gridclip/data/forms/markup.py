"""XML of annotation tools, read without what could make it cost more than its length."""

from pathlib import Path
from xml.etree import ElementTree

from gridclip.io.errors import InputError
from gridclip.io.json_table import read_content

Element = ElementTree.Element


def read_xml(file: Path) -> Element:
    """Reads a file of XML; one that declares entities, which no annotation tool writes, is refused.

    Raises:
        InputError: if it is none, or is cut short.
    """
    content = read_content(file)
    fix = "write the file again, as its tool does"
    if b"<!ENTITY" in content or b"<!DOCTYPE" in content:
        raise InputError("declares a document type or entities", fix=fix, file=file)
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"is no whole XML ({error})", fix=fix, file=file) from error


def text_of(element: Element | None, path: str) -> str:
    """Returns the text of a part, trimmed; empty if there is none."""
    found = element.findtext(path) if element is not None else None
    return (found or "").strip()


def numbers_of(element: Element | None, *paths: str) -> tuple[float, ...] | None:
    """Returns the numbers of several parts; None if one is absent or no number."""
    try:
        return tuple(float(text_of(element, path)) for path in paths)
    except ValueError:
        return None


def attributes_of(element: Element, *keys: str) -> tuple[float, ...] | None:
    """Returns the numbers of several attributes; None if one is absent or no number."""
    try:
        return tuple(float(element.get(key, "")) for key in keys)
    except ValueError:
        return None

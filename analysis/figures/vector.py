"""Figures as SVG inside a page: they follow its colours, and a filter can hide a network's or a head's marks."""

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.figure import Figure

SVG, LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
PIXELS_PER_POINT = 4 / 3
MARK = "mark|"
DARK = 260  # of red, green and blue together, 0..255 each
GREY = re.compile(r"#([0-9a-f]{2})\1\1")
FONT = re.compile(r"(?P<weight>bold\s+)?(?P<size>[\d.]+px)\s+(?P<family>.*)")


def tag(artist: Artist, network: str, head: str) -> None:
    """Say which features and head an artist shows; in the page they become `data-network` and `data-head`."""
    artist.set_gid(f"{MARK}{network}|{head}")


def inline_svg(drawn: Figure, prefix: str) -> str:
    """A figure as an `svg` element for an HTML page.

    Text stays text. Black, white and greys become the page's colours. There are no `style` attributes, which the page's
    Content-Security-Policy forbids.

    Args:
        drawn: in the house style.
        prefix: of the ids, different for each figure of a page.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "frozenbench"}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}style", f"{SVG}metadata"):
                parent.remove(child)
    used = {name for element in root.iter() for name in _references(element)}
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        _use_attributes(element)
        _rename(element, prefix, used)
    width, height = (float(side) for side in root.attrib["viewBox"].split()[2:])
    root.attrib.pop("version", None)
    root.set("width", f"{width * PIXELS_PER_POINT:.0f}")
    root.set("height", f"{height * PIXELS_PER_POINT:.0f}")
    root.set("aria-hidden", "true")  # the caption and the text beside it say what is to be seen
    return ElementTree.tostring(root, encoding="unicode").replace("\n", " ")


def _use_attributes(element: ElementTree.Element) -> None:
    """Write the properties of a `style` attribute as attributes of their own, with the page's colours."""
    properties: dict[str, str] = {}
    for declaration in element.attrib.pop("style", "").split(";"):
        name, colon, value = (part.strip() for part in declaration.partition(":"))
        if name == "font" and (font := FONT.match(value)):
            properties |= {"font-size": font["size"]} | ({"font-weight": "bold"} if font["weight"] else {})
        elif colon and name not in ("font", "font-family"):
            properties[name] = value
    for name, value in properties.items():
        element.set(name, _page_colour(value) if name in ("fill", "stroke") else value)


def _page_colour(colour: str) -> str:
    """The page's colour in place of black, white and greys; other colours stay."""
    grey = GREY.fullmatch(colour)
    if not grey:
        return f"light-dark({colour}, {_lighter(colour)})" if _is_dark(colour) else colour
    light = int(grey[1], 16)
    if light == 0:
        return "currentColor"
    if light == 255:
        return "var(--page)"
    if light >= 0xE0:
        return "var(--panel)"
    return "var(--soft)" if light < 0xA0 else "var(--line)"


def _is_dark(colour: str) -> bool:
    """Whether a colour is hard to see on the dark page."""
    return colour.startswith("#") and sum(_parts(colour)) < DARK


def _lighter(colour: str) -> str:
    """The colour mixed with as much white."""
    return "#" + "".join(f"{(part + 255) // 2:02x}" for part in _parts(colour))


def _parts(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def _references(element: ElementTree.Element) -> list[str]:
    """The ids that an element refers to."""
    link = element.get(LINK, "").removeprefix("#")
    found = re.findall(r"url\(#(.+?)\)", " ".join(element.attrib.values()))
    return [*found, link] if link else found


def _rename(element: ElementTree.Element, prefix: str, used: set[str]) -> None:
    """Keep the ids that are referred to, with a prefix; ids that `tag` made become data attributes."""
    own: Any = element.attrib.pop("id", "")
    if own in used:
        element.set("id", f"{prefix}-{own}")
    elif own.startswith(MARK):
        network, _, head = own.removeprefix(MARK).rpartition("|")
        element.set("data-network", network)
        element.set("data-head", head)
    if link := element.attrib.pop(LINK, ""):
        element.set("href", f"#{prefix}-{link.removeprefix('#')}")
    for name, value in element.attrib.items():
        if "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))

"""Draws docs/rooms.svg, the picture of the rooms, from the rows in tests/test_structure.py."""

import sys
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent / "tests"), str(DOCS.parent)]

from test_structure import CORE, DOORS, ROOMS  # noqa: E402  (needs the path above)

__all__ = ["DOORS", "ROOMS", "picture"]

WIDTH, HEIGHT = 900, 480
BOX = (128, 34)
COLUMNS = {"featurize": 0, "classify": 300, "analysis": 600}  # left edge of each package
# Where a room stands inside its package: the middle of its box.
PLACES = {
    "featurize.extraction": (150, 110),
    "featurize.engines": (75, 168),
    "featurize.winograd": (225, 162),
    "featurize.runtimes": (75, 223),
    "featurize.networks": (75, 278),
    "featurize.images": (225, 272),
    "featurize.formats": (225, 217),
    "featurize.cache": (150, 330),
    "classify.training": (222, 110),
    "classify.predict": (225, 158),
    "classify.large": (75, 172),
    "classify.heads": (75, 235),
    "classify.estimators": (75, 290),
    "classify.suspects": (225, 340),
    "classify.runs": (75, 345),
    "classify.guarantee": (225, 208),
    "classify.graphs": (72, 110),
    "classify.statistics": (225, 265),
    "analysis.report": (75, 110),
    "analysis.serving": (225, 158),
    "analysis.findings": (75, 190),
    "analysis.figures": (225, 207),
    "analysis.frame": (225, 330),
    "analysis.audit": (75, 250),
    "analysis.page": (75, 318),
}
DOORS_LINE = 40  # letters in a line of the modules outside of rooms
CORRIDOR = 372  # height of the way that an arrow takes under the boxes of the package between its ends


def picture() -> str:
    """The rooms as SVG: a column for each package, an arrow for each import that no other arrow implies."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="13" text-anchor="middle">',
        "<title>The rooms of frozenbench and what they import</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#455"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for package, left in COLUMNS.items():
        parts.append(f'<rect x="{left + 6}" y="6" width="288" height="380" rx="10" fill="#f2f5f7" stroke="#c5ced4"/>')
        parts.append(f'<text x="{left + 150}" y="30" font-weight="bold">{package}</text>')
        for number, line in enumerate(textwrap.wrap(doors_of(package), DOORS_LINE)):
            parts.append(f'<text x="{left + 150}" y="{52 + 18 * number}" fill="#455">{line}</text>')
    parts.append(f'<rect x="6" y="400" width="{WIDTH - 12}" height="44" rx="10" fill="#e3edf7" stroke="#9db4c8"/>')
    parts.append(f'<text x="{WIDTH // 2}" y="427">{CORE}: every room may import it</text>')
    parts += [arrow(room, target) for room, target in arrows()]
    parts += [box(room) for room in ROOMS if room != CORE]
    parts.append(f'<text x="{WIDTH // 2}" y="466" fill="#455">An arrow means: may import.</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def doors_of(package: str) -> str:
    """The modules of a package that join rooms, without `__main__`."""
    names = [door.partition(".")[2] for door in DOORS if door.startswith(f"{package}.")]
    return "  ".join(f"{name}.py" for name in names if name != "__main__")


def arrows() -> list[tuple[str, str]]:
    """The imports that are not implied: A to C is left out if A may import B, and B may import C."""
    allowed = {room: set(names.split()) for room, names in ROOMS.items()}
    pairs = []
    for room, targets in allowed.items():
        implied = set().union(*(allowed[target] for target in targets))
        pairs += [(room, target) for target in sorted(targets - implied)]
    return pairs


def middle(room: str) -> tuple[int, int]:
    """The middle of a room's box."""
    x, y = PLACES[room]
    return COLUMNS[room.partition(".")[0]] + x, y


def box(room: str) -> str:
    """A room's box with its name."""
    (x, y), (width, height) = middle(room), BOX
    rectangle = f'<rect x="{x - width // 2}" y="{y - height // 2}" width="{width}" height="{height}" rx="5" '
    return f'{rectangle}fill="white" stroke="#455"/><text x="{x}" y="{y + 5}">{room.partition(".")[2]}</text>'


def arrow(room: str, target: str) -> str:
    """A line from the border of one box to the border of another."""
    (x1, y1), (x2, y2) = middle(room), middle(target)
    half_width, half_height = BOX[0] // 2, BOX[1] // 2
    if abs(x2 - x1) > 400:  # two packages away
        way = f"M{x1 + 40} {y1 + half_height}V{CORRIDOR}H{x2 + 40}V{y2 + half_height}"
    elif y1 == y2:  # side by side
        side = half_width if x2 > x1 else -half_width
        way = f"M{x1 + side} {y1}H{x2 - side}"
    elif y2 < y1:  # upwards, to the left
        way = f"M{x1 - half_width} {y1}L{x2} {y2 + half_height}"
    else:  # from the bottom of the upper box to the top of the lower one
        way = f"M{x1} {y1 + half_height}L{x2} {y2 - half_height}"
    return f'<path d="{way}" fill="none" stroke="#455" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    (DOCS / "rooms.svg").write_text(picture())

"""Imports run one way, start-up is light, and the public names stay."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

import analysis
import classify
import featurize

ROOT = Path(__file__).parent.parent
# Each room and the rooms that it may import from. A row is all there is to say about a room's place in the house.
ROOMS = {
    "featurize.core": [],
    "featurize.images": ["featurize.core"],
    "featurize.networks": ["featurize.core"],
    "featurize.engines": ["featurize.networks", "featurize.core"],
    "featurize.cache": ["featurize.core"],
    "featurize.extraction": [
        "featurize.cache", "featurize.engines", "featurize.networks", "featurize.images", "featurize.core",
    ],
    "classify.heads": ["featurize.core", "featurize.cache"],
    "classify.statistics": ["featurize.core"],
    "classify.runs": ["featurize.core", "featurize.cache"],
    "classify.large": ["classify.heads", "featurize.core", "featurize.cache"],
    "classify.training": [
        "classify.large", "classify.heads", "classify.statistics", "classify.runs", "featurize.core", "featurize.cache",
    ],
    "analysis.findings": ["analysis.frame", "classify.runs", "classify.statistics", "featurize.core"],
    "analysis.figures": [
        "analysis.frame", "classify.runs", "classify.statistics", "featurize.core", "featurize.cache",
        "featurize.images",
    ],
    "analysis.report": [
        "analysis.findings", "analysis.figures", "analysis.frame", "classify.runs", "classify.statistics",
        "featurize.core", "featurize.cache",
    ],
    "analysis.frame": ["classify.runs", "classify.statistics", "featurize.core"],
}  # fmt: skip
# Modules outside of the rooms join what the rooms offer.
DOORS = {
    "featurize.cli": ["featurize"],
    "classify.cli": ["classify", "featurize"],
    "classify.predict": ["classify.runs", "featurize"],
    "analysis.cli": ["analysis", "classify", "featurize"],
    "analysis.experiment": ["classify", "featurize"],
}
MOST_LINES = 400  # of a module
MOST_MODULES = 10  # of a room
HEAVY = {
    "tensorflow",
    "keras",
    "xgboost",
    "sklearn",
    "sklearnex",
    "pandas",
    "matplotlib",
    "pooch",
    "requests",
    "PIL",
    "onnx",
    "MNN",
    "_mnncengine",
    "dask",
    "distributed",
}


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name."""
    found = {}
    for package in ("featurize", "classify", "analysis"):
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(part for part in parts if part != "__init__")] = path
    return found


def imports(path: Path) -> set[str]:
    """The modules of ours that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & (set(MODULES) - {"featurize", "classify", "analysis"})


def within(module: str, rooms: Iterable[str]) -> bool:
    """Whether a module is one of these rooms or packages, or inside one."""
    return any(f"{module}.".startswith(f"{room}.") for room in rooms)


MODULES = modules()
INSIDE = {module: next((room for room in {**ROOMS, **DOORS} if within(module, [room])), "") for module in MODULES}


def test_every_module_is_in_a_room() -> None:
    outside = {module for module, room in INSIDE.items() if not room}
    packages = {"featurize", "classify", "analysis"}
    entries = {f"{package}.__main__" for package in packages} | {"analysis.frozenbench"}
    assert outside - packages - entries - {"featurize.bundled"} == set()


@pytest.mark.parametrize("room", [*ROOMS, *DOORS])
def test_a_room_imports_what_its_row_allows(room: str) -> None:
    allowed = {**ROOMS, **DOORS}[room]
    own = [module for module, inside in INSIDE.items() if inside == room]
    assert own, "no such room"
    broken = {
        module: found
        for module in own
        if (found := {name for name in imports(MODULES[module]) if not within(name, [room, *allowed])})
    }
    assert broken == {}


def test_no_rooms_import_one_another() -> None:
    """The rows themselves have an order: whoever is imported stands above."""
    rows = list(ROOMS)
    rows.remove("analysis.frame")
    rows.insert(rows.index("analysis.findings"), "analysis.frame")
    for room, allowed in ROOMS.items():
        assert all(rows.index(other) < rows.index(room) for other in allowed)


def test_sizes() -> None:
    long = {
        module: lines for module, path in MODULES.items() if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}
    for room in ROOMS:
        count = sum(inside == room and MODULES[module].name != "__init__.py" for module, inside in INSIDE.items())
        assert count <= MOST_MODULES, room


def test_each_room_says_what_it_is_for() -> None:
    for room in set(ROOMS) - {"analysis.frame"}:
        said = ast.get_docstring(ast.parse(MODULES[room].read_text())) or ""
        assert "May import" in said, room


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import featurize", set()),
        ("import classify", set()),
        ("import analysis", {"pandas"}),
        ("import runpy; sys.argv = ['featurize', '--help']; run('featurize')", set()),
        ("import runpy; sys.argv = ['classify', '--help']; run('classify')", set()),
        ("import runpy; sys.argv = ['analysis', '--help']; run('analysis')", {"pandas"}),
    ],
)
def test_start_up_loads_nothing_heavy(code: str, allowed: set[str]) -> None:
    script = f"""
import sys
def run(name):
    try:
        runpy.run_module(name, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, end.code
{code}
print("LOADED", *sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & HEAVY <= allowed


def test_public_names() -> None:
    assert featurize.__all__ == [
        "Backbone", "CacheInfo", "Extraction", "ExtractionSpec", "Features", "FrozenFeatures", "FrozenbenchError",
        "ImageDataset", "Split", "extract_features", "load_backbone", "load_dataset", "load_features", "read_info",
    ]  # fmt: skip
    assert classify.__all__ == ["HEADS", "RunResult", "fit_and_evaluate", "load_runs", "make_head"]
    assert analysis.__all__ == ["comparison", "write_comparison"]
    for package in (featurize, classify, analysis):
        assert all(hasattr(package, name) for name in package.__all__)

"""The house: what a room may import and how large it may become, light start-up, the public names."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest

import analysis
import classify
import featurize

ROOT = Path(__file__).parent.parent
PACKAGES = ("featurize", "classify", "analysis")
MOST_LINES = 400  # of a module
MOST_MODULES = 10  # of a room

# A room, and the rooms that it may import beside featurize.core. They all stand above it. A room may be one module.
CORE = "featurize.core"
ROOMS = {
    CORE: "",
    "featurize.images": "",
    "featurize.networks": "",
    "featurize.runtimes": "featurize.networks",
    "featurize.winograd": "featurize.networks",
    "featurize.engines": "featurize.winograd featurize.runtimes featurize.networks",
    "featurize.cache": "",
    "featurize.formats": "featurize.cache featurize.images",
    "featurize.extraction": (
        "featurize.cache featurize.engines featurize.winograd featurize.networks featurize.images"
    ),
    "classify.estimators": "",
    "classify.suspects": "featurize.cache",
    "classify.heads": "classify.estimators featurize.cache",
    "classify.statistics": "",
    "classify.guarantee": "classify.heads classify.statistics",
    "classify.runs": "featurize.cache",
    "classify.graphs": ("classify.heads featurize.engines featurize.runtimes featurize.networks featurize.cache"),
    "classify.large": "classify.estimators classify.heads featurize.cache",
    "classify.training": (
        "classify.large classify.guarantee classify.heads classify.statistics classify.runs classify.suspects "
        "featurize.cache"
    ),
    "classify.predict": (
        "classify.guarantee classify.heads classify.runs featurize.cache featurize.engines featurize.extraction "
        "featurize.images"
    ),
    "analysis.frame": "classify.runs classify.statistics",
    "analysis.findings": "analysis.frame classify.runs classify.statistics",
    "analysis.figures": "analysis.frame classify.runs classify.statistics featurize.cache featurize.images",
    "analysis.page": "",
    "analysis.audit": "analysis.page classify.large classify.heads classify.runs featurize.cache featurize.images",
    "analysis.report": (
        "analysis.audit analysis.findings analysis.figures analysis.frame analysis.page classify.runs featurize.cache"
    ),
    "analysis.serving": "analysis.figures analysis.page classify.predict classify.runs featurize.images",
}
# The modules outside of the rooms, and the packages whose rooms they join.
DOORS = {
    "featurize.cli": "featurize",
    "featurize.exchange": "featurize",
    "featurize.verify": "featurize",
    "classify.cli": "classify featurize",
    "classify.table": "classify.runs classify.statistics",
    "classify.export": "classify.predict classify.graphs classify.guarantee classify.runs featurize",
    "classify.evaluation": "classify.predict classify.guarantee classify.runs classify.statistics featurize",
    "analysis.cli": "analysis classify featurize",
    "analysis.steps": "",
    "analysis.screening": "analysis.experiment analysis.steps classify featurize",
    "analysis.experiment": "analysis.steps classify featurize",
    "analysis.frozenbench": "analysis classify featurize",
    **{f"{package}.__main__": "analysis classify featurize" for package in PACKAGES},
}
HEAVY = {
    "tensorflow", "keras", "xgboost", "sklearn", "sklearnex", "pandas", "matplotlib", "pooch", "requests", "PIL",
    "onnx", "onnxruntime", "openvino", "dask", "distributed", "starlette", "uvicorn",
}  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module: featurize/core/files.py is featurize.core.files."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def is_inside(module: str, rooms: str) -> bool:
    """Whether a module is one of the rooms or packages, or in one of them."""
    return any(f"{module}.".startswith(f"{room}.") for room in rooms.split())


def modules_of(room: str) -> list[str]:
    return [module for module in MODULES if is_inside(module, room)]


def our_imports(module: str) -> set[str]:
    """The modules of ours that a module imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= found if found <= set(MODULES) else {*found, f"{node.module}"}
    return names & (set(MODULES) - set(PACKAGES))


def test_every_module_is_in_a_room() -> None:
    rooms = " ".join((*ROOMS, *DOORS))
    outside = {module for module in MODULES if not is_inside(module, rooms)}
    assert outside - set(PACKAGES) - {"featurize.bundled"} == set()


@pytest.mark.parametrize("room", [*ROOMS, *DOORS])
def test_a_room_imports_what_its_row_allows(room: str) -> None:
    allowed = " ".join((room, CORE, ({**ROOMS, **DOORS})[room]))
    for module in modules_of(room):
        forbidden = {name for name in our_imports(module) if not is_inside(name, allowed)}
        assert forbidden == set(), module


def test_no_room_imports_one_below_it() -> None:
    above: set[str] = set()
    for room, allowed in ROOMS.items():
        assert set(allowed.split()) <= above, room
        above.add(room)


def test_no_modules_import_each_other_in_a_circle() -> None:
    imports = {module: our_imports(module) - {module} for module in MODULES}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_may_import(room: str) -> None:
    if MODULES[room].name != "__init__.py":
        return
    words = ast.get_docstring(ast.parse(MODULES[room].read_text())) or ""
    purpose, _, rest = words.partition("May import: ")
    package = room.partition(".")[0]
    names = re.sub("nothing of ours", "", rest.partition(".\n")[0].removesuffix(".")).replace(",", " ").split()
    said = {name if is_inside(name, " ".join(PACKAGES)) else f"{package}.{name}" for name in names}
    assert len(purpose.split()) > 2, f"{room} does not say what it is for"
    assert said == {CORE, *ROOMS[room].split()} - {room}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_at_most_ten_modules(room: str) -> None:
    assert len([module for module in modules_of(room) if module != room]) <= MOST_MODULES


def test_no_module_is_longer_than_400_lines() -> None:
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: count for module, count in lines.items() if count > MOST_LINES} == {}


def prints(module: str) -> list[ast.Call]:
    """The calls of `print` in a module whose output may hold names from files: neither JSON nor on standard error."""
    found = []
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            what = ast.unparse(node)
            if not what.startswith(("print(json.dumps(", "print(printable(")):
                found.append(node)
    return found


def test_results_are_printed_with_control_characters_escaped() -> None:
    assert {module for module in MODULES if prints(module)} == {"featurize.core.console"}


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import featurize", set()),
        ("import classify", set()),
        ("import analysis", set()),
        ("run('featurize')", set()),
        ("run('classify')", set()),
        ("run('analysis')", set()),
    ],
)
def test_start_up_loads_nothing_heavy(code: str, allowed: set[str]) -> None:
    script = f"""
import runpy, sys
def run(name):
    sys.argv = [name, "--help"]
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


def test_the_packages_know_their_version() -> None:
    for package in (featurize, classify, analysis):
        assert package.__version__ == version("frozenbench")
        with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
            _ = package.nothing


def test_public_names() -> None:
    assert featurize.__all__ == [
        "Backbone", "CacheInfo", "Extraction", "ExtractionSpec", "Features", "FrozenFeatures", "FrozenbenchError",
        "ImageDataset", "Split", "export_features", "extract_features", "import_features", "load_backbone",
        "load_dataset", "load_features", "read_info",
    ]  # fmt: skip
    assert classify.__all__ == ["HEADS", "RunResult", "fit_and_evaluate", "load_runs", "make_head"]
    assert analysis.__all__ == ["comparison", "write_comparison"]
    for package in (featurize, classify, analysis):
        assert all(hasattr(package, name) for name in package.__all__)

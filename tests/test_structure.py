"""Imports run one way, start-up is light, and the public names stay."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import analysis
import classify
import featurize

ROOT = Path(__file__).parent.parent
ORDER = [
    "featurize.errors",
    "featurize.files",
    "featurize.frameworks",
    "featurize.cluster",
    "featurize.spec",
    "featurize.downloads",
    "featurize.resize",
    "featurize.decode",
    "featurize.image_files",
    "featurize.datasets",
    "featurize.pooling",
    "featurize.hdf5",
    "featurize.shards",
    "featurize.linked",
    "featurize.cache",
    "featurize.backbone",
    "featurize.catalogue",
    "featurize.keras_graph",
    "featurize.winograd_kernels",
    "featurize.winograd",
    "featurize.onnx_graph",
    "featurize.mnn",
    "featurize.engine",
    "featurize.extract",
    "featurize.spread",
    "featurize.kept",
    "featurize.verify",
    "featurize.transformer",
    "featurize",
    "featurize.__main__",
    "classify.estimator",
    "classify.mlp",
    "classify.cnn",
    "classify.calibration",
    "classify.svm",
    "classify.trees",
    "classify.neighbours",
    "classify.blocks",
    "classify.dask_trees",
    "classify.out_of_core",
    "classify.heads",
    "classify.metrics",
    "classify.evaluate",
    "classify.checks",
    "classify.compare",
    "classify.spread",
    "classify.time_limit",
    "classify.tuning",
    "classify.results",
    "classify.persist",
    "classify.card",
    "classify.train",
    "classify.predict",
    "classify",
    "classify.__main__",
    "analysis.tables",
    "analysis.transfer",
    "analysis.claims",
    "analysis.plots",
    "analysis.pictures",
    "analysis.report",
    "analysis.answer",
    "analysis.experiment",
    "analysis",
    "analysis.__main__",
]
CLASSIFY_MAY_USE = {
    "featurize.errors", "featurize.files", "featurize.frameworks", "featurize.cluster", "featurize.cache",
}  # fmt: skip
PREDICT_MAY_USE = CLASSIFY_MAY_USE | {
    "featurize.decode", "featurize.spec", "featurize.engine", "featurize.extract", "featurize.kept",
}  # fmt: skip
ANALYSIS_MAY_USE = {
    "featurize.errors", "featurize.files", "featurize.image_files", "featurize.cache", "featurize.datasets",
    "classify.heads", "classify.metrics", "classify.compare", "classify.results",
}  # fmt: skip
EXPERIMENT_MAY_USE = ANALYSIS_MAY_USE | {"featurize.backbone", "featurize.extract", "classify.train"}
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
    found = {}
    for package in ("featurize", "classify", "analysis"):
        for path in (ROOT / package).glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(ORDER)


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_imports_run_one_way(module: str) -> None:
    used = imports(modules()[module]) - {"featurize", "classify", "analysis"}
    assert {name for name in used if ORDER.index(name) >= ORDER.index(module)} == set()
    foreign = {name for name in used if name.partition(".")[0] != module.partition(".")[0]}
    if module == "classify.predict":  # the one place where new images meet a head
        assert foreign <= PREDICT_MAY_USE
    elif module.startswith("classify"):
        assert foreign <= CLASSIFY_MAY_USE
    elif module == "analysis.experiment":  # runs both other stages
        assert foreign <= EXPERIMENT_MAY_USE
    elif module.startswith("analysis"):
        assert foreign <= ANALYSIS_MAY_USE
    else:
        assert foreign == set()


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

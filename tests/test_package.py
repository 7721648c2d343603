"""The package's metadata: data files that a wheel must contain, and the Python versions that are tested."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_PACKAGED = ("analysis/output", "analysis/reference")


def test_every_data_file_is_package_data() -> None:
    """Wheels contain Python files, and other files only if a pattern of `package-data` matches."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    packaged = set()
    for package, names in patterns.items():
        for name in names:
            folders = [ROOT / package.replace(".", "/")] if package != "*" else ROOT.glob("*/")
            packaged |= {path for folder in folders for path in folder.glob(name)}
    needed = set()
    for package in ("featurize", "classify", "analysis"):
        for path in (ROOT / package).rglob("*"):
            is_code = path.suffix == ".py" or path.is_dir() or "__pycache__" in path.parts
            if not is_code and not str(path.relative_to(ROOT)).startswith(NOT_PACKAGED):
                needed.add(path)
    assert needed - packaged == set()
    assert len(needed) > 5


def test_the_lighter_requirements_lack_one_engine_only() -> None:
    """`make light` installs the package without its dependencies, so that none may be forgotten."""
    lines = (ROOT / "requirements-cpu.txt").read_text().splitlines()
    lighter = {line for line in lines if not line.startswith("#")}
    for name in ("tensorflow", "xgboost"):
        lighter = {line.replace(f"{name}-cpu", name) for line in lighter}
    left_out = set(PROJECT["project"]["dependencies"]) - lighter
    assert {re.split("[<>=]", line)[0] for line in left_out} == {"openvino"}
    assert lighter <= set(PROJECT["project"]["dependencies"])


def test_the_workflow_tests_the_python_versions_of_the_classifiers() -> None:
    classifiers = PROJECT["project"]["classifiers"]
    versions = re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    [matrix] = re.findall(r"python-version: \[(.*)\]", workflow)
    assert re.findall(r"3\.\d+", matrix) == versions
    assert PROJECT["project"]["requires-python"] == f">={versions[0]}"

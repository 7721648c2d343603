"""`--head module:Class`: the runs of a user's classifier, and `predict` with it."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_failed, command, command_here
from tiny_data import make_dataset, save_npz
from tiny_pictures import save_pictures

from classify.runs import HEAD, RunResult

CODE = """
from pathlib import Path
from sklearn.linear_model import RidgeClassifier, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

Path("imported").touch()

class Secret:
    def __init__(self):
        self.value = 1

class Mine(LogisticRegression):
    pass

class Odd(LogisticRegression):
    def fit(self, X, y):
        super().fit(X, y)
        self.secret_ = Secret()
        return self

class Broken(LogisticRegression):
    def fit(self, X, y):
        raise AttributeError("of its own")

ready = make_pipeline(StandardScaler(), RidgeClassifier())
"""
MODULE = "own_heads_for_the_commands"


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of an installed module of the user's."""
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / f"{MODULE}.py").write_text(CODE.replace('"imported"', repr(str(tmp_path / "imported"))))
    monkeypatch.syspath_prepend(str(folder))
    path = list(sys.path)
    yield folder / f"{MODULE}.py"
    sys.modules.pop(MODULE, None)
    sys.path[:] = path


@pytest.fixture
def images(tmp_path: Path, data_folder: Path) -> list[str]:
    """The test images of a cache of pixels."""
    data = save_npz(tmp_path / "mine.npz", make_dataset(60, 15))
    assert command_here("featurize", "--data", str(data), "--backbone", "pixels", "--image-size", "8").returncode == 0
    return [str(path) for path in save_pictures(tmp_path, *np.load(data)["x_test"][:3])]


def train(*arguments: str) -> dict[str, RunResult]:
    """The runs that a command leaves, by their directories."""
    done = command_here("classify", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return {run["run_dir"]: RunResult.read(Path(run["run_dir"])) for run in json.loads(done.stdout)["runs"]}


def test_own_heads_beside_ours(cache: Path, mine: Path) -> None:
    both = f"{MODULE}:Mine,{MODULE}:ready"
    runs = train("--head", both, "--head", "sklearn.naive_bayes:GaussianNB", "--model", "dummy")
    assert {(run.model, run.own_head) for run in runs.values()} == {
        ("dummy", ""),
        ("Mine", f"{MODULE}:Mine"),
        ("ready", f"{MODULE}:ready"),
        ("GaussianNB", "sklearn.naive_bayes:GaussianNB"),
    }
    for path, run in runs.items():
        assert Path(path).name.startswith(f"{run.model}-")
        assert run.head_sha256
        assert run.own_head in (Path(path) / "README.md").read_text()
    assert "ready" in command_here("classify", "list").stdout
    [own] = train("--head", f"{MODULE}:Mine")  # without --model, none of ours
    assert own in runs


def test_changed_code_is_another_run(cache: Path, mine: Path) -> None:
    [before] = train("--head", f"{MODULE}:Mine")
    mine.write_text(mine.read_text() + "# changed")
    [after] = train("--head", f"{MODULE}:Mine")
    assert before != after


def test_a_head_that_cannot_be_saved(cache: Path, mine: Path) -> None:
    done = command_here("classify", "--head", f"{MODULE}:Odd", "--json")
    assert done.stderr.count("Odd: the run has no saved head") == 1
    assert f"{MODULE}.Secret" in done.stderr
    [run] = json.loads(done.stdout)["runs"]
    assert not (Path(run["run_dir"]) / HEAD).exists()
    assert RunResult.read(Path(run["run_dir"])).head_sha256 == ""


def test_a_head_that_fails_costs_itself(cache: Path, mine: Path) -> None:
    done = command_here("classify", "--head", f"{MODULE}:Broken,{MODULE}:Mine", "--json")
    assert done.returncode == 1
    assert "Broken on tiny-net is left out: Broken cannot be fitted on these features: of its own" in done.stderr
    assert [run["model"] for run in json.loads(done.stdout)["runs"]] == ["Mine"]


def test_a_head_in_a_process_of_its_own(cache: Path, mine: Path) -> None:
    [run] = train("--head", f"{MODULE}:Mine", "--time-limit", "100").values()
    assert run.model == "Mine"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--head", "mine"], ["--head mine: expected module:Class"]),
        (["--head", "no_such_module_here:A"], ["--head no_such_module_here:A: the module", "cannot be imported"]),
        (["--head", f"{MODULE}:Mini"], [f"--head {MODULE}:Mini: {MODULE} has no Mini; did you mean Mine?"]),
        (["--head", f"{MODULE}:Path"], ["--head ", "Path is no classifier of scikit-learn"]),
        (["--head", f"{MODULE}:Mine", "--tune", "3"], [f"--tune: {MODULE}:Mine has no search space"]),
    ],
)
def test_wrong_heads_are_refused_before_the_training(
    cache: Path, mine: Path, data_folder: Path, arguments: list[str], parts: list[str]
) -> None:
    assert_failed(command_here("classify", "--model", "dummy", *arguments), 2, *parts)
    assert not (data_folder / "runs").exists()


def test_predict_imports_a_module_only_if_the_user_names_it(images: list[str], mine: Path, tmp_path: Path) -> None:
    [run_dir] = train("--head", f"{MODULE}:Mine")
    words = ["classify", "predict", run_dir, *images, "--json"]
    del sys.modules[MODULE]
    (tmp_path / "imported").unlink()
    assert_failed(command_here(*words), 2, f"was trained with --head {MODULE}:Mine; if you trust the code")
    other = command_here(*words, "--head", f"{MODULE}:Odd")
    assert_failed(other, 2, f"--head {MODULE}:Odd: ", f"was trained with --head {MODULE}:Mine")
    assert not (tmp_path / "imported").exists()

    done = command_here(*words, "--head", f"{MODULE}:Mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "imported").exists()
    assert len(json.loads(done.stdout)["predictions"]) == 3


def test_a_run_cannot_bring_in_a_type_by_another_name(images: list[str], mine: Path) -> None:
    [run_dir] = train("--head", f"{MODULE}:Mine")
    result = Path(run_dir) / "result.json"
    text = result.read_text()
    result.write_text(text.replace(f"{MODULE}:Mine", ""))  # as if it were a head of ours
    assert_failed(command_here("classify", "predict", run_dir, *images), 1, "cannot be loaded as a saved head", "Mine")
    result.write_text(text.replace(f"{MODULE}:Mine", "sklearn.naive_bayes:GaussianNB"))
    words = ["classify", "predict", run_dir, *images, "--head", "sklearn.naive_bayes:GaussianNB"]
    assert_failed(command_here(*words), 1, "cannot be loaded as a saved head", f"{MODULE}.Mine")


def test_ours_need_no_option(images: list[str], mine: Path) -> None:
    [run_dir] = train("--model", "dummy")
    words = ["classify", "predict", run_dir, *images]
    refused = command_here(*words, "--head", f"{MODULE}:Mine")
    assert_failed(refused, 2, f"--head {MODULE}:Mine: ", "was trained with the head dummy; leave out --head")
    assert command_here(*words).returncode == 0


@pytest.mark.slow
def test_on_a_cluster(cache: Path) -> None:
    pytest.importorskip("distributed")
    done = command("classify", "--head", "sklearn.naive_bayes:GaussianNB", "--cluster", "local:1", "--json")
    assert done.returncode == 0, done.stderr
    assert [run["model"] for run in json.loads(done.stdout)["runs"]] == ["GaussianNB"]

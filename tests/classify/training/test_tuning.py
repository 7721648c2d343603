import dataclasses
import logging
import multiprocessing
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from sklearn.preprocessing import StandardScaler
from slow_cases import mark_slow
from tiny_data import CLASSES, make_dataset, make_vectors, write_tiny_cache
from tiny_studies import comparable_trials, states_in, trials_in

from classify.heads.registry import HEADS, Task, make_head
from classify.training import tuning
from classify.training.tuning import SPACES, TuningResult, tune
from featurize.cache import Features, load_features
from featurize.core.errors import DataError, HeadError, UsageError


@pytest.fixture
def train(cache: Path) -> Features:
    return load_features(cache, "train")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def task_of(train: Features, **changes: Any) -> Task:
    return Task(len(train.y), train.x.shape[1], **changes)


def without_study(result: TuningResult) -> TuningResult:
    return dataclasses.replace(result, study=None)


def test_a_search(train: Features, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "frozenbench"):
        result = tune("logreg", train, 8, task_of(train), folder)
    trials = trials_in(result.study)
    assert result.settings.keys() == {"logisticregression__C"}
    assert 0.7 < trials[0].value <= result.score <= 1
    assert 0 < result.log_loss < 1
    assert len(trials) == 8
    assert states_in(result.study).count("FAIL") == 0
    assert os.listdir(folder) == [result.study.name]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 8
    assert lines[0].startswith(f"logreg: trial 1 of 8: {100 * trials[0].value:.2f}%, best ")
    assert lines[0].endswith("s: C=0.01")
    assert f"best {100 * result.score:.2f}%" in lines[-1]
    head = make_head("logreg", task_of(train)).set_params(**result.settings)
    assert result.settings["logisticregression__C"] == head.fit(train.x, train.y)[-1].C


@pytest.mark.usefixtures("one_fold")
@pytest.mark.parametrize("name", mark_slow(SPACES, "mlp"))
def test_every_head_with_a_space_can_be_searched(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees = "final_estimator__temperaturecalibrated__estimator__n_estimators"
    smaller = {"xgboost": {trees: 10}, "mlp": {"estimator__epochs": 4}}.get(name, {})
    real = HEADS[name]

    def quick(task: Task) -> Any:
        head = real(task)
        head[-1].set_params(**smaller)
        return head

    monkeypatch.setitem(HEADS, name, quick)
    split = make_dataset(240).splits["train"]
    train = Features(make_vectors(split), split.labels, split.ids, CLASSES, "f" * 64, ())
    monkeypatch.setattr(tuning, "FOLDS", 2)
    result = tune(name, train, 2, task_of(train), folder)
    first, second = trials_in(result.study)
    assert result.score >= first.value > 0.5
    assert "FAIL" not in states_in(result.study)
    defaults = quick(task_of(train)).get_params()
    assert first.params == {key: defaults[key] for key in first.params}
    assert len(first.params) == len(SPACES[name])
    assert second.params != first.params


@pytest.mark.parametrize("name", [name for name in HEADS if name not in (*SPACES, "cnn")])
def test_a_head_with_nothing_to_tune(
    name: str, train: Features, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "frozenbench"):
        assert tune(name, train, 5, task_of(train), folder) == TuningResult({})
    assert caplog.text.count(f"{name}: nothing to tune") == 1
    assert not folder.exists()


def test_the_same_seed_finds_the_same(train: Features, folder: Path) -> None:
    results = [
        tune("knn", train, 12, task_of(train, seed=seed), folder / name)
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    ]
    assert without_study(results[0]) == without_study(results[1])
    assert results[0].study.name == results[1].study.name
    assert comparable_trials(results[0].study) == comparable_trials(results[1].study)
    tried = [[trial.params for trial in trials_in(result.study)] for result in results]
    assert all(params not in tried[2][1:6] for params in tried[0][1:6])  # the random ones, the defaults being the first


def test_a_finished_study_is_read_and_a_longer_one_resumes(
    train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tune("knn", train, 7, task_of(train), folder / "one")
    long = tune("knn", train, 14, task_of(train), folder / "one")
    assert len(trials_in(long.study)) == 14
    assert comparable_trials(long.study) == comparable_trials(
        tune("knn", train, 14, task_of(train), folder / "two").study
    )
    before = long.study.read_bytes()
    monkeypatch.setattr("classify.training.tuning.fold_scores", None)
    assert tune("knn", train, 14, task_of(train, jobs=2), folder / "one") == long
    assert tune("knn", train, 7, task_of(train), folder / "one") == short
    assert long.study.read_bytes() == before


def tune_until_killed(path: Path, folder: Path, trials: int) -> None:
    """Die in the second fold of a trial, the first being number 1."""
    real, calls = tuning.fold_scores, []

    def fatal(*args: Any) -> Iterator[tuple[float, float]]:
        calls.append(args)
        for scores in real(*args):
            if len(calls) == trials:
                os._exit(9)
            yield scores

    tuning.fold_scores = fatal
    train = load_features(path, "train")
    tune("logreg", train, 100, task_of(train), folder)


def test_a_killed_search_resumes_to_the_same_end(
    cache: Path, train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for trials in (4, 5):  # of the second process
        process = multiprocessing.get_context("spawn").Process(
            target=tune_until_killed, args=(cache, folder / "killed", trials)
        )
        process.start()
        process.join()
        assert process.exitcode == 9
    (study,) = (folder / "killed").glob("*.study")
    assert len(trials_in(study)) == 3 + 4
    # What a death in the middle of a write leaves.
    with study.open("a") as file:
        file.write('{"op_code":4,"worker')
    Path(f"{study}.lock").symlink_to(study)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waits for a lock that nobody holds"))
    resumed = tune("logreg", train, 12, task_of(train), folder / "killed")
    straight = tune("logreg", train, 12, task_of(train), folder / "straight")
    assert resumed.study.name == straight.study.name
    assert comparable_trials(resumed.study) == comparable_trials(straight.study)
    assert without_study(resumed) == without_study(straight)


def test_waves_resume(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a wave was cut short by the number of trials, or in the middle by an error."""
    straight = tune("knn", train, 14, task_of(train), folder / "straight", wave=3)
    tune("knn", train, 7, task_of(train), folder / "short", wave=3)
    for more in (7, 8, 14):
        short = tune("knn", train, more, task_of(train), folder / "short", wave=3)
    real = tuning.run_trial

    def fatal(trial: optuna.trial.Trial, *args: Any) -> optuna.trial.FrozenTrial:
        if trial.number == 10:  # in the middle of a wave
            raise KeyboardInterrupt
        return real(trial, *args)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "run_trial", fatal)
        with pytest.raises(KeyboardInterrupt):
            tune("knn", train, 14, task_of(train), folder / "cut", wave=3)
    (study,) = (folder / "cut").iterdir()
    assert len(trials_in(study)) == 10
    cut = tune("knn", train, 14, task_of(train), folder / "cut", wave=3)
    for other in (short, cut):
        assert other.study.name == straight.study.name
        assert comparable_trials(other.study) == comparable_trials(straight.study)


def test_trials_of_a_wave_do_not_know_each_others_scores(
    train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    for changed in (0.9, 0.1):  # trial 8's score, the first one in its wave
        script(monkeypatch, [(0.5 + number / 100, 0.5) for number in range(8)] + [(changed, 0.5), *[(0.5, 0.5)] * 7])
        study = tune("logreg", train, 16, task_of(train), folder / str(changed), wave=4).study
        tried.append([trial.params for trial in trials_in(study)])
    assert tried[0][:12] == tried[1][:12]
    assert all(one != two for one, two in zip(tried[0][12:], tried[1][12:], strict=True))
    assert len({str(params) for params in tried[0]}) == 16


def test_trials_of_a_wave_keep_away_from_each_other(train: Features) -> None:
    space, defaults = tuning._search_space("logreg", make_head("logreg", task_of(train)))
    before = [
        optuna.trial.create_trial(params={"logisticregression__C": c}, distributions=space, value=-abs(c - 0.1))
        for c in np.geomspace(0.001, 0.25, 20)
    ]
    apart, alone = (
        [
            trial.params["logisticregression__C"]
            for trial in tuning._ask(before, 32, space, defaults, 0, side_by_side=side_by_side)
        ]
        for side_by_side in (True, False)
    )
    assert apart[0] == alone[0]  # there is nothing yet to keep away from
    assert np.std(np.log(apart)) > np.std(np.log(alone))


def test_bad_trials_are_pruned_by_the_medians_of_earlier_waves(
    train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 0.7 is above the first wave's median, below that of the first five in the second wave, and below that of both.
    scores = iter([0.6] * 5 + [0.8] + [0.9] * 5 + [0.7] + [0.7] * 6)

    def scripted(*args: Any) -> Iterator[tuple[float, float]]:
        score = next(scores)
        for _ in range(3):
            yield score, 1.0

    monkeypatch.setattr("classify.training.tuning.fold_scores", scripted)
    result = tune("logreg", train, 18, task_of(train), folder, wave=6)
    assert states_in(result.study) == ["COMPLETE"] * 12 + ["PRUNED"] * 6


def test_another_problem_has_another_study(train: Features, folder: Path) -> None:
    half = dataclasses.replace(train, x=train.x[::2], y=train.y[::2], ids=train.ids[::2])
    relabelled = dataclasses.replace(train, y=train.y[::-1].copy())
    calls: list[tuple[str, Features, dict[str, Any]]] = [
        ("knn", train, {}),
        ("logreg", train, {}),
        ("knn", half, {}),
        ("knn", relabelled, {}),
        ("knn", dataclasses.replace(train, ids=train.ids[::-1].copy()), {}),
        ("knn", dataclasses.replace(train, fingerprint="0" * 64), {}),
        ("knn", dataclasses.replace(train, layers=train.layers[:1]), {}),
        ("knn", train, {"wave": 2}),
        ("knn", train, {"wave": 3}),
    ]
    names = [tune(name, data, 1, task_of(data), folder, **more).study.name for name, data, more in calls]
    names.append(tune("knn", train, 1, task_of(train, seed=1), folder).study.name)
    assert len(set(names)) == len(calls) + 1
    assert sorted(os.listdir(folder)) == sorted(names)


def test_a_study_under_a_foreign_name_is_not_continued(train: Features, folder: Path) -> None:
    foreign = tune("knn", train, 3, task_of(train, seed=1), folder).study
    own = tune("knn", train, 1, task_of(train), folder).study
    foreign.replace(own)
    assert tune("knn", train, 1, task_of(train), folder).settings != {}
    assert tune("knn", train, 2, task_of(train), folder).settings != {}
    assert len(own.read_bytes().splitlines()) == (1 + 3) + (1 + 2)  # each study's own line, and its trials


def test_changed_defaults_begin_anew(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {tune("logreg", train, 1, task_of(train), folder).study.name}
    monkeypatch.setattr("classify.heads.registry.MAX_ITERATIONS", 999)  # not searched, but part of the head
    names.add(tune("logreg", train, 1, task_of(train), folder).study.name)
    monkeypatch.setitem(SPACES, "logreg", {"C": tuning.by_factor(2)})
    names.add(tune("logreg", train, 1, task_of(train), folder).study.name)
    assert len(names) == 3


def test_scaling_is_fitted_inside_the_folds(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    real = StandardScaler.fit

    def spy(self: StandardScaler, X: np.ndarray, *args: Any, **more: Any) -> StandardScaler:
        seen.append(X)
        return real(self, X, *args, **more)

    monkeypatch.setattr(StandardScaler, "fit", spy)
    tune("logreg", train, 2, task_of(train), folder)
    assert [len(X) for X in seen] == [80] * 6
    # Each row is held out of exactly one fold of a trial.
    rows = np.concatenate([X[:, 0] for X in seen[:3]])
    assert (np.unique(rows, return_counts=True)[1] == 2).all()


def test_only_the_training_split_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other test vectors change nothing, and nothing but the rows given is read."""
    results = []
    for noise in ("one", "two"):
        path = write_tiny_cache(folder / f"{noise}.h5")
        train = load_features(path, "train")
        path.unlink()
        results.append(tune("logreg", train, 3, task_of(train), folder / noise))
    assert without_study(results[0]) == without_study(results[1])


@pytest.mark.parametrize("name", ["logreg", "knn"])
def test_permuted_labels_give_chance(name: str, folder: Path) -> None:
    split = make_dataset(600).splits["train"]
    scores = []
    for labels in (split.labels, np.random.default_rng(0).permutation(split.labels)):
        train = Features(make_vectors(split), labels, split.ids, CLASSES, "f" * 64, ())
        result = tune(name, train, 1, task_of(train), folder)
        scores.append(result.score)
    assert scores[0] > 0.8
    assert abs(scores[1] - 1 / 3) < 0.07  # three standard errors and some


def test_bad_trials_are_pruned(
    train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folds_fitted: list[int] = []

    def scripted(*args: Any) -> Iterator[tuple[float, float]]:
        number = len(folds_fitted)
        folds_fitted.append(0)
        for accuracy in {6: (0.5, 0.9, 0.9), 7: (0.7, 0.8, 0.85)}.get(number, (0.6, 0.7, 0.9)):
            folds_fitted[-1] += 1
            yield accuracy, 1.0

    monkeypatch.setattr("classify.training.tuning.fold_scores", scripted)
    with caplog.at_level(logging.INFO, "frozenbench"):
        result = tune("logreg", train, 8, task_of(train), folder)
    assert folds_fitted == [3, 3, 3, 3, 3, 3, 1, 3]
    assert result.score == 0.9
    assert states_in(result.study) == ["COMPLETE"] * 6 + [
        "PRUNED",
        "COMPLETE",
    ]  # the last one had no fold left to spare
    assert "trial 7 of 8: 50.00% after 1 of 3 folds, pruned, best 90.00%" in caplog.text


def script(monkeypatch: pytest.MonkeyPatch, trials: list[tuple[float, float] | Exception]) -> None:
    """Let each trial end as given: accuracy and log loss, or an error."""
    rest = iter(trials)

    def scripted(*args: Any) -> Iterator[tuple[float, float]]:
        outcome = next(rest)
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome

    monkeypatch.setattr("classify.training.tuning.fold_scores", scripted)


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([(0.8, 0.5), (0.7, 0.1), (0.79, 0.1)], 0),  # never worse than the defaults
        ([(0.8, 0.5), (0.9, 2.0), (0.8, 0.1)], 1),  # accuracy first
        ([(0.8, 0.5), (0.8, 0.3), (0.8, 0.4)], 1),  # then log loss
        ([(0.8, 0.5), (0.8, 0.5), (0.8, 0.5)], 0),  # then the earlier one
    ],
)
def test_which_trial_is_the_best(
    outcomes: list[tuple[float, float]], best: int, train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(monkeypatch, list(outcomes))
    result = tune("logreg", train, 3, task_of(train), folder)
    assert result.settings == trials_in(result.study)[best].params
    assert (result.score, result.log_loss) == outcomes[best]


def test_scores_are_those_of_scikit_learn(train: Features, folder: Path) -> None:
    from sklearn.metrics import accuracy_score, log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    result = tune("logreg", train, 1, task_of(train, seed=5), folder)
    folds = StratifiedKFold(3, shuffle=True, random_state=5)
    head = make_head("logreg", task_of(train, seed=5))
    probabilities = cross_val_predict(head, train.x, train.y, cv=folds, method="predict_proba").astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert result.score == accuracy_score(train.y, probabilities.argmax(axis=1))
    assert result.log_loss == pytest.approx(log_loss(train.y, probabilities), rel=1e-5)


def test_a_trial_that_fails_does_not_end_the_search(
    train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script(monkeypatch, [ValueError("k > n"), (0.8, 0.5), FloatingPointError("inf"), HeadError("no"), (0.7, 0.5)])
    with caplog.at_level(logging.INFO, "frozenbench"):
        result = tune("knn", train, 5, task_of(train), folder)
    assert result.score == 0.8
    assert states_in(result.study) == ["FAIL", "COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert "trial 1 of 5: failed (k > n), best none" in caplog.text
    assert "trial 3 of 5: failed (inf), best 80.00%" in caplog.text
    assert len({str(trial.params) for trial in trials_in(result.study)}) > 3


def test_when_all_trials_fail(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [ValueError("k > n"), ValueError("k > m")])
    for _ in range(2):  # the second time from the file
        with pytest.raises(HeadError, match=r"knn cannot be tuned: all 2 trials failed, the last with: k > m; delete"):
            tune("knn", train, 2, task_of(train), folder)


def test_probabilities_that_are_no_numbers(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    nothing = np.full((40, 3), np.nan)
    monkeypatch.setattr(KNeighborsClassifier, "predict_proba", lambda self, X: nothing)
    with pytest.raises(HeadError, match="its probabilities are not finite"):
        tune("knn", train, 1, task_of(train), folder)


def test_interrupting_a_trial_loses_it_only(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(monkeypatch, [(0.8, 0.5), KeyboardInterrupt()])  # type: ignore[list-item]
    with pytest.raises((KeyboardInterrupt, TypeError)):
        tune("knn", train, 2, task_of(train), folder)
    (study,) = folder.iterdir()
    assert len(trials_in(study)) == 1


@pytest.mark.parametrize(("label", "rows", "folds"), [(1, 2, 3), (1, 0, 3), (2, 0, 3), (0, 4, 5)])
def test_fewer_rows_of_a_class_than_folds(
    label: int, rows: int, folds: int, train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "FOLDS", folds)
    kept = np.concatenate([np.flatnonzero(train.y != label), np.flatnonzero(train.y == label)[:rows]])
    few = dataclasses.replace(train, x=train.x[kept], y=train.y[kept], ids=train.ids[kept])
    message = (
        rf"logreg cannot be tuned: class {CLASSES[label]} has {rows} training rows, .* the {folds} folds; use more"
    )
    with pytest.raises(HeadError, match=message) as caught:
        tune("logreg", few, 2, task_of(few), folder)
    assert "\n" not in str(caught.value)
    assert not folder.exists()


def test_features_that_are_no_numbers(train: Features, folder: Path) -> None:
    train.x[3, 2] = np.inf
    with pytest.raises(HeadError, match=r"all 2 trials failed, the last with: Input X contains infinity"):
        tune("logreg", train, 2, task_of(train), folder)


def test_no_trials(train: Features, folder: Path) -> None:
    with pytest.raises(UsageError, match="tune 0: expected at least 1 trial"):
        tune("logreg", train, 0, task_of(train), folder)


def test_without_optuna(train: Features, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"tune needs Optuna.* pip install 'frozenbench\[tune\]'"):
        tune("logreg", train, 2, task_of(train), folder)
    assert not folder.exists()


def test_a_damaged_study(train: Features, folder: Path) -> None:
    study = tune("knn", train, 3, task_of(train), folder).study
    lines = study.read_bytes().splitlines(keepends=True)
    for damaged in (lines[1][:-20] + b"\n", b"\0" * 50 + b"\n", b"[]\n", b'{"op_code":4}\n'):
        study.write_bytes(b"".join([lines[0], damaged, *lines[2:]]))
        with pytest.raises(DataError, match=r"\.study is no readable study: .*; delete it and search anew"):
            tune("knn", train, 3, task_of(train), folder)


def tune_knn(path: Path, folder: Path) -> None:
    train = load_features(path, "train")
    tune("knn", train, 6, task_of(train), folder)


@pytest.mark.slow
def test_two_processes_share_a_study(cache: Path, train: Features, folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=tune_knn, args=(cache, folder)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (study,) = folder.iterdir()
    assert len(trials_in(study)) == 6


@pytest.mark.parametrize("name", SPACES)
def test_the_defaults_lie_in_every_range(name: str) -> None:
    head = make_head(name, Task(100, 16))
    space, defaults = tuning._search_space(name, head)
    assert len(space) == len(SPACES[name])
    head.set_params(**defaults)
    for parameter, distribution in space.items():
        assert distribution._contains(distribution.to_internal_repr(defaults[parameter]))


def test_a_range_is_widened_to_hold_the_default() -> None:
    assert tuning.between(2, 8)(12).high == 12
    assert tuning.one_of(1, 2)(3).choices == (1, 2, 3)
    neighbours = tuning.by_factor(5)(20)
    assert (neighbours.low, neighbours.high) == (4, 100)
    assert isinstance(neighbours, optuna.distributions.IntDistribution)

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_runs import PIXELS, make_predictions, make_result, write_run

from analysis.frame import (
    COLUMNS,
    comparison,
    decimals,
    headline,
    readable,
    rounded,
    with_groups,
    with_interval,
    write_comparison,
)
from classify.runs.results import RunResult
from featurize.core.errors import DataError

RUNS = {
    Path("runs/b/svm-1"): make_result(
        model="svm", accuracy=0.69, accuracy_low=0.661, accuracy_high=0.718, log_loss=None, ece=None, converged=None
    ),
    Path("runs/b/logreg-1"): make_result(head_bytes=2_340_000),
    Path("runs/a/logreg-2"): make_result(
        **PIXELS, accuracy=0.357, accuracy_low=0.328, accuracy_high=0.387, converged=False, extraction_seconds=0.0
    ),
}
RIGHT = {"svm-1": slice(310, 1000), "logreg-1": slice(0, 715), "logreg-2": slice(0, 357)}  # of 1,000 test images
GOLDEN = """\
# Comparison

## tiny: 1,000 test images

| features | head | train images | accuracy % (95% interval) | group | macro F1 % (95% interval) | log loss | ECE % | \
fit s | extract ms/image | predict ms/image | vector | size MB |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| vgg16-imagenet | logreg | 2,000 | **72 (69 to 74)** | a | 71 (68 to 74) | 0.850 | 4.2 | 1.5 | \
2.00 | 0.010 | 1,024 | 2.3 |
| vgg16-imagenet | svm | 2,000 | 69 (66 to 72) † | a | 71 (68 to 74) | - | - | 1.5 | \
2.00 | 0.010 | 1,024 | - |
| pixels | logreg (not converged) | 2,000 | 36 (33 to 39) | b | 71 (68 to 74) | 0.850 | 4.2 | 1.5 | \
0.00 | 0.010 | 3,072 | - |

In bold: the most accurate. †: not significantly less accurate than the best. Heads that share a letter do not differ \
significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5%). Percentages are \
rounded to what their intervals support.
"""
GOLDEN_TEX = r"""% needs \usepackage{booktabs,graphicx}

\begin{table}
\centering
\caption{tiny: 1,000 test images. In bold: the most accurate. $^{\dagger}$: not significantly less accurate than the best. Heads that share a letter do not differ significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5\%). Percentages are rounded to what their intervals support.}
\resizebox{\linewidth}{!}{%
\begin{tabular}{llrrlrrrrrrrr}
\toprule
features & head & train images & accuracy \% (95\% interval) & group & macro F1 \% (95\% interval) & log loss & ECE \% & fit s & extract ms/image & predict ms/image & vector & size MB \\
\midrule
vgg16-imagenet & logreg & 2,000 & \textbf{72 (69 to 74)} & a & 71 (68 to 74) & 0.850 & 4.2 & 1.5 & 2.00 & 0.010 & 1,024 & 2.3 \\
vgg16-imagenet & svm & 2,000 & 69 (66 to 72) $^{\dagger}$ & a & 71 (68 to 74) & - & - & 1.5 & 2.00 & 0.010 & 1,024 & - \\
pixels & logreg (not converged) & 2,000 & 36 (33 to 39) & b & 71 (68 to 74) & 0.850 & 4.2 & 1.5 & 0.00 & 0.010 & 3,072 & - \\
\bottomrule
\end{tabular}}
\end{table}
"""  # noqa: E501


def written(folder: Path, runs: dict[Path, RunResult]) -> dict[Path, RunResult]:
    """The runs as directories below `folder`, each right for the rows that its accuracy or `RIGHT` says."""
    made = {}
    for path, result in runs.items():
        right = np.zeros(result.test_rows, bool)
        right[RIGHT.get(path.name, slice(0, round(result.accuracy * result.test_rows)))] = True
        write_run(folder / path, result, make_predictions(right))
        made[folder / path] = result
    return made


def markdown(folder: Path, runs: dict[Path, RunResult]) -> str:
    """The comparison.md of runs made below `folder`."""
    _, md, _ = write_comparison(comparison(written(folder, runs)), folder / "out")
    return md.read_text("utf-8")


def test_comparison_is_ordered_best_first() -> None:
    table = comparison(RUNS)
    assert list(table.columns) == COLUMNS
    assert list(table["accuracy"]) == [0.715, 0.69, 0.357]
    assert list(table["run_dir"]) == ["runs/b/logreg-1", "runs/b/svm-1", "runs/a/logreg-2"]
    assert list(table["backbone"]) == ["vgg16", "vgg16", "pixels"]


def test_kinds() -> None:
    runs = {
        Path("a"): make_result(layers=["block1_pool", "block3_pool"]),
        Path("b"): make_result(weights="random (seed 0)", class_weight="balanced"),
        Path("c"): make_result(**PIXELS),
        Path("d"): make_result(**PIXELS, model="cnn"),
    }
    table = comparison(runs).set_index("run_dir")
    assert table["kind"].to_dict() == {"a": "pretrained", "b": "random", "c": "pixels", "d": "scratch"}
    assert table["class_weight"].to_dict() == {"a": "none", "b": "balanced", "c": "none", "d": "none"}
    assert table["layers"]["a"] == "block1_pool+block3_pool"


def test_balanced_accuracy_is_shown_of_unequal_classes(tmp_path: Path) -> None:
    for balanced, shown in ((0.715, []), (0.6, ["60.0"])):
        runs = written(tmp_path / str(balanced), {Path("a"): make_result(balanced_accuracy=balanced)})
        table = readable(with_groups(comparison(runs)))
        assert table.get("balanced accuracy %", pd.Series()).tolist() == shown


def test_features_have_their_whole_name_where_the_short_one_says_too_little() -> None:
    names = ("vgg16-imagenet-64px-block3_pool-grid2", "vgg16-imagenet-96px-block3_pool-avg", "mine")
    runs = {Path(name): make_result(features=f"tiny-{name}") for name in names}
    assert set(comparison(runs)["features"]) == set(names)
    assert comparison({Path("a"): make_result(features=f"tiny-{names[0]}")})["features"][0] == "vgg16-imagenet"
    assert comparison({Path("a"): make_result(features="tiny-vgg16-imagenetx")})["features"][0] == "vgg16-imagenetx"


def test_one_name_for_several_vectors_is_told_apart() -> None:
    name = "vgg16-imagenet"
    runs = {Path("a"): make_result(), Path("b"): make_result(fingerprint="ab" * 32), Path("c"): make_result(**PIXELS)}
    assert set(comparison(runs)["features"]) == {f"{name} (ffffff)", f"{name} (ababab)", "pixels"}
    runs = {Path("a"): make_result(), Path("b"): make_result(layers=["block2_pool"])}
    assert set(comparison(runs)["features"]) == {f"{name} (block3_pool)", f"{name} (block2_pool)"}
    assert set(comparison({Path("a"): make_result(), Path("b"): make_result(seed=1)})["features"]) == {name}


def test_headline_shows_each_head_once() -> None:
    results = {
        "few": make_result(train_rows=100, accuracy=0.9),
        "seed-1": make_result(seed=1, accuracy=0.8),
        "seed-0": make_result(accuracy=0.7),
        "tuned-5": make_result(tuned=5, seed=0),
        "tuned-9": make_result(tuned=9, seed=3),
        "balanced": make_result(class_weight="balanced"),
        "svm": make_result(model="svm", train_rows=100, seed=2),
        "pixels": make_result(**PIXELS),
        "other images": make_result(test_digest="cd" * 32, train_rows=7),
    }
    table = comparison({Path(name): result for name, result in results.items()})
    shown = headline(table)
    assert set(shown["run_dir"]) == {"seed-0", "tuned-9", "balanced", "svm", "pixels", "other images"}
    assert list(shown.columns) == COLUMNS
    assert list(shown.index) == list(range(6))
    first = shown[shown["test_set"] == "tiny-abababab"]["accuracy"]
    assert list(first) == sorted(first, reverse=True)


def test_groups_by_the_predictions(tmp_path: Path) -> None:
    rows = comparison(written(tmp_path, RUNS))
    grouped = with_groups(rows)
    assert list(grouped["group"]) == ["a", "a", "b"]  # 310 against 285 of the images that one of the two gets right
    assert list(grouped.columns) == [*COLUMNS, "group"]
    assert list(with_groups(rows.iloc[:1])["group"]) == ["a"]
    (tmp_path / "runs/b/svm-1/predictions.parquet").unlink()
    with pytest.raises(DataError, match="svm-1/predictions.parquet cannot be used"):
        with_groups(rows)


def test_rounded_to_what_the_interval_supports() -> None:
    assert rounded(0.71549, 0.686, 0.742) == "72"  # +- 2.8 points
    assert rounded(0.71549, 0.7064, 0.7244) == "71.5"  # +- 0.9
    assert rounded(0.71549, 0.7145, 0.7165) == "71.5"  # +- 0.1
    assert rounded(0.71549, 0.7150, 0.7160) == "71.55"  # +- 0.05
    assert rounded(1 / 3, 0.1, 0.6) == "33"
    assert with_interval(0.9254, 0.92, 0.93) == "92.5 (92.0 to 93.0)"
    assert with_interval(1.0, 0.9962, 1.0) == "100.0 (99.6 to 100.0)"
    assert decimals(0.3, 0.3) == 1
    assert decimals(0, 1e-9) == 3


def test_numbered_letters_are_letters_of_their_own() -> None:
    rows = comparison(RUNS).assign(group=["a", "a1", "ba"])
    marked = readable(rows)["accuracy % (95% interval)"].str.contains("†")
    assert list(marked) == [False, False, True]


def test_markdown(tmp_path: Path) -> None:
    assert markdown(tmp_path, RUNS) == GOLDEN


def test_other_test_images_stand_apart(tmp_path: Path) -> None:
    other = make_result(**PIXELS, test_digest="cd" * 32, test_rows=500, accuracy=0.9)
    text = markdown(tmp_path, {Path("a"): make_result(), Path("b"): other})
    first, second = text.split("\n## ")[1:]
    assert first.startswith("tiny: 1,000 test images")
    assert second.startswith("tiny: 500 test images")
    assert "pixels" not in first
    assert "vgg16" not in second
    assert text.count("**") == 4  # the best of each


def test_files(tmp_path: Path) -> None:
    runs = written(tmp_path, RUNS)
    csv, md, tex = write_comparison(comparison(runs), tmp_path / "out")
    assert (csv.name, md.name, tex.name) == ("comparison.csv", "comparison.md", "comparison.tex")
    assert md.read_text() == GOLDEN
    assert tex.read_text() == GOLDEN_TEX
    again = pd.read_csv(csv)
    assert list(again.columns) == COLUMNS
    assert again["accuracy"].tolist() == [0.715, 0.69, 0.357]
    assert again["log_loss"].isna().tolist() == [False, True, False]
    assert again["class_weight"].tolist() == ["none"] * 3
    contents = [path.read_bytes() for path in (csv, md, tex)]
    backwards = dict(reversed(runs.items()))
    assert [path.read_bytes() for path in write_comparison(comparison(backwards), tmp_path / "out")] == contents


def test_all_runs_are_in_the_csv_and_the_headline_ones_in_the_others(tmp_path: Path) -> None:
    runs = written(tmp_path, {**RUNS, Path("runs/b/logreg-3"): make_result(seed=1, accuracy=0.71)})
    csv, md, _ = write_comparison(comparison(runs), tmp_path / "out")
    assert len(pd.read_csv(csv)) == 4
    assert md.read_text() == GOLDEN


def test_unusable_predictions_leave_no_file(tmp_path: Path) -> None:
    runs = written(tmp_path, RUNS)
    (tmp_path / "runs/a/logreg-2/predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="logreg-2"):
        write_comparison(comparison(runs), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_do_not_break_the_tables(tmp_path: Path) -> None:
    runs = written(tmp_path, {Path("a"): make_result(features=r"tiny-a|b_c&d<e\%")})
    _, md, tex = write_comparison(comparison(runs), tmp_path / "out")
    assert r"| a\|b_c&d&lt;e\% |" in md.read_text()
    assert r"a\textbar{}b\_c\&d\textless{}e\textbackslash{}\% & logreg" in tex.read_text()


def test_200_runs_in_less_than_10_seconds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    runs = {}
    for number in range(200):
        run_dir = tmp_path / "runs" / f"{number}"
        accuracy = 0.5 + 0.002 * (number % 10)
        result = make_result(features=f"tiny-{number}", test_rows=10_000, accuracy=accuracy)
        if number < 10:
            table = make_predictions(random.random(10_000) < accuracy)
            for name in range(10):
                table[f"p_{name}"] = random.random(10_000, np.float32)
            write_run(run_dir, result, table)
        else:
            run_dir.mkdir()
            shutil.copy(tmp_path / "runs" / f"{number % 10}" / "predictions.parquet", run_dir)
        runs[run_dir] = result
    began = time.perf_counter()
    table = comparison(runs)
    write_comparison(table, tmp_path / "out")
    assert time.perf_counter() - began < 10
    assert (tmp_path / "out" / "comparison.md").read_text().count("\n| ") == 202

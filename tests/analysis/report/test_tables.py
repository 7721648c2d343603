import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_runs import PIXELS, RUNS, make_predictions, make_result, write_run, write_runs

from analysis.frame import COLUMNS, comparison, with_groups
from analysis.report.tables import readable, write_comparison
from classify.runs import RunResult
from featurize.core.errors import DataError

GOLDEN = """\
# Comparison

## tiny: 1,000 test images

| features       | head                   | train images   | accuracy % (95% interval)   | group   \
| macro F1 % (95% interval)   | log loss   | ECE %   | fit s   | extract ms/image   | predict ms/image   | vector   \
| size MB   |
|:---------------|:-----------------------|:---------------|:----------------------------|:--------\
|:----------------------------|:-----------|:--------|:--------|:-------------------|:-------------------|:---------\
|:----------|
| vgg16-imagenet | logreg                 | 2,000          | **72 (69 to 74)**           | a       \
| 71 (68 to 74)               | 0.850      | 4.2     | 1.5     | 2.00               | 0.010              | 1,024    \
| 2.3       |
| vgg16-imagenet | svm                    | 2,000          | 69 (66 to 72) †             | a       \
| 71 (68 to 74)               | 0.850      | 4.2     | 1.5     | 2.00               | 0.010              | 1,024    \
| -         |
| pixels         | logreg (not converged) | 2,000          | 36 (33 to 39)               | b       \
| 71 (68 to 74)               | 0.850      | 4.2     | 1.5     | 0.00               | 0.010              | 3,072    \
| -         |

Bold: the highest accuracy. †: not significantly less accurate than the best. Heads that share a letter do not differ \
significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5%). Percentages are \
rounded to what their intervals support.
"""
GOLDEN_TEX = r"""% needs \usepackage{booktabs,adjustbox}

\begin{table}
\centering
\caption{tiny: 1,000 test images. Bold: the highest accuracy. $^{\dagger}$: not significantly less accurate than the best. Heads that share a letter do not differ significantly (exact McNemar tests on the same test images, Holm's correction over all pairs, 5\%). Percentages are rounded to what their intervals support.}
\label{tab:tiny-abababab}
\adjustbox{max width=\linewidth,max totalheight=0.75\textheight}{%
\begin{tabular}{llrrlrrrr}
\toprule
features & head & train images & accuracy \% (95\% interval) & group & macro F1 \% (95\% interval) & log loss & ECE \% & fit s \\
\midrule
vgg16-imagenet & logreg & 2,000 & \textbf{72 (69 to 74)} & a & 71 (68 to 74) & 0.850 & 4.2 & 1.5 \\
vgg16-imagenet & svm & 2,000 & 69 (66 to 72) $^{\dagger}$ & a & 71 (68 to 74) & 0.850 & 4.2 & 1.5 \\
pixels & logreg (not converged) & 2,000 & 36 (33 to 39) & b & 71 (68 to 74) & 0.850 & 4.2 & 1.5 \\
\bottomrule
\end{tabular}}
\end{table}
"""  # noqa: E501


def markdown(folder: Path, runs: dict[Path, RunResult]) -> str:
    """The comparison.md of runs made below `folder`."""
    _, md, _ = write_comparison(comparison(write_runs(folder, runs)), folder / "out")
    return md.read_text("utf-8")


def test_balanced_accuracy_is_shown_of_unequal_classes(tmp_path: Path) -> None:
    for balanced, shown in ((0.715, []), (0.6, ["60.0"])):
        runs = write_runs(tmp_path / str(balanced), {Path("a"): make_result(balanced_accuracy=balanced)})
        table = readable(with_groups(comparison(runs)))
        assert table.get("balanced accuracy %", pd.Series()).tolist() == shown


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
    runs = write_runs(tmp_path, RUNS)
    csv, md, tex = write_comparison(comparison(runs), tmp_path / "out")
    assert (csv.name, md.name, tex.name) == ("comparison.csv", "comparison.md", "comparison.tex")
    assert md.read_text() == GOLDEN
    assert tex.read_text() == GOLDEN_TEX
    again = pd.read_csv(csv)
    assert list(again.columns) == COLUMNS
    assert again["accuracy"].tolist() == [0.715, 0.69, 0.357]
    assert again["converged"].isna().tolist() == [False, True, False]
    assert again["class_weight"].tolist() == ["none"] * 3
    contents = [path.read_bytes() for path in (csv, md, tex)]
    backwards = dict(reversed(runs.items()))
    assert [path.read_bytes() for path in write_comparison(comparison(backwards), tmp_path / "out")] == contents


def test_all_runs_are_in_the_csv_and_the_headline_ones_in_the_others(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, {**RUNS, Path("runs/b/logreg-3"): make_result(seed=1, accuracy=0.71)})
    csv, md, _ = write_comparison(comparison(runs), tmp_path / "out")
    assert len(pd.read_csv(csv)) == 4
    assert md.read_text() == GOLDEN


def test_unusable_predictions_leave_no_file(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, RUNS)
    (tmp_path / "runs/a/logreg-2/predictions.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="logreg-2"):
        write_comparison(comparison(runs), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_do_not_break_the_tables(tmp_path: Path) -> None:
    runs = write_runs(tmp_path, {Path("a"): make_result(features=r"tiny-a|b_c&d<e\%")})
    _, md, tex = write_comparison(comparison(runs), tmp_path / "out")
    assert r"| a\|b_c&d&lt;e\% | " in md.read_text()
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
    assert (tmp_path / "out" / "comparison.md").read_text().count("\n| ") == 201

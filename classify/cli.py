"""Stage 2 on the command line: `frozenbench classify`."""

import functools
import itertools
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from classify.table import report
from featurize.core.console import TYPER_OPTIONS, Quiet, comma_separated, examples
from featurize.core.errors import HeadError, UsageError, suggestion

logger = logging.getLogger("frozenbench")
app = typer.Typer(**TYPER_OPTIONS)
EXPORT_EXAMPLES = examples(
    "frozenbench export svm-1f3a --to model.onnx", "frozenbench export svm-1f3a --to head.onnx --head-only"
)


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "frozenbench classify",
        "frozenbench classify --model svm --features data/features/photos-pixels-32px.h5",
        "frozenbench classify --model logreg --train-size 100,1000 --seed 0,1,2",
        "frozenbench classify --model logreg,svm --repeats 5",
    ),
)
def run(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            help="Heads, comma-separated: logreg, svm, linear-svm, lda, xgboost, mlp, cnn, stack, knn, dummy; all "
            "= logreg, lda, svm, xgboost, mlp.  [default: all; none with --head]"
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="A scikit-learn classifier of your own, module:Class; repeat the option for several."),
    ] = None,
    features: Annotated[
        list[Path] | None,
        typer.Option(
            help="A feature cache, or the beginning of its name in data/features; repeat the option for several.  "
            "[default: the newest]"
        ),
    ] = None,
    layers: Annotated[str, typer.Option(help="Use only these layers of the cache, comma-separated.")] = "",
    train_size: Annotated[
        str, typer.Option(help="Numbers of training images, comma-separated; each set contains the smaller ones.")
    ] = "",
    tune: Annotated[int, typer.Option(min=0, help="Search the settings with N trials on the training images.")] = 0,
    class_weight: Annotated[str, typer.Option(help="none, or balanced: all classes have equal weight.")] = "none",
    drop_suspects: Annotated[
        Path | None, typer.Option(help="Leave the images in suspects.csv of an audit out of training.")
    ] = None,
    weight_suspects: Annotated[
        Path | None,
        typer.Option(help="Weigh each of them by the probability that its label is right."),
    ] = None,
    time_limit: Annotated[
        float | None, typer.Option(help="Stop a head after this many seconds, including its search.")
    ] = None,
    seed: Annotated[str, typer.Option(help="Random seed; comma-separated for several runs.")] = "0",
    repeats: Annotated[
        int | None,
        typer.Option(
            min=3,
            help="Also train each head on N draws of the training images, half of them unless --train-size says, with "
            "two seeds each: the report then shows how far accuracies vary.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Number of threads; ignored with --cluster.  [default: one per physical core]"),
    ] = None,
    cluster: Annotated[
        str, typer.Option(help="Run heads and trials on Dask workers: local:N, or tcp://HOST:PORT.")
    ] = "",
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    save: Annotated[bool, typer.Option(help="Save the fitted heads, for predict.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Repeat finished runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Train heads on cached features and compare them on the test split."""
    if context.invoked_subcommand is not None:
        return
    # Imported here so that --help does not wait for them.
    import joblib

    from classify.heads import Task, head_names, imported, make_head
    from classify.runs import runs_folder
    from classify.suspects import DROPPED, WEIGHTED, read_suspects
    from classify.training import VERSIONS_OF, Job, train_heads
    from classify.training import repeats as repeated
    from featurize.cache import find_cache, read_info
    from featurize.core.cluster import connected
    from featurize.core.environment import library_versions

    if class_weight not in ("none", "balanced"):
        raise UsageError(f"--class-weight {class_weight}: expected none or balanced")
    if drop_suspects and weight_suspects:
        raise UsageError("--drop-suspects and --weight-suspects: expected one of them")
    if tune and weight_suspects:
        raise UsageError("--tune: a search gives all images the same weight; use --drop-suspects, or leave out --tune")
    own = comma_separated(",".join(head or []))
    if own and tune:
        raise UsageError(f"--tune: {own[0]} has no search space; leave out --tune, or --head")
    for name in own:
        make_head(imported(name), Task(1, 1))  # fails before anything is trained
    ours = [] if own and model is None else head_names("all" if model is None else model)
    names, seeds = [*ours, *own], numbers("--seed", seed, 0)
    sizes: list[int | None] = [*numbers("--train-size", train_size, 1)]
    if not seeds:
        raise UsageError("--seed names no seed; expected whole numbers, such as 0 or 0,1,2")
    wanted = comma_separated(layers)
    infos = [read_info(find_cache(path)) for path in features or [newest_cache()]]
    for info in infos:
        if missing := {"train", "test"} - set(info.rows):
            raise UsageError(
                f"{info.path} has no split {min(missing)}; expected train and test, to fit heads and to test them"
            )
    weight = None if class_weight == "none" else class_weight
    threads = jobs or joblib.cpu_count(only_physical_cores=True)
    table, handling = (weight_suspects, WEIGHTED) if weight_suspects else (drop_suspects, DROPPED)
    todo = []
    for info in infos:
        suspects = read_suspects(table, info, handling) if table else None
        for rows, number, name in itertools.product(sizes or [None], seeds, names):
            todo.append(Job(name, info, wanted, rows, number, weight, tune, threads, suspects=suspects))
    again = [each for job in todo for each in repeated(job, repeats)] if repeats else []
    # Workers need the same versions of what runs depend on and of what is sent to and from them.
    packages = [*VERSIONS_OF, "joblib", "distributed"]
    if tune:
        packages.append("optuna")
    with connected(cluster, functools.partial(library_versions, packages)) if cluster else nullcontext() as client:
        train = functools.partial(train_heads, runs=runs or runs_folder(), time_limit=time_limit, client=client)
        results, left_out = train(todo, force=force, keep_heads=save)
        # Those that were asked for anyway are not trained twice.
        more, more_left_out = train([job for job in again if job not in todo], force=force, keep_heads=False)
        left_out += more_left_out
    if results:
        report({**results, **more} if as_json else results, as_json=as_json)
    if more:
        logger.info("%s repeats: frozenbench analysis shows how far the accuracies vary", f"{len(more):,}")
    if left_out:
        raise HeadError("; ".join(left_out))


@app.command(
    epilog=examples(
        "frozenbench classify predict svm-1f3a new/*.jpg",
        "frozenbench classify predict svm-1f3a folder --csv",
        "frozenbench classify predict svm-1f3a folder --coverage 0.9",
    )
)
def predict(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its name, a unique beginning of the name, or its directory.")
    ],
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...",
            help="Image files; folders (all files in them); - for a list on standard input, one name a line.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to name for each image.")] = 5,
    head: Annotated[
        str, typer.Option(help="The module:Class that the run was trained with, if it was; the module is imported.")
    ] = "",
    coverage: Annotated[
        float | None,
        typer.Option(help="Give each image a set of classes; this share of the sets holds the true one, such as 0.9."),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a row for each class.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Classify image files with the saved head of a run. The exit code is 1 if any file cannot be read."""
    from classify.predict import named_files, predict_images, show
    from classify.runs import find_run, runs_folder

    if as_csv and as_json:
        raise UsageError("--csv and --json: expected one of them")
    if as_csv and coverage is not None:
        raise UsageError("--csv and --coverage: the table has no column for sets of classes; use --json")
    run_dir = find_run(run, runs or runs_folder())
    show(predict_images(run_dir, named_files(images), top, head, coverage), as_csv=as_csv, as_json=as_json)


@app.command(epilog=examples("frozenbench classify evaluate svm-1f3a labelled-this-month"))
def evaluate(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its name, a unique beginning of the name, or its directory.")
    ],
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="A folder with one folder of newly labelled pictures for each class."),
    ],
    head: Annotated[
        str, typer.Option(help="The module:Class that the run was trained with, if it was; the module is imported.")
    ] = "",
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Measure a run on newly labelled pictures: accuracy, calibration, coverage, drift, and the worst mistakes."""
    from classify.evaluation import evaluate_run, show
    from classify.runs import find_run, runs_folder

    show(evaluate_run(find_run(run, runs or runs_folder()), folder, head), as_json=as_json)


@app.command("list", epilog=examples("frozenbench classify list"))
def list_runs(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Only runs whose names, or whose features' names, begin like this.")
    ] = "",
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """List finished runs, best first."""
    from classify.runs import load_runs, runs_folder

    folder = runs or runs_folder()
    found, _ = load_runs(folder)
    chosen = {path: run for path, run in found.items() if path.name.startswith(name) or run.features.startswith(name)}
    if not chosen:
        raise UsageError(f"{name}: no such run in {folder}; {suggestion(name, [path.name for path in found])}")
    report(chosen, as_json=as_json)


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its name, a unique beginning of the name, or its directory.")
    ],
    to: Annotated[Path, typer.Option(help="The ONNX file to write, such as model.onnx.")],
    head_only: Annotated[
        bool, typer.Option("--head-only", help="Leave the network out: from vectors to probabilities.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Write a run as one ONNX file, from pixels to probabilities, checked on test images against the run itself."""
    from classify.export import export_run, show
    from classify.runs import find_run, runs_folder

    check = export_run(find_run(run, runs or runs_folder()), to, head_only=head_only, overwrite=overwrite)
    show(check, to, as_json=as_json)


def newest_cache() -> Path:
    """The feature cache that was written last.

    Raises:
        UsageError: there is no feature cache.
    """
    from featurize.cache import features_folder

    caches = sorted(features_folder().glob("*.h5"), key=lambda path: path.stat().st_mtime)
    if not caches:
        raise UsageError(
            f"no feature cache in {features_folder()}; make one with frozenbench featurize, or pass one with --features"
        )
    return caches[-1]


def numbers(option: str, text: str, least: int) -> list[int]:
    """The whole numbers of a comma-separated list.

    Raises:
        UsageError: a part of the list is not a whole number, or is below `least`.
    """
    found = []
    for part in comma_separated(text):
        if not part.isascii() or not part.isdigit() or int(part) < least:
            raise UsageError(f"{option} {part}: expected whole numbers from {least} on, such as 100 or 100,1000")
        found.append(int(part))
    return list(dict.fromkeys(found))

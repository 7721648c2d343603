"""Stage 3 on the command line: `frozenbench analysis`; the whole experiment, also `frozenbench run`; the audit."""

import functools
import json
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurize.core.console import TYPER_OPTIONS, Quiet, comma_separated, examples, say
from featurize.core.errors import UsageError

if TYPE_CHECKING:
    from analysis.experiment import Experiment
    from analysis.findings import Answer

logger = logging.getLogger("frozenbench")
app = typer.Typer(**TYPER_OPTIONS)
OUT = Path("analysis/output")
REPORT_SECONDS = 10.0
Ignore = Annotated[str, typer.Option(help="Codes of findings to leave out, comma-separated, such as FB012.")]


@app.callback(invoke_without_command=True, epilog=examples("frozenbench analysis", "frozenbench analysis --out report"))
def run(
    context: typer.Context,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the report.")] = OUT,
    ignore: Ignore = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Turn run directories into comparison tables, figures and a report."""
    if context.invoked_subcommand is not None:
        return
    # Imported here so that --help does not wait for pandas and matplotlib.
    from analysis.report.build import write_reports
    from classify.runs import check_codes, load_runs, runs_folder

    ignored = check_codes(comma_separated(ignore))
    found, skipped = load_runs(runs or runs_folder())
    summaries, written = write_reports(found, skipped, out, ignored)
    if as_json:
        left_out = [{"run_dir": str(path), "reason": reason} for path, reason in skipped]
        print(json.dumps({"answers": summaries, "written": [str(path) for path in written], "left_out": left_out}))
        return
    for test_set, findings in summaries.items():
        say(f"{test_set} (95% intervals in brackets)")
        say()
        for finding in dict.fromkeys(findings):  # several claims may lack the same runs
            say(f"- {finding}")
        say()
    for path in written:
        say(f"wrote {path}")


EXAMPLES = examples(
    "frozenbench run photos",
    "frozenbench run photos --backbone vgg16,mobilenetv2 --image-size 96",
    "frozenbench run cifar10 --preset full",
)


@app.command(epilog=EXAMPLES)
def experiment(
    context: typer.Context,
    data: Annotated[
        str | None, typer.Argument(help="cifar10, sample, or a folder or file of images, as for featurize --data.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Networks, comma-separated: keras.applications names, .keras or .onnx files.")
    ] = "vgg16",
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images are resized to N x N.  [default: 64 for vgg16, an ONNX file's own, else 96]"),
    ] = None,
    layers: Annotated[
        str, typer.Option(help="Layers to tap, comma-separated.  [default: block3_pool of vgg16, else the last one]")
    ] = "",
    pool: Annotated[
        str, typer.Option(help="avg, max, grid2, grid4, flatten or cls.  [default: by --preset for vgg16, else avg]")
    ] = "",
    preprocess: Annotated[
        str,
        typer.Option(help="auto (the network's own), caffe, tf, torch or none; or one for each network: auto,torch."),
    ] = "auto",
    model: Annotated[str, typer.Option(help="Heads, comma-separated, as for classify.")] = "all",
    train_size: Annotated[
        str,
        typer.Option(
            help="Numbers of training images, comma-separated; all images are always one more.  [default: two sizes "
            "that follow the data, five with --preset full]"
        ),
    ] = "",
    test_fraction: Annotated[float | None, typer.Option(help="As for featurize.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="As for featurize.")] = None,
    groups: Annotated[str | None, typer.Option(help="As for featurize.")] = None,
    labels: Annotated[Path | None, typer.Option(help="As for featurize.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="As for featurize.")] = None,
    screen: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Several networks: judge them on N training images first, the better half on 2 N, and so on; only the "
            "last one takes part in the whole experiment.",
        ),
    ] = None,
    preset: Annotated[str, typer.Option(help="quick (minutes) or full (overnight).")] = "quick",
    folder: Annotated[
        Path | None, typer.Option(help="Folder for features and runs.  [default: data/experiments/NAME-PRESET]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for tables, figures and the report.  [default: the folder report in --folder]"),
    ] = None,
    ignore: Ignore = "",
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Threads of the heads.  [default: one per usable physical core]")
    ] = None,
    data_option: Annotated[str | None, typer.Option("--data", hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Measure what a frozen network is worth on images: features, controls, heads, report.

    After an interruption, the same command resumes.
    """
    from analysis.experiment import Study, experiment_folder, run_experiment
    from analysis.findings import answer
    from analysis.frame import comparison
    from analysis.report.build import write_reports
    from analysis.screening import screened
    from analysis.steps import Step, Steps, steps_display
    from classify.cli import numbers
    from classify.heads import head_names
    from classify.runs import check_codes
    from featurize.images import class_counts, load_dataset

    ignored = check_codes(comma_separated(ignore))
    study = Study(
        preset=preset,
        backbones=comma_separated(backbone),
        image_size=image_size,
        layers=comma_separated(layers),
        pool=pool,
        preprocess=preprocess,
        models=tuple(head_names(model)),
        sizes=tuple(numbers("--train-size", train_size, 1)),
    )
    data = data_option or data
    if data is None and context.info_name == "run":
        raise UsageError("run: expected images, such as frozenbench run photos, or run sample, which comes along")
    if not study.backbones:
        raise UsageError("--backbone names no network; expected one, such as vgg16, or several, comma-separated")
    dataset = load_dataset(
        data or "cifar10", test_fraction, folds=folds, groups=groups, labels=labels, max_pixels=max_pixels
    )
    for line in class_counts(dataset):
        logger.info(line)
    folder = folder or experiment_folder(dataset, preset)
    out = out or folder / "report"
    with steps_display() as display:
        steps = Steps(display)
        report = Step(
            "report", "report", REPORT_SECONDS, lambda _: write_reports(done.runs, done.left_out, out, ignored)
        )
        study, left_out = screened(study, dataset, steps, first=screen, folder=folder, later=[report])
        done = run_experiment(study, dataset, steps, folder=folder, threads=jobs or 0, later=[report])
        done.left_out += left_out
        [(_, written)] = steps.carry_out([report])
    page = next(path for path in written if path.suffix == ".html")
    found = answer(comparison(done.runs))
    if as_json:
        print(json.dumps(experiment_as_json(done, found, page)))
        return
    for reason in dict.fromkeys(reason for _, reason in done.left_out):
        say(reason)
    for line in found.lines():
        say(line)
    say(f"report: {page}")


AUDIT_EXAMPLES = examples(
    "frozenbench audit photos-vgg16", "frozenbench audit data/features/photos-vgg16-imagenet-64px.h5"
)


@app.command(epilog=AUDIT_EXAMPLES)
def audit(
    cache: Annotated[
        Path, typer.Argument(metavar="CACHE", help="A feature cache, or the beginning of its name in data/features.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the tables and the page.  [default: data/audits/CACHE, where the report looks]"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Number of threads.  [default: one per usable physical core]")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of the runs that copies may have flattered.  [default: data/runs]")
    ] = None,
    cluster: Annotated[str, typer.Option(help="Pass over the rows on Dask workers: local:N, or tcp://HOST:PORT.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Find suspected labels, copies and strange pictures in a cache. Nothing of yours is changed."""
    import joblib

    from analysis.audit import audit_folder
    from analysis.audit.build import audit_cache
    from classify.runs import load_runs, runs_folder
    from featurize.cache import find_cache, read_info
    from featurize.core.cluster import connected
    from featurize.core.environment import library_versions

    info = read_info(find_cache(cache))
    folder = runs or runs_folder()
    found = load_runs(folder).runs if any(folder.glob("*/*/result.json")) else {}
    threads = jobs or joblib.cpu_count(only_physical_cores=True)
    versions = functools.partial(library_versions, ["frozenbench", "scikit-learn", "numpy", "joblib", "distributed"])
    with connected(cluster, versions) if cluster else nullcontext() as client:
        done = audit_cache(info, out or audit_folder(info.path.stem), found, threads, client)
    if as_json:
        print(json.dumps({**done.summary, "written": [str(path) for path in done.written]}))
        return
    for finding in done.findings:
        say(finding)
    for path in done.written:
        say(f"wrote {path}")


SERVE_EXAMPLES = examples(
    "frozenbench serve svm-1f3a",
    "curl -F file=@picture.jpg http://127.0.0.1:8000/predict",
)


def serve(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run: its name, a unique beginning of the name, or its directory.")
    ],
    host: Annotated[
        str, typer.Option(help="The address to listen on; others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 for a free one.")] = 8000,
    token: Annotated[
        str,
        typer.Option(
            help="What requests must carry.  [default: none; with --host of other machines one is made and printed]"
        ),
    ] = "",
    head: Annotated[
        str, typer.Option(help="The module:Class that the run was trained with, if it was; the module is imported.")
    ] = "",
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Larger pictures are refused.  [default: 50 million]")
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of the runs.  [default: data/runs]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Classify pictures on a local web page, and for other programs over HTTP. Ctrl-C ends it."""
    from importlib.util import find_spec

    from classify.runs import find_run, runs_folder

    missing = [name for name in ("starlette", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise UsageError(f"serve needs {missing[0]}, which is not installed; pip install 'frozenbench[serve]'")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError("--token: expected letters, digits and signs without spaces")
    from analysis.serving import server

    server.serve(find_run(run, runs or runs_folder()), host, port, token, head, max_pixels, as_json=as_json)


def experiment_as_json(done: "Experiment", found: "Answer", page: Path) -> dict[str, Any]:
    """The facts of an experiment that `--json` prints."""
    from classify.table import run_as_json

    runs = {path: run_as_json(path, result) for path, result in done.runs.items()}
    best = runs[Path(found.best["run_dir"])]
    gain = None
    if found.gain is not None:
        gain = {
            "points": 100 * found.gain["gain"],
            "low": 100 * found.gain["gain_low"],
            "high": 100 * found.gain["gain_high"],
            "control": found.gain["control_approach"],
        }
    return {
        "report": str(page),
        "best": {key: best[key] for key in ("model", "features", "accuracy", "accuracy_low", "accuracy_high")},
        "gain": gain,
        "runs": sorted(runs.values(), key=lambda run: -run["accuracy"]),
        "left_out": [{"what": str(run_dir), "why": reason} for run_dir, reason in done.left_out],
    }

"""Stage 1 on the command line: `frozenbench featurize`."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from featurize.cache import CacheInfo, find_cache, read_info
from featurize.core.console import TYPER_OPTIONS, Quiet, comma_separated, examples, progress_display, say
from featurize.core.errors import UsageError
from featurize.exchange import EXPORT_EXAMPLES, IMPORT_EXAMPLES, export_cache, import_cache

if TYPE_CHECKING:
    from featurize.extraction import Compute, Extraction, Plan

logger = logging.getLogger("frozenbench")
app = typer.Typer(**TYPER_OPTIONS)
app.command("export", epilog=EXPORT_EXAMPLES)(export_cache)
app.command("import", epilog=IMPORT_EXAMPLES)(import_cache)
SKIPPED_SHOWN = 20


@app.callback(
    invoke_without_command=True,
    epilog=examples(
        "frozenbench featurize --data photos --layers block3_pool --pool grid2",
        "frozenbench featurize --data photos --backbone mobilenetv2 --image-size 224 --flip",
        "frozenbench featurize --data photos --backbone pixels",
    ),
)
def run(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="cifar10, sample, a folder of class folders of images or of CIFAR-10's files, or an .npz file."
        ),
    ] = "cifar10",
    backbone: Annotated[
        str,
        typer.Option(help="A keras.applications name, a .keras or .onnx file, or pixels (the control: no network)."),
    ] = "vgg16",
    weights: Annotated[str, typer.Option(help="imagenet, random (a control), or an .h5 file.")] = "imagenet",
    layers: Annotated[str, typer.Option(help="Layers to tap, comma-separated.  [default: the last one]")] = "",
    pool: Annotated[
        str, typer.Option(help="avg, max, grid2, grid4, flatten, or cls (the first token of a transformer).")
    ] = "avg",
    image_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images are resized to N x N.  [default: 96; 32 for pixels; an ONNX file's own]"),
    ] = None,
    resize: Annotated[str, typer.Option(help="bicubic, lanczos, bilinear or nearest.")] = "bicubic",
    aspect: Annotated[str, typer.Option(help="Images that are not square: crop, stretch or pad.")] = "crop",
    flip: Annotated[bool, typer.Option(help="Average the vectors of the image and its mirror image.")] = False,
    preprocess: Annotated[str, typer.Option(help="auto (the backbone's own), caffe, tf, torch or none.")] = "auto",
    mean: Annotated[str, typer.Option(help="R,G,B for values 0..1, in place of --preprocess.")] = "",
    std: Annotated[str, typer.Option(help="R,G,B for values 0..1, with --mean.")] = "",
    engine: Annotated[
        str,
        typer.Option(help="auto (the fastest that gives TensorFlow's numbers), tensorflow, winograd or openvino."),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="Of the network's products: float32, bfloat16 or int8. The lower two are faster, for networks of the "
            "VGG kind, on processors that have them; their cost is measured on training images first."
        ),
    ] = "float32",
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Go on if --precision costs more than half a point of accuracy.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Stored type: float32 or float16.")] = "float32",
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per pass.  [default: by size]")] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(help="Share of each class for testing, if class folders have no splits.  [default: 0.2]"),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="For few images: cross-validation in K folds, in which every image is tested once."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Keep the images of a group (a patient, a camera) on one side: a regular expression that finds the "
            "group in an image's path, or a CSV file with the columns path,group."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="A CSV file with the columns path,label[,split][,group], in place of class folders."),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Skip pictures of more pixels.  [default: 89 million]")
    ] = None,
    train: Annotated[int | None, typer.Option(min=1, help="Only the first N training images.")] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Only the first N test images.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="For --weights random.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Path of the cache.  [default: a descriptive name in data/features]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache that has another specification.")
    ] = False,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(help="Take vectors of the same images from this cache too; may be given several times."),
    ] = None,
    no_reuse: Annotated[
        bool, typer.Option("--no-reuse", help="Compute everything: take no vectors from caches in the same folder.")
    ] = False,
    cluster: Annotated[
        str, typer.Option(help="Compute on a Dask cluster: local:N for N processes here, or tcp://HOST:PORT.")
    ] = "",
    shards: Annotated[str, typer.Option(help="Folder or URL for unfinished rows.  [default: beside the cache]")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate time and size, and write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Run a frozen network over every image once and cache its vectors in an HDF5 file."""
    if context.invoked_subcommand is not None:
        return
    # Imported here so that --help does not load numpy, h5py and Pillow.
    from featurize.engines import check_engine
    from featurize.extraction import (
        Extraction,
        ExtractionOptions,
        carry_out,
        finished_before,
        grown_without_keras,
        plan_extraction,
    )
    from featurize.images import class_counts, load_dataset
    from featurize.networks import PIXELS, load_backbone, usual_image_size
    from featurize.networks.applications import mean_and_std

    options = ExtractionOptions(pool, resize, aspect, flip, engine, dtype, batch_size, precision)
    check_engine(engine)
    if reuse and no_reuse:
        raise UsageError("--reuse and --no-reuse: expected one of them")
    caches = None if no_reuse else [find_cache(name) for name in reuse or ()]
    if backbone == PIXELS and (layers or pool != "avg"):
        logger.info("pixels has no layers: --layers and --pool do not apply, the vector is the image itself")
    compute = cluster_compute(cluster)
    shards_at = shards_folder(shards)
    dataset = load_dataset(data, test_fraction, folds=folds, groups=groups, labels=labels, max_pixels=max_pixels).first(
        train=train, test=test
    )
    for line in class_counts(dataset):
        logger.info(line)
    arguments: dict[str, Any] = {
        "backbone": backbone,
        "weights": weights,
        "layers": comma_separated(layers),
        "image_size": image_size or usual_image_size(backbone),
        "preprocess": mean_and_std(preprocess, mean, std),
        "seed": seed,
    }
    if not dry_run and not overwrite and (found := finished_before(dataset, arguments, options, out=out)):
        report(Extraction(found, reused=True), as_json=as_json)
        return
    if not dry_run and not cluster:
        with progress_display("images") as progress:
            grown = grown_without_keras(
                dataset,
                arguments,
                options,
                out=out,
                overwrite=overwrite,
                progress=progress,
                shards_at=shards_at,
                reuse=caches,
            )
        if grown:
            report(grown, as_json=as_json)
            return
    plan = plan_extraction(dataset, load_backbone(**arguments, download=not dry_run), options, out=out, dry=dry_run)
    if plan.engine.name:
        logger.info("engine %s %s: %s", plan.engine.name, plan.engine.version, plan.engine.why)
    if dry_run:
        show_estimate(plan, caches, as_json=as_json)
        return
    with progress_display("images") as progress:
        result = carry_out(
            plan,
            overwrite=overwrite,
            progress=progress,
            compute=compute,
            shards_at=shards_at,
            accept_loss=accept_loss,
            reuse=caches,
        )
    report(result, as_json=as_json)


@app.command(epilog=examples("frozenbench featurize info data/features/photos-pixels-32px.h5"))
def info(
    file: Annotated[Path, typer.Argument(help="A feature cache, or the beginning of its name in data/features.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Describe a feature cache."""
    found = read_info(find_cache(file))
    if as_json:
        print(json.dumps(found.as_json()))
    else:
        show(found)


@app.command(epilog=examples("frozenbench featurize verify data/features/photos-pixels-32px.h5 --recompute 100"))
def verify(
    file: Annotated[Path, typer.Argument(help="A feature cache, or the beginning of its name in data/features.")],
    recompute: Annotated[
        int, typer.Option(min=0, help="Also compute N random rows of each split again from the source images.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="For the choice of these rows.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Check a feature cache: its seal, numbers, labels and ids. The exit code is 1 if anything is wrong."""
    from featurize.verify import verify as find_problems

    file = find_cache(file)
    problems = find_problems(file, recompute, seed)
    if as_json:
        print(json.dumps({"ok": not problems, "problems": problems}))
    else:
        for problem in problems:
            logger.error(problem)
        if not problems:
            same = f", and {recompute} rows of each split give the same vectors again" if recompute else ""
            say(f"{file} is intact{same}")
    if problems:
        raise typer.Exit(1)


@app.command(epilog=examples("frozenbench featurize backbones", "frozenbench featurize backbones mobilenetv2"))
def backbones(
    name: Annotated[
        str, typer.Argument(help="A keras.applications name, or a .keras or .onnx file, to list its layers.")
    ] = "",
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Show the layers' shapes for N x N images.  [default: 96]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """List the available networks, or the layers of one. Nothing is downloaded."""
    from featurize.networks.catalogue import catalogue, describe

    if not name:
        entries = catalogue()
        if as_json:
            print(json.dumps({"backbones": [dataclasses.asdict(entry) for entry in entries]}))
            return
        say(f"{'name':<18} smallest images  preprocessing")
        for entry in entries:
            say(f"{entry.name:<18} {entry.min_image_size:>12} px  {entry.preprocess}")
        return
    found = describe(name, image_size)
    if as_json:
        print(json.dumps(dataclasses.asdict(found)))
        return
    say(f"{'backbone':<16} {found.name}")
    say(f"{'smallest images':<16} {found.min_image_size} px")
    say(f"{'preprocessing':<16} {found.preprocess or 'not stated: --preprocess, or --mean and --std'}")
    say(f"{'default layer':<16} {found.default_layer}")
    say(f"{'parameters':<16} {found.parameters:,}")
    say(f"layers and their output for images of {found.image_size} x {found.image_size} px:")
    width = max(len(layer.name) for layer in found.layers)
    for layer in found.layers:
        say(f"  {layer.name:<{width}} {' x '.join(str(size or '?') for size in layer.shape):<16} {layer.kind}")


def report(result: "Extraction", *, as_json: bool) -> None:
    """Print the result of an extraction."""
    if as_json:
        rows = {
            "resumed_rows": result.resumed_rows,
            "taken_rows": result.taken_rows,
            "computed_rows": result.computed_rows,
        }
        print(json.dumps({**result.info.as_json(), "reused": result.reused, **rows}))
        return
    if result.reused:
        say(f"reused: {result.info.path}")
    show(result.info)


def cluster_compute(address: str) -> "Compute | None":
    """What computes on the cluster at an address; None without an address.

    Raises:
        UsageError: the address is not valid, or Dask is not installed.
    """
    if not address:
        return None
    from featurize.core.cluster import check_address

    check_address(address)
    from featurize.extraction.distributed import on_cluster

    return on_cluster(address)


def shards_folder(name: str) -> Path | None:
    """The folder of shards from its path or URL; None for an empty name.

    Raises:
        UsageError: the library for the URL is not installed, or the store cannot be reached.
    """
    if not name:
        return None
    if "://" not in name:
        return Path(name)
    try:
        from upath import UPath

        folder = UPath(name)
        folder.fs.exists(folder.path)
    except ImportError as error:
        raise UsageError(
            f"--shards {name}: {error}; pip install 'frozenbench[cluster]' and the library for this URL"
        ) from error
    except Exception as error:  # each library has errors of its own
        raise UsageError(f"--shards {name} cannot be reached: {error}") from error
    return Path(folder.path) if folder.protocol in ("file", "local") else cast(Path, folder)


def show_estimate(plan: "Plan", reuse: list[Path] | None, *, as_json: bool) -> None:
    """Print what an extraction would cost, with vectors from the caches that `carry_out` would take them from."""
    from featurize.extraction import estimate, rows_of_other_caches

    with rows_of_other_caches(plan.path, plan.spec, plan.dataset, reuse, overwrite=True) as taken:
        if taken.main:
            logger.info(taken.in_words)
        found = estimate(plan, taken.to_compute)
    rows = {name: len(split) for name, split in plan.dataset.splits.items()}
    if as_json:
        splits = {name: {"rows": count} for name, count in rows.items()}
        facts = {
            "path": str(plan.path),
            "exists": plan.path.exists(),
            "splits": splits,
            "taken_rows": taken.total - taken.to_compute,
        }
        print(json.dumps({**facts, **dataclasses.asdict(found)}))
        return
    say(f"cache        {plan.path}" + (" (exists)" if plan.path.exists() else ""))
    say(f"images       {plan.dataset.name}: " + ", ".join(f"{count:,} {name}" for name, count in rows.items()))
    say(f"vector       {found.dim:,} x {plan.spec.dtype}")
    say(f"file         {found.file_bytes / 1e6:,.0f} MB, and as much again while it is made")
    say(f"memory       {found.memory_bytes / 1e6:,.0f} MB")
    say(f"time         about {found.seconds:,.0f} s, from one batch of {plan.batch_size} images")


def show(found: CacheInfo) -> None:
    """Print the description of a cache, one fact a line."""
    for name, fact in found.facts().items():
        say(f"{name:<12} {fact}")
    for split, files in found.skipped.items():
        if files:
            say(f"{'skipped':<12} {len(files):,} {split} images that could not be read:")
        for path, why in files[:SKIPPED_SHOWN]:
            say(f"{'':<12} {path}: {why}")
        if len(files) > SKIPPED_SHOWN:
            say(f"{'':<12} ... (all of them: --json)")

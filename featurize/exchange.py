"""The commands that exchange vectors with other programs: `frozenbench featurize export` and `import`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from featurize.cache import find_cache
from featurize.core.console import Quiet, examples, progress_display, say
from featurize.core.errors import UsageError

EXPORT_EXAMPLES = examples(
    "frozenbench featurize export data/features/photos-pixels-32px.h5 --to photos.parquet",
    "frozenbench featurize export data/features/photos-pixels-32px.h5 --to projector",
)
IMPORT_EXAMPLES = examples(
    "frozenbench featurize import dinov3.parquet --name dinov3-vitb16",
    "frozenbench featurize import clip.npz --name clip-vitb32 --vector embeddings --label targets",
)


def export_cache(
    file: Annotated[Path, typer.Argument(help="A feature cache, or the beginning of its name in data/features.")],
    out: Annotated[
        Path | None, typer.Argument(help="With the name of a format: the file, or the folder for projector.")
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            help="A file with the suffix of its format, or the name of a format: parquet, npz, safetensors, arrow, "
            "csv, or projector (a folder for TensorBoard)."
        ),
    ] = "parquet",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Write the vectors of a cache as a file of another program.

    Without a path the file is beside the cache.
    """
    from featurize.formats import export_features
    from featurize.formats.export import KINDS, PROJECTOR

    file = find_cache(file)
    kind = to if to in KINDS else ""
    if out and not kind:
        raise UsageError(f"--to {to}: with a second path, expected the name of a format: {', '.join(KINDS)}")
    target = Path(to)
    if kind:
        target = out or file.with_name(f"{file.stem}-{kind}" if kind == PROJECTOR else f"{file.stem}.{kind}")
    written = export_features(file, target, kind=kind, overwrite=overwrite)
    if as_json:
        print(json.dumps({"written": [str(path) for path in written]}))
        return
    for path in written:
        say(f"wrote {path}")


def import_cache(
    file: Annotated[Path, typer.Argument(help="A .parquet, .arrow, .csv, .npz or .safetensors file.")],
    name: Annotated[str, typer.Option(help="The network that made the vectors, such as dinov3-vitb16.")],
    vector: Annotated[
        str | None, typer.Option(help="Column of the vectors.  [default: vector; x in a file of arrays]")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of the labels, integers or text.  [default: label; y]")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Column with train or test.  [default: split; else by content]")
    ] = None,
    path: Annotated[str | None, typer.Option(help="Column of the image files.  [default: path; paths]")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Column of integers.  [default: id; ids; else rows]")] = None,
    group: Annotated[
        str | None, typer.Option(help="Column of groups, which are never divided.  [default: group; groups]")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="Share of each class for testing, without a split.  [default: 0.2]")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Path of the cache.  [default: a descriptive name in data/features]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache that has another specification.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    _quiet: Quiet = False,
) -> None:
    """Make a cache of vectors that were made elsewhere."""
    from featurize.formats import import_features

    columns = {"vector": vector, "label": label, "split": split, "path": path, "id": id_, "group": group}
    with progress_display("vectors") as progress:
        done = import_features(
            file, name, out=out, test_fraction=test_fraction, overwrite=overwrite, progress=progress, **columns
        )
    if as_json:
        print(json.dumps({**done.info.as_json(), "reused": done.reused, "resumed_rows": 0}))
        return
    if done.reused:
        say(f"reused: {done.info.path}")
    for fact, value in done.info.facts().items():
        say(f"{fact:<12} {value}")

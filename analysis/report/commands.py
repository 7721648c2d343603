"""How to make a report's runs again, from what the runs record about themselves: commands and versions."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.audit import SUSPECTS, audit_folder
from classify.runs import RunResult, runs_folder
from featurize.cache import IMPORTED

ALL_IMAGES = {"cifar10": {"train": 50_000, "test": 10_000}, "sample": {"train": 2_000, "test": 1_000}}
SPLIT_OPTIONS = ("test_fraction", "folds", "groups", "labels", "max_pixels")
REPEATS = 5  # draws, for the ledger of variance
DEFAULTS = {"resize": "bicubic", "aspect": "crop", "dtype": "float32"}


def reproduction(runs: Mapping[Path, RunResult]) -> list[str]:
    """The commands, in order: featurize for each cache, audit where runs need it, classify for sets of runs, analysis.

    Args:
        runs: by their directories.
    """
    by_cache: dict[str, dict[Path, RunResult]] = {}
    for run_dir, result in runs.items():
        by_cache.setdefault(result.cache, {})[run_dir] = result
    commands = [featurize_command(next(iter(own.values()))) for own in by_cache.values()]
    commands += [_command("audit", [cache]) for cache in _audited_caches(runs)]
    for own in by_cache.values():
        commands += classify_commands(own)
    folders = dict.fromkeys(run_dir.parent.parent for run_dir in runs)
    return [*commands, *(_command("analysis", _runs_option(folder)) for folder in folders)]


def versions(runs: Mapping[Path, RunResult]) -> dict[str, str]:
    """The libraries and machines of the runs."""
    found: dict[str, set[str]] = {"machine": {result.machine for result in runs.values()}}
    for result in runs.values():
        for name, version in result.versions.items():
            found.setdefault(name, set()).add(version)
    return {name: ", ".join(sorted(several)) for name, several in sorted(found.items())}


def _audited_caches(runs: Mapping[Path, RunResult]) -> list[str]:
    """The caches whose audits, in their default folders, name the suspects of the runs."""
    tables = {result.suspects_file for result in runs.values() if result.suspects}
    folders = {result.cache: audit_folder(Path(result.cache).stem) for result in runs.values()}
    return [cache for cache, folder in folders.items() if str(folder / SUSPECTS) in tables]


def featurize_command(result: RunResult) -> str:
    """The command that makes the cache of a run. It names the engine, so that the vectors are the same."""
    source, spec = result.source, result.spec
    if IMPORTED in source:
        words = [source[IMPORTED], "--name", spec["backbone"]]
        for option, column in source.get("columns", {}).items():
            words += [f"--{option}", column]
        return _command("featurize import", [*words, "--out", result.cache])
    if not source.get("data") or "backbone" not in source:
        return f"# {result.cache}: it was made from Python, and does not record where its images are"
    words = ["--data", source["data"]]
    for name in SPLIT_OPTIONS:
        if name in source:
            words += [f"--{name.replace('_', '-')}", source[name]]
    images = source.get("images", {})
    if images and images != ALL_IMAGES.get(source["data"]):
        for split, count in images.items():
            words += [f"--{split}", count]
    words += ["--backbone", source["backbone"]]
    if spec["engine"]:
        if source["weights"] != "imagenet":
            words += ["--weights", source["weights"]]
        if source["weights"] == "random":
            words += ["--seed", source["seed"]]
        words += ["--layers", ",".join(spec["layers"]), "--pool", spec["pool"]]
        words += ["--preprocess", spec["preprocess"], "--engine", spec["engine"]]
    words += ["--image-size", spec["image_size"]]
    for name, usual in DEFAULTS.items():
        if spec[name] != usual:
            words += [f"--{name}", spec[name]]
    if spec["flip"]:
        words.append("--flip")
    return _command("featurize", [*words, "--out", result.cache])


def classify_commands(runs: Mapping[Path, RunResult]) -> list[str]:
    """The fewest commands, of those with lists of heads, sizes and seeds, that train runs on one cache."""
    settings: dict[tuple[Any, ...], dict[tuple[int | None, int], list[str]]] = {}
    repeated: dict[tuple[Any, ...], dict[int | None, list[RunResult]]] = {}
    for run_dir, result in runs.items():
        layers = () if list(result.layers) == list(result.spec["layers"]) else tuple(result.layers)
        suspects = result.suspects, result.suspects_file
        key = (result.cache, run_dir.parent.parent, layers, result.tuned, result.class_weight, *suspects)
        if result.draw is not None:
            repeated.setdefault(key, {}).setdefault(result.train_size, []).append(result)
            continue
        settings.setdefault(key, {}).setdefault((result.train_size, result.seed), []).append(_named(result))
    commands = []
    for key, trained in settings.items():
        for models, sizes, seeds in _products(trained):
            commands.append(_classify_command(key, models, sizes, seeds, []))
    for key, by_size in repeated.items():
        for size, again in by_size.items():
            draws = [result.draw for result in again if result.draw is not None]
            heads = sorted({_named(result) for result in again})
            number = max(draws) - min(draws) + 1
            commands.append(_classify_command(key, heads, (size,), (min(draws),), ["--repeats", number]))
    return commands


def repeat_commands(runs: Mapping[Path, RunResult]) -> list[str]:
    """The commands that train these runs again on other draws of the training images, for the ledger of variance."""
    by_cache: dict[tuple[Any, ...], list[str]] = {}
    for run_dir, result in runs.items():
        layers = () if list(result.layers) == list(result.spec["layers"]) else tuple(result.layers)
        suspects = result.suspects, result.suspects_file
        key = (result.cache, run_dir.parent.parent, layers, 0, result.class_weight, *suspects)
        by_cache.setdefault(key, []).append(_named(result))
    return [_classify_command(key, models, (None,), (0,), ["--repeats", REPEATS]) for key, models in by_cache.items()]


def _named(result: RunResult) -> str:
    """What `--model` or `--head` calls a head."""
    return result.own_head or result.model


def _classify_command(
    key: tuple[Any, ...],
    models: Sequence[str],
    sizes: Sequence[int | None],
    seeds: Sequence[int],
    more: Sequence[Any],
) -> str:
    """A command that trains heads with these sizes and seeds; the key holds what all its runs have in common."""
    cache, folder, layers, trials, weight, suspects, table = key
    words: list[Any] = ["--features", cache]
    for option, own in (("--model", False), ("--head", True)):
        if chosen := [model for model in models if (":" in model) == own]:
            words += [option, ",".join(chosen)]
    if layers:
        words += ["--layers", ",".join(layers)]
    if tuple(sizes) != (None,):
        words += ["--train-size", _joined(sizes)]
    if tuple(seeds) != (0,):
        words += ["--seed", _joined(seeds)]
    if trials:
        words += ["--tune", trials]
    if weight:
        words += ["--class-weight", weight]
    if suspects:
        words += ["--drop-suspects" if suspects == "dropped" else "--weight-suspects", table]
    return _command("classify", [*words, *more, *_runs_option(folder)])


def _products(
    trained: Mapping[tuple[int | None, int], Sequence[str]],
) -> list[tuple[tuple[str, ...], tuple[int | None, ...], tuple[int, ...]]]:
    """Heads by size and seed as products: heads, sizes and seeds that were all combined."""
    seeds_of: dict[tuple[tuple[str, ...], int | None], list[int]] = {}
    for (size, seed), models in sorted(trained.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        seeds_of.setdefault((tuple(sorted(models)), size), []).append(seed)
    sizes_of: dict[tuple[tuple[str, ...], tuple[int, ...], bool], list[int | None]] = {}
    for (models, size), seeds in seeds_of.items():
        sizes_of.setdefault((models, tuple(seeds), size is None), []).append(size)
    return [(models, tuple(sizes), seeds) for (models, seeds, _), sizes in sizes_of.items()]


def _runs_option(folder: Path) -> list[Any]:
    return [] if folder.absolute() == runs_folder().absolute() else ["--runs", folder]


def _command(name: str, words: Iterable[Any]) -> str:
    return shlex.join(["frozenbench", *name.split(), *map(str, words)])


def _joined(numbers: Iterable[int | None]) -> str:
    return ",".join(map(str, numbers))

"""A cache whose rows other caches hold, all or in part: made without loading Keras, which takes seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featurize.core.errors import CacheMismatchError
from featurize.engines import Choice, Engine, default_batch_size
from featurize.extraction.loop import Extraction, Progress, compute_here, kept_cache, write_cache
from featurize.extraction.plan import ExtractionOptions, Plan, rows_of_other_caches, same_network_before
from featurize.extraction.saved_networks import saved_extractor
from featurize.images import ImageDataset
from featurize.networks import Backbone, request


def grown_without_keras(
    dataset: ImageDataset,
    backbone: Mapping[str, Any],
    options: ExtractionOptions,
    *,
    out: Path | None = None,
    folder: Path | None = None,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
    shards_at: Path | None = None,
    reuse: Sequence[Path | str] | None = (),
) -> Extraction | None:
    """The cache of images most of whose vectors other caches hold, made without loading Keras, which takes seconds.

    New images are computed by the network that the last extraction saved.

    Returns:
        None if no cache knows any of the images, no network was saved for the new ones, or the loss of a precision
        must be known.

    Args:
        dataset: images and labels.
        backbone: the arguments of `load_backbone`.
        options: of the cache.
        out: path of the cache; by default its usual name.
        folder: where caches with the usual name are; the data folder by default.
        overwrite: as for `extract_features`, like the errors.
        progress: called after each batch.
        shards_at: the folder for shards; beside the cache by default.
        reuse: further caches; None to take nothing.
    """
    if reuse is None or options.precision != "float32":
        return None
    found = same_network_before(dataset, backbone, options, out=out, folder=folder, files=map(Path, reuse))
    if found is None:
        return None
    path, like = found
    spec = replace(like.spec, dataset_digest=dataset.digest)
    try:
        if kept_cache(path, spec, dataset, overwrite=overwrite, grow=True):
            return None
    except CacheMismatchError:  # the network will show whether it is really another one
        return None
    with rows_of_other_caches(path, spec, dataset, reuse, overwrite=overwrite) as known:
        if known.main is None:
            return None
        run: Engine = _no_engine
        if known.to_compute:
            saved = saved_extractor(spec)
            if saved is None:
                return None
            run = saved.engine.run
        arguments = {name: value for name, value in backbone.items() if name != "image_size"}
        network = Backbone(
            spec.backbone,
            like.weights,
            spec.weights_digest,
            spec.layers,
            spec.image_size,
            spec.preprocess,
            source=request(**arguments),
        )
        engine = Choice(run, spec.engine, spec.engine_version, like.engine_choice)
        batch_size = options.batch_size or default_batch_size(spec.image_size)
        plan = Plan(network, engine, spec, dataset, path, batch_size)
        return write_cache(
            plan,
            known,
            None,
            overwrite=overwrite,
            grow=True,
            progress=progress,
            compute=compute_here,
            shards_at=shards_at,
        )


def _no_engine(_: np.ndarray) -> list[np.ndarray]:
    """In place of an engine where nothing is to be computed."""
    raise AssertionError("all vectors are known")

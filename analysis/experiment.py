"""The whole experiment: images -> features and controls -> every head, on few and on all images.

Finished features and runs are reused, so the same command resumes an interrupted experiment.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.steps import Progress, Step, Steps
from featurize.core.errors import DataError, HeadError, UsageError, suggestion
from featurize.core.files import data_root
from featurize.networks.pooling import check_pool

if TYPE_CHECKING:
    from classify.runs import RunResult
    from classify.training import Job
    from featurize.cache import CacheInfo
    from featurize.images import ImageDataset

PIXELS = "pixels"
SCRATCH = "cnn"
VGG16 = "vgg16"
VGG16_LAYER = "block3_pool"  # the last one whose kernels come with the package
IMAGE_SIZE = 64  # for VGG16, in pixels; measured on CIFAR-10
PIXELS_SIZE = 32
FEW_IMAGES = 1_000  # below this, --preset quick draws each small training set once: an answer in a minute or two
PER_CLASS = (2, 5, 10, 30, 100, 300, 1000)  # sizes of small training sets, in images per class
# Rough seconds on two cores: for every run, and for each 1,000 images. Only their ratios matter: they turn the
# time spent so far into the time left.
FIXED_SECONDS = 0.5
OTHER_SECONDS_PER_1000 = 2.0
SECONDS_PER_1000 = {"logreg": 0.7, "svm": 1.2, "xgboost": 1.5, "mlp": 2.0, SCRATCH: 33.0}
FEATURE_SECONDS_PER_1000 = 2.0


@dataclass(frozen=True)
class Preset:
    """The extent of an experiment.

    Attributes:
        train: number of training images, the first of the data set; None for all.
        sizes: number of small training sets; all images are always one more.
        sparse: save time: leave out every other size of `PER_CLASS`, train on the untrained network's features with
            all images only, and draw once if there are fewer than `FEW_IMAGES` training images.
        seeds: number of draws of each small training set.
        pool: of VGG16's layer.
        flip: whether features are averaged over the image and its mirror image.
    """

    train: int | None
    sizes: int
    sparse: bool
    seeds: int
    pool: str
    flip: bool


PRESETS = {
    "quick": Preset(train=3_000, sizes=2, sparse=True, seeds=3, pool="grid2", flip=False),
    "full": Preset(train=None, sizes=5, sparse=False, seeds=5, pool="grid4", flip=True),
}


@dataclass(frozen=True)
class Study:
    """What an experiment compares.

    Attributes:
        preset: a key of `PRESETS`.
        backbones: networks, as for `featurize.load_backbone`. The first one is also run with random weights.
        image_size: in pixels; None for `IMAGE_SIZE`, and for networks other than VGG16 their `usual_image_size`.
        layers: to tap; empty for each network's default, which is `VGG16_LAYER` for VGG16.
        pool: how a layer's output is pooled; empty for the preset's for VGG16, and `avg` for other networks.
        preprocess: as for `featurize.load_backbone`; for several networks, one for each of them, comma-separated.
        models: the heads; empty for the default ones.
        sizes: numbers of training images, beside all; empty for sizes that follow the data.

    Raises:
        UsageError: an unknown preset or pooling.
    """

    preset: str = "quick"
    backbones: tuple[str, ...] = (VGG16,)
    image_size: int | None = None
    layers: tuple[str, ...] = ()
    pool: str = ""
    preprocess: str = "auto"
    models: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"--preset {self.preset}: {suggestion(self.preset, list(PRESETS))}")
        if self.pool:
            check_pool(self.pool)

        if len(self._preprocessings) not in (1, len(self.backbones)):
            raise UsageError(
                f"--preprocess {self.preprocess}: expected one for all networks, or one for each of the "
                f"{len(self.backbones)}"
            )

    @property
    def _preprocessings(self) -> list[str]:
        is_one = self.preprocess.startswith("mean ")  # its numbers have commas
        return [self.preprocess] if is_one else self.preprocess.split(",")

    def preprocess_of(self, backbone: str) -> str:
        """The preprocessing of one of the networks."""
        given = self._preprocessings
        return given[0] if len(given) == 1 else given[self.backbones.index(backbone)]

    @property
    def extent(self) -> Preset:
        """The preset."""
        return PRESETS[self.preset]


@dataclass(frozen=True)
class Source:
    """Where features come from: a network with its weights, or `pixels`."""

    backbone: str
    weights: str = "imagenet"

    @property
    def is_pretrained(self) -> bool:
        """Whether it is no control."""
        return self.backbone != PIXELS and self.weights == "imagenet"

    @property
    def name(self) -> str:
        """For the display."""
        if self.backbone == PIXELS:
            return PIXELS
        network = Path(self.backbone).stem if self.backbone.endswith((".keras", ".onnx")) else self.backbone
        return f"{network} with {self.weights} weights"


@dataclass(frozen=True)
class Training:
    """A head to train on some of the images; `rows` is None for all of them."""

    source: Source
    model: str
    rows: int | None
    seed: int


def experiment_folder(dataset: "ImageDataset", preset: str) -> Path:
    """The default folder of an experiment's features, runs and report."""
    return data_root() / "experiments" / f"{dataset.name}-{preset}"


def run_experiment(
    study: Study,
    dataset: "ImageDataset",
    steps: Steps,
    *,
    folder: Path,
    threads: int = 0,
    later: Sequence[Step] = (),
) -> "Experiment":
    """Extract the features, then train every head and a network from scratch, on few and on all images.

    Args:
        study: what to compare.
        dataset: from `featurize.load_dataset`.
        steps: carries out the steps and shows them.
        folder: for features and runs.
        threads: number of threads of the heads; one per usable physical core by default.
        later: the steps that follow, for the time left.

    Raises:
        FrozenbenchError: the images or a network cannot be used, or no head can be trained; finished runs remain.
    """
    import joblib

    from classify.heads import ALL

    preset = study.extent
    dataset = dataset.first(train=preset.train)
    if preset.sparse and len(dataset.splits["train"]) < FEW_IMAGES:
        preset = replace(preset, seeds=1)
    threads = threads or joblib.cpu_count(only_physical_cores=True)
    experiment = Experiment(study, dataset, folder, threads)
    sources = feature_sources(study)
    planned = planned_trainings(sources, study.models or ALL, training_sizes(study, dataset), preset)
    steps.carry_out(
        [experiment.extraction_step(source) for source in sources],
        later=[*(experiment.training_step(training) for training in planned), *later],
    )
    missing = [training for training in planned if not experiment.is_finished(training)]
    steps.carry_out([experiment.training_step(training) for training in missing], later)
    if not experiment.runs:
        raise HeadError(experiment.left_out[0][1])
    return experiment


@dataclass
class Experiment:
    """An experiment under way, and what has come out so far.

    Attributes:
        study: what is compared.
        dataset: the images.
        folder: of features and runs.
        threads: number of threads of the heads.
        features: the caches that exist.
        runs: the finished runs by their directories.
        left_out: the runs that could not be made, with the reason.
    """

    study: Study
    dataset: "ImageDataset"
    folder: Path
    threads: int
    features: "dict[Source, CacheInfo]" = field(default_factory=dict)
    runs: "dict[Path, RunResult]" = field(default_factory=dict)
    left_out: list[tuple[Path, str]] = field(default_factory=list)

    def extraction_step(self, source: Source) -> Step:
        """The step that makes the features of a source."""
        images = sum(map(len, self.dataset.splits.values()))

        def extract(progress: Progress) -> None:
            self.features[source] = extracted(self.dataset, source, self.study, self.folder / "features", progress)

        return Step(f"features: {source.name}", "features", FEATURE_SECONDS_PER_1000 * images / 1000, extract)

    def training_step(self, training: Training) -> Step:
        """The step that trains a head; the features need not exist before it is carried out."""
        rows = training.rows or len(self.dataset.splits["train"])
        draw = f", draw {training.seed + 1}" if training.rows else ""
        seconds = FIXED_SECONDS + SECONDS_PER_1000.get(training.model, OTHER_SECONDS_PER_1000) * rows / 1000

        def train(_: Progress) -> None:
            self._train(training)

        return Step(
            f"{training.model} on {training.source.name}, {rows:,} images{draw}", training.model, seconds, train
        )

    def is_finished(self, training: Training) -> bool:
        """Whether the run is there already; it then counts as a result."""
        from classify.runs import RunResult

        run_dir = self._job(training).run_dir(self.folder / "runs")
        try:
            self.runs[run_dir] = RunResult.read(run_dir)
        except DataError:
            return False
        return True

    def _train(self, training: Training) -> None:
        from classify.training import train_heads

        job, runs = self._job(training), self.folder / "runs"
        keep = training.rows is None and training.source.is_pretrained  # only these heads are worth using later
        results, reasons = train_heads([job], runs, keep_heads=keep)
        self.runs.update(results)
        self.left_out += [(job.run_dir(runs), reason) for reason in reasons]

    def _job(self, training: Training) -> "Job":
        from classify.training import Job

        info = self.features[training.source]
        return Job(training.model, info, rows=training.rows, seed=training.seed, threads=self.threads)


def feature_sources(study: Study) -> list[Source]:
    """The networks of a study, then its controls: the first network with random weights, and the pixels.

    The weights of an ONNX file are those that it holds, so the first other network is the control.
    """
    networks = [name for name in dict.fromkeys(study.backbones) if name != PIXELS]
    controls = [Source(name, "random") for name in networks if not name.endswith(".onnx")]
    return [*map(Source, networks), *controls[:1], Source(PIXELS)]


def training_sizes(study: Study, dataset: "ImageDataset") -> list[int]:
    """The numbers of training images beside all, ascending: those asked for, or sizes that follow the data.

    They are numbers of `PER_CLASS`, up to two thirds of the images of an average class, at which the smallest class
    has an image. Such a size has as many images as the same number of each class.

    Raises:
        UsageError: a size is larger than the number of training images.
    """
    labels = dataset.splits["train"].labels
    if study.sizes:
        if max(study.sizes) > len(labels):
            raise UsageError(
                f"--train-size {max(study.sizes)}: expected at most {len(labels)}, the number of training images"
            )
        return sorted(set(study.sizes) - {len(labels)})
    preset = study.extent
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    usable = [number for number in PER_CLASS if 1.5 * number <= counts.mean() <= number * counts.min()]
    if preset.sparse and len(usable) > preset.sizes:
        usable = usable[::-2][::-1]
    return [number * len(counts) for number in usable[-preset.sizes :]]


def planned_trainings(
    sources: Sequence[Source], models: Sequence[str], sizes: Sequence[int], preset: Preset
) -> list[Training]:
    """The trainings of an experiment. The network from scratch learns from the pixels.

    All images come first, then draw by draw, so that an unfinished experiment already has results.
    """
    planned = []
    draws = [(rows, seed) for seed in range(preset.seeds) for rows in reversed(sizes)]
    for rows, seed in [(None, 0), *draws]:
        for source in sources:
            if rows and preset.sparse and source.weights == "random":
                continue
            names = [model for model in models if model != SCRATCH]
            if source.backbone == PIXELS:
                names.append(SCRATCH)
            planned += [Training(source, model, rows, seed) for model in names]
    return planned


def extracted(dataset: "ImageDataset", source: Source, study: Study, folder: Path, progress: Progress) -> "CacheInfo":
    """The features of one source. The folder belongs to the experiment: a cache of other images is replaced."""
    from featurize.extraction import (
        ExtractionOptions,
        default_name,
        extract_features,
        finished_before,
        grown_without_keras,
    )
    from featurize.networks import load_backbone, usual_image_size

    preset = study.extent
    if source.backbone == PIXELS:
        arguments: dict[str, Any] = {"backbone": PIXELS, "image_size": PIXELS_SIZE}
        options = ExtractionOptions()
    else:
        is_vgg16 = source.backbone.lower() == VGG16
        layers = study.layers or ((VGG16_LAYER,) if is_vgg16 else ())
        size = study.image_size or (IMAGE_SIZE if is_vgg16 else usual_image_size(source.backbone))
        arguments = {
            "backbone": source.backbone,
            "weights": source.weights,
            "layers": layers,
            "image_size": size,
            "preprocess": study.preprocess_of(source.backbone),
        }
        options = ExtractionOptions(study.pool or (preset.pool if is_vgg16 else "avg"), flip=preset.flip)
    if found := finished_before(dataset, arguments, options, folder=folder):
        return found
    if grown := grown_without_keras(dataset, arguments, options, folder=folder, overwrite=True, progress=progress):
        return grown.info
    backbone = load_backbone(**arguments)
    path = folder / default_name(dataset.name, backbone.weights, options.spec(backbone))
    return extract_features(
        dataset, backbone, out=path, overwrite=True, progress=progress, pool=options.pool, flip=options.flip
    ).info

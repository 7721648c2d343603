"""The installed libraries: their versions, and Keras on TensorFlow, imported quietly and only when needed."""

import logging
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from featurize.core.errors import BackboneError

logger = logging.getLogger("frozenbench")


def import_keras() -> ModuleType:
    """Keras 3 on TensorFlow.

    Raises:
        BackboneError: Keras is set to run on another framework.
    """
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return sys.modules["keras"]
    if "tensorflow" not in sys.modules:
        logger.info("loading TensorFlow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    # TensorFlow announces oneDNN and missing GPUs before it reads TF_CPP_MIN_LOG_LEVEL
    # (https://github.com/tensorflow/tensorflow/issues/100442).
    with silenced(2):
        import tensorflow  # noqa: F401
    import keras

    if keras.backend.backend() != "tensorflow":
        raise BackboneError(
            f"Keras runs on {keras.backend.backend()}, expected tensorflow; unset KERAS_BACKEND and try again"
        )
    return keras


def limit_threads(jobs: int) -> None:
    """Limit TensorFlow to `jobs` threads; without effect if this process has already used it."""
    import tensorflow

    with suppress(RuntimeError):
        tensorflow.config.threading.set_intra_op_parallelism_threads(jobs)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)


@contextmanager
def blas_threads(threads: int) -> Iterator[None]:
    """Limit the threads of BLAS and OpenMP, and those of SciPy's own BLAS to one.

    The wheels of NumPy and SciPy each bring an OpenBLAS, whose threads spin for a while when they have nothing to do.
    Where a fit calls the two in turn, as L-BFGS does, the threads of one keep those of the other from the cores: on two
    cores, logistic regression took three to eight times as long as on one (measured).
    """
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController()
    of_scipy = [library.filepath for library in loaded.lib_controllers if _is_scipys(library.filepath)]
    with loaded.limit(limits=threads), loaded.select(filepath=of_scipy).limit(limits=1):
        yield


def _is_scipys(library: str) -> bool:
    """Whether a shared library is part of SciPy's wheel."""
    return not {"scipy", "scipy.libs"}.isdisjoint(Path(library).parts)


@contextmanager
def silenced(descriptor: int) -> Iterator[None]:
    """Drop what C++ code writes to a file descriptor (1: standard output, 2: standard error).

    Python errors are not affected: they are printed after the block.
    """
    try:
        saved = os.dup(descriptor)
    except OSError:  # the process has no such descriptor
        yield
        return
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, descriptor)
    try:
        yield
    finally:
        os.dup2(saved, descriptor)
        os.close(saved)
        os.close(sink)


def processor_name() -> str:
    """The model of the processor, such as "Intel(R) Xeon(R) CPU @ 2.20GHz"; empty if the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def library_versions(packages: Sequence[str]) -> dict[str, str]:
    """The installed version of each package that is installed."""
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def package_attribute(package: str, name: str) -> str:
    """What the packages' `__getattr__` answers for the names that they do not import: `__version__`.

    Raises:
        AttributeError: for any other name.
    """
    if name == "__version__":
        return version("frozenbench")
    raise AttributeError(f"module {package!r} has no attribute {name!r}")

"""Files made to do harm: refused in one line, nothing executed, nothing read outside, little memory used."""

import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from featurize.cache import load_features, read_info
from featurize.cache.format import MAGIC
from featurize.cache.spec import SCHEMA_VERSION
from featurize.core.errors import CacheError, DataError
from featurize.images.dataset import ImageDataset

SECRET = b"the content of another file"


def external_link(file: h5py.File, secret: Path) -> None:
    file["train"] = h5py.ExternalLink(str(secret), "/features")


def external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("train/features", (len(SECRET),), "u1", external=[(str(secret), 0, len(SECRET))])


def virtual_dataset(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((10,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "features", (10,))
    file.create_virtual_dataset("train/features", layout)


def shape_bomb(file: h5py.File, secret: Path) -> None:
    file.create_dataset("train/features", (2**40, 2**20), "f4", chunks=(1, 2**20), compression="gzip")


def vlen_strings(file: h5py.File, secret: Path) -> None:
    file["train/features"] = np.array(["x" * 100] * 3, h5py.string_dtype())


def deep_groups(file: h5py.File, secret: Path) -> None:
    group = file
    for _ in range(2000):
        group = group.create_group("g")


def pickled_attribute(file: h5py.File, secret: Path) -> None:
    file.attrs["spec"] = np.void(pickle.dumps(SECRET))


HOSTILE = [
    external_link,
    external_storage,
    virtual_dataset,
    shape_bomb,
    vlen_strings,
    deep_groups,
    pickled_attribute,
]


@pytest.mark.parametrize("make", HOSTILE)
@pytest.mark.parametrize("sealed", [False, True])
def test_hostile_hdf5(tmp_path: Path, make: Callable[[h5py.File, Path], None], sealed: bool) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    path = tmp_path / "hostile.h5"
    with h5py.File(path, "w", userblock_size=512) as file:
        make(file, tmp_path / "secret")
    if sealed:  # with a right seal, and a header that is no header
        first = MAGIC + f" {SCHEMA_VERSION} 512\n".encode()
        content = path.read_bytes()
        behind = b'{"spec": {}}'.ljust(512 - len(first) - 65, b"\n") + content[512:]
        path.write_bytes(first + hashlib.sha256(behind).hexdigest().encode() + b"\n" + behind)
    with pytest.raises(CacheError, match="not a feature cache") as caught:
        read_info(path)
    assert "\n" not in str(caught.value)
    assert SECRET.decode() not in str(caught.value)


def test_hdf5_structure_cannot_redirect_a_sealed_cache(cache: Path) -> None:
    """The numbers come from where the sealed header says, whatever HDF5's own structure claims."""
    expected = load_features(cache, "train")
    first, _, rest = cache.read_bytes().partition(b"\n")
    block = int(first.split()[-1])
    content = bytearray(rest[65:])
    start = block - len(first) - 66
    content[start : start + 64] = b"\xff" * 64  # the superblock
    cache.write_bytes(first + b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
    with pytest.raises(OSError, match="."):
        h5py.File(cache)
    np.testing.assert_array_equal(load_features(cache, "train").x, expected.x)


def npz(path: Path, x_train: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in ("y_train", "x_test", "y_test"):
            buffer = io.BytesIO()
            np.save(buffer, np.zeros((3, 4, 4, 3), np.uint8) if name[0] == "x" else np.zeros(3, np.int64))
            archive.writestr(f"{name}.npy", buffer.getvalue())
        archive.writestr("x_train.npy", x_train)
    return path


class Harm:
    """Unpickling this leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return open, (self.mark, "w")


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Harm(tmp_path / "mark")], object), allow_pickle=True)
    with pytest.raises(DataError, match="holds objects"):
        ImageDataset.from_npz(npz(tmp_path / "bad.npz", buffer.getvalue()))
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Harm(tmp_path / "mark")))
    with pytest.raises(DataError, match="cannot be read as plain arrays"):
        ImageDataset.from_npz(tmp_path / "raw.npz")
    assert not (tmp_path / "mark").exists()


READ = """
import resource, sys
from pathlib import Path
from featurize.images.dataset import ImageDataset
from featurize.core.errors import DataError
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
try:
    ImageDataset.from_npz(Path(sys.argv[1]))
except DataError as error:
    print(error)
"""


@pytest.mark.parametrize("shape", [(10**6, 1000, 1000, 3), (2**62, 4), (2**31, 2**31, 2**31), (10**9, 3)])
def test_a_shape_bomb_takes_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    path = npz(tmp_path / "bomb.npz", buffer.getvalue() + bytes(100), zipfile.ZIP_DEFLATED)
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "its size does not match its shape" in done.stdout

"""Arrays in HDF5 whose bytes lie in one run at a known place, so that they are written and read without libhdf5."""

import h5py
import numpy as np

LIBVER = ("earliest", "v110")
"""The oldest structures that can hold what is written here, for the sake of other tools."""


def room_for(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """Create a dataset that is one run of bytes, not written yet; returns its offset in the file."""
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)  # the same rows give the same file
    kind = h5py.h5t.py_create(dtype, logical=True)  # texts as UTF-8
    created = h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), settings)
    return int(created.get_offset())

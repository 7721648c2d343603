"""Every write, fsync and rename fails once; what is left is whole, or can be gone on from."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_data import make_dataset, make_spec, write_tiny_cache

from featurize.cache import format as format_module
from featurize.cache import load_features, read_info
from featurize.cache import writer as writer_module
from featurize.core.errors import CacheError


class Faults:
    """Counts operations and lets the one with the number `failing` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.failing, self.kinds = 0, 0, set()
        self.broken = False
        faults, fsync, replace, open_ = self, os.fsync, Path.replace, Path.open
        patient = format_module.PatientFile

        class Patient(patient):  # type: ignore[misc, valid-type]
            def write(self, data: Any) -> int:
                try:
                    faults.step("write by libhdf5")
                except OSError as error:
                    self.error = error
                return patient.write(self, data)

        class Opened:
            def __init__(self, file: Any) -> None:
                self.file = file

            def write(self, data: Any) -> int:
                faults.step("write")
                return self.file.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self.file, name)

            def __enter__(self) -> "Opened":
                return self

            def __exit__(self, *what: object) -> None:
                self.file.close()

        def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            file = open_(path, mode, *arguments, **options)
            return Opened(file) if set(mode) & set("wa+") else file

        monkeypatch.setattr(writer_module, "PatientFile", Patient)
        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(Path, "replace", lambda path, to: (faults.step("rename"), replace(path, to))[1])
        monkeypatch.setattr(os, "fsync", lambda handle: (faults.step("fsync"), fsync(handle))[1])

    def step(self, kind: str) -> None:
        self.count += 1
        self.kinds.add(kind)
        if self.count == self.failing:
            self.broken = True
            raise OSError(errno.EIO, f"{kind} number {self.count} failed")


def every_failure(
    monkeypatch: pytest.MonkeyPatch, attempt: Callable[[], object], check: Callable[[], None]
) -> set[str]:
    """Run `attempt` with operation 1, 2, ... failing until none fires; `check` what is left each time."""
    number = 0
    while True:
        number += 1
        with monkeypatch.context() as patched:
            faults = Faults(patched)
            faults.failing = number
            assert number < 500, "the operations do not end"
            said = ""
            try:
                attempt()
            except CacheError as error:
                said = str(error)
            assert faults.broken == (f"number {number} failed" in said)
            if not faults.broken:
                return faults.kinds
        check()


def test_a_new_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, whole = tmp_path / "x.h5", write_tiny_cache(tmp_path / "whole.h5")

    def attempt() -> None:
        write_tiny_cache(path)

    def check() -> None:
        assert not list(tmp_path.rglob("*.tmp"))
        parts = tmp_path / "x.h5.parts"
        assert not parts.exists() or list(parts.glob("*.h5"))  # a folder without rows is debris
        if path.exists():  # the name had been given when the fsync of its folder failed
            assert path.read_bytes() == whole.read_bytes()
            path.unlink()

    kinds = every_failure(monkeypatch, attempt, check)
    assert kinds == {"write", "write by libhdf5", "rename", "fsync"}
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["whole.h5", "x.h5"]


def test_a_replaced_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_cache(tmp_path / "x.h5")
    old, new = path.read_bytes(), write_tiny_cache(tmp_path / "new.h5", pool="max").read_bytes()

    def check() -> None:
        assert path.read_bytes() in (old, new)
        load_features(path, "train")
        path.write_bytes(old)

    every_failure(monkeypatch, lambda: write_tiny_cache(path, pool="max"), check)
    assert path.read_bytes() == new
    assert read_info(path).spec == make_spec(make_dataset(), pool="max")

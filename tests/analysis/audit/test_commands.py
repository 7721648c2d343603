import csv
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import assert_failed, command_here
from PIL import Image
from tiny_audits import PLANTED, planted_cache

from analysis.audit import audit_folder, read_summary
from featurize.cache import read_info


def rows_in(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def planted(data_folder: Path) -> Path:
    return planted_cache(data_folder / "features" / "planted.h5")


def test_an_audit_from_the_command_line(planted: Path) -> None:
    before = planted.read_bytes()
    done = command_here("analysis", "audit", "plan", "--json")  # the beginning of the cache's name
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    folder = audit_folder("planted")
    assert {"suspects", "estimated_precision", "written"} <= set(facts)
    assert str(folder / "suspects.csv") in facts["written"]
    suspects = rows_in(folder / "suspects.csv")
    assert list(suspects[0])[:8] == ["path", "id", "split", "label", "suggested", "probability", "margin", "rank"]
    assert len(suspects) == facts["suspects"] == pytest.approx(2 * PLANTED, abs=8)
    assert [int(row["rank"]) for row in suspects] == list(range(1, len(suspects) + 1))
    assert suspects[0]["label"] != suspects[0]["suggested"]
    chances = [float(row["probability"]) for row in rows_in(folder / "ranking.csv")]
    assert len(chances) == 900
    assert chances == sorted(chances, reverse=True)
    assert planted.read_bytes() == before

    text = command_here("analysis", "audit", str(planted), "--quiet").stdout
    assert f"{len(suspects)} of 900 labels are suspected (" in text
    assert "How many of these are wrong cannot be estimated" in text
    assert " of what is labelled " in text


def test_the_summary_belongs_to_its_cache(planted: Path) -> None:
    command_here("analysis", "audit", str(planted))
    fingerprint = read_info(planted).spec.fingerprint
    summary = read_summary(audit_folder("planted"), fingerprint)
    assert summary is not None
    assert summary["images"] == 900
    assert read_summary(audit_folder("planted"), "another") is None
    assert read_summary(audit_folder("none"), fingerprint) is None


def test_a_cache_that_is_not_there(data_folder: Path) -> None:
    assert_failed(command_here("analysis", "audit", "nothing.h5"), 2, "nothing.h5: no such feature cache")
    assert not audit_folder("nothing").exists()


def test_pictures_that_are_gone_leave_the_vectors(planted: Path) -> None:
    done = command_here("analysis", "audit", str(planted), "--json")
    facts = json.loads(done.stdout)
    assert "only the vectors were audited" in done.stderr
    assert "only the vectors were audited" in facts["left_out"][0]
    assert facts["copies"] == 0


def test_copies_of_image_files(tmp_path: Path, data_folder: Path) -> None:
    """A folder of pictures: a copy across the splits, one with another label, a constant picture."""
    random = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for split, count in (("train", 20), ("test", 6)):
        for name, base in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = (np.array(base) + random.integers(-40, 40, (16, 16, 1))).clip(0, 255).astype(np.uint8)
                pixels = np.kron(pixels, np.ones((3, 3, 1), np.uint8))
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    Image.open(folder / "train" / "red" / "3.png").save(folder / "test" / "red" / "copy.bmp")
    Image.open(folder / "train" / "red" / "4.png").save(folder / "train" / "blue" / "copy.bmp")
    Image.new("RGB", (48, 48), "red").save(folder / "train" / "red" / "plain.png")
    words = ["--data", str(folder), "--backbone", "pixels", "--image-size", "8"]
    assert command_here("featurize", *words, "--quiet").returncode == 0
    done = command_here("analysis", "audit", str(data_folder / "features" / "photos-pixels-8px.h5"), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    copies = rows_in(audit_folder("photos-pixels-8px") / "copies.csv")
    names = ["path_a", "path_b", "split_a", "split_b", "kind", "similarity", "same_label"]
    assert list(copies[0])[:7] == names
    exact = {frozenset((row["path_a"], row["path_b"])): row for row in copies if row["kind"] == "exact"}
    leak = exact[frozenset(("train/red/3.png", "test/red/copy.bmp"))]
    conflict = exact[frozenset(("train/red/4.png", "train/blue/copy.bmp"))]
    assert (leak["same_label"], conflict["same_label"]) == ("yes", "no")
    assert len(exact) == 2
    assert (facts["leaks"], facts["conflicts"]) == (1, 1)
    strange = rows_in(audit_folder("photos-pixels-8px") / "strangers.csv")
    assert ("train/red/plain.png", "constant") in {(row["path"], row["kind"]) for row in strange}
    assert {path.name for path in folder.rglob("*.csv")} == set()


def test_the_report_tells_of_the_audit(planted: Path) -> None:
    from tiny_runs import make_result

    from analysis.report.dataset import audit_sections

    fingerprint = read_info(planted).spec.fingerprint
    run = make_result(cache=str(planted), fingerprint=fingerprint)
    assert audit_sections(run) == []
    command_here("analysis", "audit", str(planted))
    [section] = audit_sections(run)
    assert "labels are suspected" in section.finding
    assert section.notes[-1].endswith("audits/planted/audit.html.")
    assert audit_sections(make_result(cache=str(planted), fingerprint="another")) == []

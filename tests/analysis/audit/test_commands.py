import csv
import json
from pathlib import Path

import pytest
from command_line import assert_failed, command_here
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
    assert "are wrong, by an estimate from the data." in text
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

"""The benchmark runs; what it measures is for a quiet machine."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench_engines.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_engines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_engines", module)  # its dataclass asks for it
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PASS_SECONDS", 0.02)
    monkeypatch.setattr(module, "PIPELINE_SECONDS", 0.05)
    monkeypatch.setattr(module, "BATCHES", (4,))
    monkeypatch.setattr(module, "gemm_peak", lambda: 100.0)
    return module


@pytest.mark.engines
@pytest.mark.slow
def test_a_comparison(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = bench.compare(32, 1, tmp_path, ["float32"], threads=2)
    rows = {row["name"]: row for row in result["rows"]}
    assert {bench.TENSORFLOW, "Keras predict", "engine winograd", "engine openvino", bench.END_TO_END} <= set(rows)
    assert rows[bench.TENSORFLOW]["ratio_to_tensorflow"] == 1
    assert rows["engine winograd"]["winograd_to_this"] == 1
    assert result["gflop_per_image"] == pytest.approx(0.6264, rel=1e-3)
    for row in rows.values():
        assert row["share_of_gemm_peak"] == pytest.approx(row["images_per_second"] * result["gflop_per_image"] / 100)
    bench.show(result)
    assert "end to end" in capsys.readouterr().out
    bench.plot([result, result], tmp_path / "engines.png")
    assert (tmp_path / "engines.png").stat().st_size > 10_000


@pytest.mark.engines
@pytest.mark.slow
def test_what_is_missing_is_named(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def absent(_: object) -> None:
        raise ImportError("No module named 'torch'")

    bench.PEERS["bfloat16"] = {"PyTorch channels_last": absent, "OpenVINO, its default": bench.openvino_by_default}
    result = bench.compare(32, 1, tmp_path, ["bfloat16"], threads=2)
    assert result["not_measured"]["PyTorch channels_last, bfloat16"] == "No module named 'torch'"
    assert "OpenVINO, its default" in {row["name"] for row in result["rows"]}
    bench.show(result)
    assert "not measured: PyTorch channels_last, bfloat16 (No module named 'torch')" in capsys.readouterr().out


def test_other_sizes_stay_in_the_file(bench: ModuleType, tmp_path: Path) -> None:
    before = [{"size": size, "threads": threads, "rows": "old"} for size in (32, 96) for threads in (1, 2)]
    (tmp_path / "engines.json").write_text(json.dumps({"results": before}))
    kept = bench.earlier(tmp_path / "engines.json", [{"size": 32, "threads": 2}])
    assert [(result["size"], result["threads"]) for result in kept] == [(32, 1), (96, 1), (96, 2)]
    assert bench.earlier(tmp_path / "missing.json", []) == []

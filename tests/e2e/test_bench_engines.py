"""The benchmark runs; what it measures is for a quiet machine."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench_engines.py"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_engines", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PASS_SECONDS", 0.02)
    monkeypatch.setattr(module, "PIPELINE_SECONDS", 0.05)
    monkeypatch.setattr(module, "BATCHES", (4,))
    monkeypatch.setattr(module, "gemm_peak", lambda: 100.0)
    return module


@pytest.mark.engines
@pytest.mark.slow
def test_a_comparison(bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    result = bench.compare(32, 1, tmp_path)
    rows = {row["name"]: row for row in result["rows"]}
    assert {"TensorFlow, tf.function", "Keras predict", "engine winograd", "engine openvino", bench.END_TO_END} <= set(
        rows
    )
    assert rows["TensorFlow, tf.function"]["ratio_to_tensorflow"] == 1
    assert result["gflop_per_image"] == pytest.approx(0.6264, rel=1e-3)
    for row in rows.values():
        assert row["share_of_gemm_peak"] == pytest.approx(row["images_per_second"] * result["gflop_per_image"] / 100)
    bench.show(result)
    assert "end to end / engine" in capsys.readouterr().out
    bench.plot([result, result], tmp_path / "engines.png")
    assert (tmp_path / "engines.png").stat().st_size > 10_000

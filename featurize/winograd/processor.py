"""What this processor can do: the length of its vectors and the instructions for lower precision."""

from llvmlite import binding
from numba import config

FEATURES = config.CPU_FEATURES or binding.get_host_cpu_features().flatten()  # type: ignore[attr-defined]
AVX512 = "+avx512f" in FEATURES
LANES = 16 if AVX512 else 8
"""float32 numbers in a vector."""
INSTRUCTIONS = {
    "float32": {},
    "bfloat16": {"AVX512_BF16": "+avx512bf16"},
    "int8": {"AVX512_BW": "+avx512bw", "AVX512_VNNI": "+avx512vnni"},
}
"""Precision -> the instructions that its kernels need, with LLVM's names of them."""


def missing_instruction(precision: str) -> str:
    """The name of an instruction that `precision` needs and this processor lacks; empty if it has all of them."""
    features = FEATURES.split(",")
    for name, feature in INSTRUCTIONS[precision].items():
        if feature not in features:
            return name
    return ""

"""What this processor can do."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path


@lru_cache
def has_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 natively (AVX512-BF16, AMX or Arm's); emulated it is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n", 1)[0]
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16", " bf16"))

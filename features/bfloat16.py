"""Whether to compute in bfloat16: half the bits of float32, the same range, 8 bits of precision."""

from __future__ import annotations

import torch


def has_fast_bf16(device: str = "cpu") -> bool:
    """Whether the processor multiplies matrices of bfloat16 itself (x86: AVX512-BF16 or AMX; NVIDIA: from Ampere on).

    Args:
        device: torch's name of the kind, "cpu" or "cuda".
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return bool(able.get("amx_bf16") or able.get("avx512_bf16"))

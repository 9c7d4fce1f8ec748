"""Hexadecimal text for millions of ids at once: straight into Arrow's buffers, without Python for each row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

HEX_PAIR = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2").view(np.uint16)
"""[256] the two hex digits of a byte, as they stand in memory."""


def hex_text(codes: np.ndarray, missing: np.ndarray | None = None) -> pa.StringArray:
    """Unsigned integers as hex digits, leading zeros included.

    Args:
        codes: [N] uint32 gives 8 digits a row; [N] or [N, W] uint64 gives 16 or 16 * W digits.
        missing: [N] bool, rows that become null.
    Raises: ValueError if the text of a chunk exceeds what 32-bit offsets can reach.
    """
    num_rows, width = len(codes), 2 * codes.itemsize * int(np.prod(codes.shape[1:]))
    if num_rows * width >= 2**31:
        raise ValueError(f"{num_rows} rows of {width} digits must stay below 2**31 bytes; make them in chunks")
    big_endian = np.ascontiguousarray(codes.astype(codes.dtype.newbyteorder(">")))
    digits = HEX_PAIR[big_endian.view(np.uint8)]
    known = np.ones(num_rows, bool) if missing is None else ~missing
    offsets = np.arange(0, num_rows * width + 1, width, dtype=np.int32)
    if missing is not None:  # a null takes no bytes
        digits = digits.reshape(num_rows, width // 2)[known]
        offsets = np.concatenate([[0], np.cumsum(known * np.int32(width), dtype=np.int32)]).astype(np.int32)
    validity = None if missing is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(digits))]
    return pa.StringArray.from_buffers(num_rows, buffers[1], buffers[2], buffers[0])

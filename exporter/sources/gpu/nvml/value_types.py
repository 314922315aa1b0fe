"""The 8 bytes of NVML's value unions, by nvmlValueType_t."""

from __future__ import annotations

import struct

UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
VALUE_TYPES: dict[int, struct.Struct] = {
    code: struct.Struct(f"={layout}")
    for code, layout in enumerate(("d", "I", "Q", "Q", "q", "i", "H"))
}
"""double, unsigned int, unsigned long, unsigned long long, long long, int, unsigned short."""

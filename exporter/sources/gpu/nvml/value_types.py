"""The 8 bytes of NVML's value unions, by nvmlValueType_t."""

from __future__ import annotations

import struct

UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
VALUE_TYPES: dict[int, struct.Struct] = {
    code: struct.Struct(f"={layout}")
    for code, layout in enumerate(("d", "I", "Q", "Q", "q", "i", "H"))
}
"""double, unsigned int, unsigned long, unsigned long long, long long, int, unsigned short."""
SAMPLE_TYPES: dict[int, struct.Struct] = {
    code: struct.Struct(f"=Q{layout.format[1:]}{8 - layout.size}x")
    for code, layout in VALUE_TYPES.items()
}
"""nvmlSample_t, a time stamp and a value, by the type of the value."""

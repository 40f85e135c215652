"""Known accelerators, and how long work takes on them: estimates from stated utilisation."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Speed:
    """Floating-point operations and bytes of memory a second; `stated` says where from.

    `measured`: in the precision that will be used, not in bfloat16.
    """

    flops: float
    bytes_s: float
    stated: str
    measured: bool = False


PEAKS = {
    # word of the device's own name: peak dense bf16 TFLOP/s, memory bandwidth in TB/s
    "H200": (989.0, 4.8),
    "H100 PCIe": (756.0, 2.0),
    "H100": (989.0, 3.35),
    "H800": (989.0, 3.35),
    "A100": (312.0, 2.0),
    "A800": (312.0, 2.0),
    "L40S": (362.0, 0.86),
    "L4": (121.0, 0.3),
    "A10": (125.0, 0.6),
    "RTX 4090": (165.0, 1.0),
    "RTX 3090": (71.0, 0.94),
}
"""From the makers' data sheets, without sparsity. The first name that fits counts."""

UTILISATION = 0.35
"""Share of the peak that training and long prompts reach: an assumption."""

BANDWIDTH_SHARE = 0.5
"""Share of the bandwidth that drawing token by token reaches: an assumption."""


def speed_of(name: str) -> Speed | None:
    """The assumed speed of a device by its name; None for one that is not in the table."""
    for known, (tflops, tbytes) in PEAKS.items():
        if re.search(rf"\b{known}\b", name):
            return Speed(
                tflops * 1e12 * UTILISATION,
                tbytes * 1e12 * BANDWIDTH_SHARE,
                f"{known}: {UTILISATION:.0%} of {tflops:g} TFLOP/s, "
                f"{BANDWIDTH_SHARE:.0%} of {tbytes:g} TB/s",
            )
    return None


def duration_s(speed: Speed, operations: float, read_bytes: float = 0.0) -> float:
    """The longer of operations / flops and bytes / bandwidth, in seconds."""
    return max(operations / speed.flops, read_bytes / speed.bytes_s)

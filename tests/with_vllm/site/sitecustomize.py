"""Makes torchvision importable where its wheel was built for CUDA and torch for the CPU.

Its compiled operators cannot be loaded there, and its Python half insists on two of them being
declared. Nothing here uses them. vLLM looks its models up in a process of its own, which is why
this is no part of a test: Python runs it at its start, from PYTHONPATH.
"""

from importlib.util import find_spec
from pathlib import Path

if (spec := find_spec("torchvision")) is not None and spec.origin is not None:
    import torch

    try:
        for compiled in Path(spec.origin).parent.glob("_C*.so"):
            torch.ops.load_library(compiled)
    except OSError:
        OPERATORS = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

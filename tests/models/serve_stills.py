"""`transformers serve` for a Qwen2-VL checkpoint where torchvision is missing.

    python serve_stills.py FOLDER PORT

The stock command stops at the checkpoint's video processor, which needs torchvision. All that is
changed is how the processor is loaded: its video half is left out.
"""

from __future__ import annotations

import sys
from typing import Any

from transformers import AutoProcessor, Qwen2VLProcessor


class Still(Qwen2VLProcessor):
    """The stock processor; the constructor's signature says which parts are loaded."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


def main(folder: str, port: int) -> None:
    """Serve the checkpoint on this machine only, until killed."""
    from transformers.cli.serve import Serve

    Still.__name__ = Still.__qualname__ = Qwen2VLProcessor.__name__
    AutoProcessor.from_pretrained = lambda name, **_: Still.from_pretrained(name)
    Serve(force_model=folder, host="127.0.0.1", port=port, device="cpu")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

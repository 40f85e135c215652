"""Processors of vision-language models that do without their video half.

A shared module, no backend. Stock video processors cannot be made where torchvision is missing, and
a stock processor that knows of video insists on one.
"""

from __future__ import annotations

from typing import Any


def without_video(stock: type) -> type:
    """A processor class like `stock` whose constructor asks for no video processor.

    transformers reads off the constructor's own code which parts to load. The class keeps the
    stock name, so that a folder saved with it opens with the stock class where torchvision is
    present.
    """

    class Still(stock):  # type: ignore[misc]
        def __init__(
            self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None
        ) -> None:
            super().__init__(image_processor, tokenizer, chat_template=chat_template)

    Still.__name__ = Still.__qualname__ = stock.__name__
    Still.__doc__ = f"{stock.__name__} without video."
    return Still

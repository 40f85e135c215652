"""What a run directory grows to, in bytes."""

from __future__ import annotations

from collections.abc import Sequence

from groundling.config import IsrConfig
from groundling.planning import terms
from groundling.planning.counts import Counts
from groundling.planning.outline import ChatOutline
from groundling.planning.pictures import Size, mean_area_px
from groundling.planning.stages import Model

ROW_BYTES = 160
"""A row of expressions, rewards or pairs in Parquet, compressed: an assumption."""

PIXEL_BYTES = 0.2
"""A pixel of a picture's file (JPEG): an assumption."""


def plan_disk(
    config: IsrConfig, writer: Model, grounder: Model, counts: Counts, sizes: Sequence[Size]
) -> dict[str, int]:
    """Adapters · (rounds + 1), the tuned grounder, the largest checkpoint of a fit, and Parquet.

    A checkpoint holds the trained parameters and both moments, and there are two while one takes
    the other's place. A round's pairs carry their pictures. The base weights are not part of a run
    directory: `base weights` is what they take in the hub's cache, in their published bfloat16
    (OFA: float32).
    """
    parts = {"adapters": (config.rounds + 1) * writer.trained_bytes}
    trained = [writer.trained_bytes]
    if config.grounder.tune:
        chat = isinstance(grounder.outline, ChatOutline)
        whole = grounder.outline.parameters * grounder.width
        parts["tuned grounder"] = grounder.trained_bytes if chat else whole
        trained.append(grounder.trained_bytes)
    parts["checkpoints of a fit"] = 2 * 3 * max(trained)
    rows = counts.prompts * (2 * config.samples + 1)
    pictures = counts.prompts * mean_area_px(sizes) * PIXEL_BYTES
    parts["Parquet"] = config.rounds * round(rows * ROW_BYTES + pictures)
    parts["base weights"] = sum(_published_bytes(model) for model in (writer, grounder))
    return parts


def _published_bytes(model: Model) -> int:
    chat = isinstance(model.outline, ChatOutline)
    return model.outline.parameters * (2 if chat else terms.FULL)

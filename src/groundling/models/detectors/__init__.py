"""Open-vocabulary detectors as grounders: Grounding DINO, MM-Grounding-DINO and Florence-2.

The models are those of transformers; the text, the boxes, the answer and the loss of a single box
for a single phrase are made here. `docs/detectors.md` says by which conventions.
"""

from groundling.models.detectors.dino import DinoGrounder
from groundling.models.detectors.florence import FlorenceGrounder

__all__ = ["DinoGrounder", "FlorenceGrounder"]

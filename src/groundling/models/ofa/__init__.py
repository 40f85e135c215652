"""OFA (Wang et al. 2022): the visual grounding model of the ISR paper.

A faithful port without fairseq and without code of others; `docs/ofa.md` says how it was checked.
"""

from __future__ import annotations

from groundling.models.ofa.config import OFAConfig
from groundling.models.ofa.grounder import OFAGrounder
from groundling.models.ofa.model import OFAModel
from groundling.models.ofa.tokenizer import OFATokenizer

__all__ = ["OFAConfig", "OFAGrounder", "OFAModel", "OFATokenizer"]

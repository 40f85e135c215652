"""Taggers: models that find mentions in texts, a kind a module.

`labels`, `crf` and `posterior` are arithmetic that all of them share; `sequence` is what taggers
that score labels word by word have in common, `saved` how they lie on disk.
"""

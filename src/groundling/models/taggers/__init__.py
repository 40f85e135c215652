"""Taggers: models that find mentions in texts, a kind a module.

`labels` is shared by all of them and `saved` is how they lie on disk; `sequence`, with `crf` and
`posterior`, is what taggers that score labels word by word have in common. `generative` writes
mentions by pointers, `spacy_pipeline` takes what others have trained.
"""

"""Fitted taggers in use: what a run directory holds, opened."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from groundling import atomic
from groundling.config_gmner import RefinegConfig, TaggingConfig
from groundling.errors import RunError
from groundling.models.base import FittedTagger
from groundling.models.registry import open_tagger
from groundling.records import SCHEMES, Scheme
from groundling.rundir import stored_config
from groundling.tagging import TAGGER


def fitted_config(path: Path) -> TaggingConfig | RefinegConfig:
    """The configuration of a run of `groundling tagger fit` or `groundling refineg`.

    Raises RunError where there is none.
    """
    if not path.is_dir():
        raise RunError(
            f"{path}: no such folder; name a run of `groundling tagger fit` or `groundling refineg`"
        )
    with suppress(RunError):
        return stored_config(path, TaggingConfig)
    with suppress(RunError):
        return stored_config(path, RefinegConfig)
    raise RunError(
        f"{path}: holds no tagger of this version; name a run of `groundling tagger fit` or "
        "`groundling refineg`"
    )


def fitted_scheme(path: Path) -> Scheme:
    """The entity types that the tagger of a run knows. Raises RunError where there is none."""
    return SCHEMES[fitted_config(path).scheme]


def open_fitted(path: Path, device: str | None = None) -> tuple[FittedTagger, str]:
    """The tagger of such a run, and its own name; on `device` where that is given.

    Raises RunError where there is none.
    """
    config = fitted_config(path)
    if not (path / "fit.json").is_file():
        raise RunError(f"{path}: its tagger is not fitted yet; the command that began it goes on")
    tagger = (
        config.tagger if device is None else config.tagger.model_copy(update={"device": device})
    )
    files = sorted(file for file in (path / TAGGER).rglob("*") if file.is_file())
    digests = " ".join(atomic.digest_file(file) for file in files)
    name = hashlib.sha256(digests.encode()).hexdigest()[:16]
    return open_tagger(tagger, SCHEMES[config.scheme], path / TAGGER), name

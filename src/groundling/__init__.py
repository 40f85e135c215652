"""Groundling says where a named entity is in a picture, and in what words."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundling.ground import EntityAnswer, EntityFailure, EntityGrounder

__version__ = "0.1.0"
__all__ = ["EntityAnswer", "EntityFailure", "EntityGrounder", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the models' entry point when it is first asked for: `import groundling` stays light.

    A submodule of that name is not looked for here.
    """
    if name in __all__:
        return getattr(import_module("groundling.ground"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

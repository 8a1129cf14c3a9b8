"""cpvae: learn a mixture from data with a variational autoencoder; generate from any component."""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["CPVAE", "Recipe", "__version__", "build", "fit", "from_pretrained", "load"]

_HOMES = {
    "CPVAE": "estimator",
    "Recipe": "training.recipe",
    "build": "models.build",
    "fit": "training.loop",
    "from_pretrained": "hub",
    "load": "data",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: ``cpvae --help`` needs no torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"cpvae.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cpvae' has no attribute {name!r}")

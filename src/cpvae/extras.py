"""Optional packages, and the extra that brings each."""

import importlib.util


def importable(package: str) -> bool:
    """Whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def need(package: str, extra: str) -> None:
    """Refuses to go on without a package.

    Raises:
        ModuleNotFoundError: it is not installed; names the extra.
    """
    if not importable(package):
        raise ModuleNotFoundError(f"{package} is not installed: pip install 'cpvae[{extra}]'.")

"""Optional packages, and the extra that brings each."""

import importlib.util


def need(package: str, extra: str) -> None:
    """Refuses to go on without a package.

    Raises:
        ModuleNotFoundError: it is not installed; names the extra.
    """
    if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(f"{package} is not installed: pip install 'cpvae[{extra}]'.")

"""Single precision, in which all networks compute, whatever torch's default is.

Users of other packages set the default to double precision, and then noise and new layers would be
doubles beside weights that are not.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Default:
    """torch's default before the first of those that are inside changed it."""

    lock = threading.Lock()
    inside = 0
    before = torch.float32


@contextmanager
def single_precision() -> Iterator[None]:
    """Makes single precision torch's default inside, and what it was again behind the last."""
    with _Default.lock:
        if not _Default.inside:
            _Default.before = torch.get_default_dtype()
            _set(torch.float32)
        _Default.inside += 1
    try:
        yield
    finally:
        with _Default.lock:
            _Default.inside -= 1
            if not _Default.inside:
                _set(_Default.before)


def _set(dtype: torch.dtype) -> None:
    if torch.get_default_dtype() != dtype:
        torch.set_default_dtype(dtype)

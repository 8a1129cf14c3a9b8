"""Work in processes of their own, several at once, each on one core."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cpvae.lock import end_with

Result = TypeVar("Result")


def in_processes(jobs: int, parts: Sequence[Callable[[], Result]]) -> Iterator[Result]:
    """What each part gives, in the order in which they end, ``jobs`` at once.

    The processes end with this one. A part that fails stops all, and what others have written
    stays.
    """
    import joblib

    each = (joblib.delayed(_alone)(os.getpid(), part) for part in parts)
    of = joblib.Parallel(n_jobs=min(jobs, max(1, len(parts))), return_as="generator_unordered")
    return of(each)


def _alone(parent: int, part: Callable[[], Result]) -> Result:
    import torch

    end_with(parent)
    torch.set_num_threads(1)
    return part()

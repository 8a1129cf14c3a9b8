"""Which components of one fit are those of another, by the rows that they share."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

SURE = 0.9  # probability of a component from which on a row counts as certain
SAME = 0.5  # share of the rows of one of two components from which on they are the same


def shared_rows(
    before: Int[np.ndarray, " n"], after: Int[np.ndarray, " n"], n_before: int, n_after: int
) -> Float[np.ndarray, "j k"]:
    """How many rows are in each component of one fit and each of another, (n_before, n_after)."""
    counts = np.zeros((n_before, n_after))
    np.add.at(counts, (before, after), 1)
    return counts


def matched(counts: Float[np.ndarray, "j k"]) -> list[int | None]:
    """For each component after the component before that it is, None for one that is new.

    They are matched one to one so that most rows stay (the Hungarian method), and a pair is the
    same component where it shares at least half of the rows of one of the two.
    """
    from scipy.optimize import linear_sum_assignment

    pairs: list[int | None] = [None] * counts.shape[1]
    for old, new in zip(*linear_sum_assignment(-counts), strict=True):
        of_old, of_new = counts[old].sum(), counts[:, new].sum()
        if counts[old, new] > 0 and counts[old, new] >= SAME * min(of_old, of_new):
            pairs[new] = int(old)
    return pairs


def names_after(
    names: Sequence[str], pairs: Sequence[int | None], numbers: Sequence[str]
) -> list[str]:
    """The names of the components after: those of what they were, or else their numbers."""
    found = []
    for old, number in zip(pairs, numbers, strict=True):
        named = old is not None and names[old] != str(old)
        found.append(names[old] if old is not None and named else number)
    return found


def agreement(counts: Float[np.ndarray, "j k"], pairs: Sequence[int | None]) -> float:
    """The share of the rows that are in the same component after as before."""
    stayed = sum(counts[old, new] for new, old in enumerate(pairs) if old is not None)
    return float(stayed / max(counts.sum(), 1))


def calibration(
    mine: Float[np.ndarray, "n k"], others: Sequence[Float[np.ndarray, "n j"]]
) -> tuple[int, float]:
    """Of rows that are certain in one fit, how many are in the same component in other fits.

    Arguments:
        mine: responsibilities
        others: those of the same rows in fits that differ in their seed, one at least

    Returns:
        The number of rows with a responsibility of `SURE` or more, and the share of them whose
        component is the same in another fit, a mean over the fits; NaN where there is no such row.
    """
    sure, component = mine.max(1) >= SURE, mine.argmax(1)
    shares = []
    for other in others:
        theirs = other.argmax(1)
        counts = shared_rows(component, theirs, mine.shape[1], other.shape[1])
        of_theirs = dict(enumerate(matched(counts)))
        same = np.array([of_theirs[c] == k for c, k in zip(theirs, component, strict=True)])
        shares.append(same[sure].mean() if sure.any() else np.nan)
    return int(sure.sum()), float(np.mean(shares))

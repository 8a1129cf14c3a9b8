"""Labels of a source, some of which may be missing."""

from typing import Any

import numpy as np

from cpvae.data.cells import MISSING


def read_labels(column: Any, is_csv: bool) -> np.ndarray:
    """The labels (n) in a column of pyarrow, None or NaN where one is missing.

    Arguments:
        column: with the labels
        is_csv: whether text such as "NA" may stand for one that is missing, as in a CSV file
    """
    values = column.to_pylist()
    if is_csv:
        values = [None if isinstance(v, str) and v.strip() in MISSING else v for v in values]
    if any(value is None for value in values):
        return np.array(values, dtype=object)
    return column.to_numpy()


def known(labels: np.ndarray) -> np.ndarray:
    """Which of the labels (n) are there, (n) bools: not None, NaN, NA, NaT or empty text."""
    if labels.dtype.kind == "f":
        return ~np.isnan(labels)
    if labels.dtype.kind in "mM":
        return ~np.isnat(labels)
    if labels.dtype.kind in "OUS":
        return np.array([_is_there(label) for label in labels.tolist()], dtype=bool)
    return np.ones(len(labels), dtype=bool)


def _is_there(label: Any) -> bool:
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return False
    if isinstance(label, str):
        return bool(label.strip())
    return bool(label == label)  # NaN is not

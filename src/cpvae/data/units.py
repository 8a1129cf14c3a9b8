"""Units that data is standardised by: for each column of a table, or each channel of images."""

from collections.abc import Sequence

import numpy as np

from cpvae.data.checks import check_varies, listed


def origin_and_unit(x: np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column (n, f), or of every channel of images.

    Raises:
        ValueError: a column that does not vary, or too little for single precision.
    """
    if x.ndim == 2:
        check_varies(x, names)
        loc = np.asarray(np.nanmean(x, 0, dtype=np.float64))
        scale = np.asarray(np.nanstd(x, 0, dtype=np.float64))
    else:
        names = [str(i) for i in range(x.shape[1])]
        loc, scale = (np.asarray(f(x, (0, 2, 3), dtype=np.float64)) for f in (np.mean, np.std))
    tiny = scale <= 1e-6 * np.abs(loc)  # variation too small for single precision
    if (scale <= 0).any() or tiny.any():
        bad = listed(np.flatnonzero((scale <= 0) | tiny)[:8], names)
        raise ValueError(
            f"Feature {bad} varies too little around its mean for single precision: subtract "
            f"its mean, or drop it."
        )
    return loc, scale

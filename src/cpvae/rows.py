"""What is known of the rows that an estimator is fitted to: weights, and a start of one's own."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from cpvae.data.splits import Splits


class OfRows(NamedTuple):
    """Weights (n) of rows, and responsibilities (n, k) to start from; either may be None."""

    weight: np.ndarray | None
    start: np.ndarray | None

    @classmethod
    def of(cls, X: Any, sample_weight: ArrayLike | None, start: Any) -> "OfRows | None":
        """Checks what `CPVAE.fit` was given; None where that is nothing, or equal weights.

        Raises:
            ValueError: weights or a start that do not fit ``X``.
        """
        weight = None
        if sample_weight is not None:
            from sklearn.utils.validation import _check_sample_weight

            weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
            if (weight < 0).any():
                raise ValueError("Negative values in data passed to `sample_weight`: use 0 and up.")
            if not weight.any():
                raise ValueError("sample_weight is 0 for all rows: none is left to fit to.")
            weight = None if (weight == weight[0]).all() else weight
        responsibilities = None if start is None else _responsibilities(X, start)
        if weight is None and responsibilities is None:
            return None
        if isinstance(X, Splits):
            raise ValueError("Weights and a start need rows as they are: give a frame or an array.")
        return cls(weight, responsibilities)

    def that_count(self, n: int) -> np.ndarray:
        """The numbers of the rows that weigh anything."""
        if self.start is not None and len(self.start) != n:
            raise ValueError(f"start has {len(self.start)} rows, and X has {n}.")
        return np.arange(n) if self.weight is None else np.flatnonzero(self.weight)

    def split(
        self, splits: Splits
    ) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None]:
        """Weights of both parts, each with the mean 1, and the start of the training part.

        The labels of the parts are the numbers of their rows.
        """
        train, valid = splits.train.labels, splits.valid.labels
        assert train is not None
        assert valid is not None
        weights = start = None
        if self.weight is not None:
            of_train, of_valid = (
                torch.from_numpy(self.weight[part] / self.weight[part].mean()).float()
                for part in (train, valid)
            )
            weights = of_train, of_valid
        if self.start is not None:
            start = torch.from_numpy(self.start[train])
        return weights, start


def _responsibilities(X: Any, start: Any) -> np.ndarray:
    """Of labels (n), responsibilities (n, k), or a fitted mixture."""
    if hasattr(start, "predict_proba"):
        start = start.predict_proba(X)
    start = np.asarray(start)
    if start.ndim == 2:
        start = start.astype(np.float64)
        if (start < 0).any() or not np.allclose(start.sum(1), 1, atol=1e-3):
            raise ValueError("start: the responsibilities of a row are from 0 up and sum to 1.")
        return start
    if start.ndim != 1 or start.dtype.kind not in "iub" or start.min() < 0:
        raise ValueError(
            "start is the component of each row, whole numbers from 0 up; responsibilities (n, k); "
            "or a fitted mixture."
        )
    return np.eye(int(start.max()) + 1)[start.astype(int)]

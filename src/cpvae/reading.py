"""How a fitted estimator reads examples: as numbers, by the schema that it was fitted to."""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from cpvae.data.objects import read_rows
from cpvae.data.schema import Kinds, Schema
from cpvae.models.base import Model


class ReadingMixin(BaseEstimator):
    """What the methods of an estimator make of their argument ``X``."""

    kinds: Kinds | None
    missing: str | None
    model_: Model
    schema_: Schema

    def _set_names(self, schema: Schema) -> None:
        """The names of the columns where scikit-learn looks for them."""
        if schema.columns and not schema.labels:
            self.feature_names_in_ = np.array(schema.given_names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("This CPVAE is not fitted yet: call fit first, or CPVAE.load.")

    def _read(self, X: Any, reset: bool) -> tuple[np.ndarray, Schema]:
        """Examples in single precision, and their schema."""
        return read_rows(self, X, None if reset else self.schema_, self.kinds, self.missing)

    def _examples(self, X: ArrayLike) -> torch.Tensor:
        self._check_fitted()
        x, _ = self._read(X, reset=False)
        self._check_like(x)
        return torch.from_numpy(np.ascontiguousarray(x)).to(self.model_.aggregated.device)

    def _check_like(self, x: np.ndarray) -> None:
        """Refuses what the fitted model cannot take."""
        likelihood = self.model_.likelihood
        self.schema_.check_values(x, likelihood.takes_missing, likelihood.binarised)

    def _as_precise_as(self, X: ArrayLike) -> tuple[Model, torch.Tensor]:
        """The model and examples, in double precision on the processor if ``X`` is an array of it.

        In single precision the place of an example among others may show in its last digits.
        """
        x = self._examples(X)
        if getattr(X, "dtype", None) != np.float64:
            return self.model_, x
        return copy.deepcopy(self.model_).cpu().double(), x.cpu().double()

    def _in_parts(self, X: ArrayLike, method: str) -> np.ndarray:
        model, x = self._as_precise_as(X)
        parts = [getattr(model, method)(part) for part in x.split(model.rows_at_once())]
        return torch.cat(parts).cpu().numpy()

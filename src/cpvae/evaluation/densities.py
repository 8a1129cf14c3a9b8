"""How probable rows are beside those that were fitted: rows that fit nowhere stand out by it.

The log-density of a row is the bound on log p(x) (nats). A run keeps `QUANTILES` of those of the
rows that it was fitted to, or of `MOST_ROWS` of them, so that the place of a new row among them
needs no data.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from cpvae.models.base import Model
from cpvae.models.inference import elbo_of_each

QUANTILES = 101
MOST_ROWS = 5_000  # that quantiles are taken of
KEY = "log_densities_nats"  # in run.json


def quantiles(model: Model, x: Float[Tensor, "n ..."], seed: int) -> list[float]:
    """Quantiles of the log-densities of fitted rows, from the least to the greatest, nats."""
    some = x[:: 1 + (len(x) - 1) // MOST_ROWS].to(model.aggregated.device)
    found = elbo_of_each(model, some, seed).double().cpu().numpy()
    return np.round(np.quantile(found, np.linspace(0, 1, QUANTILES)), 4).tolist()


def places(
    log_densities: Float[np.ndarray, " n"], of_fitted: Sequence[float]
) -> Float[np.ndarray, " n"]:
    """Share of the fitted rows that are less probable than each row: 0 to 1."""
    return np.interp(log_densities, of_fitted, np.linspace(0, 1, len(of_fitted)))


def outliers(
    log_densities: Float[np.ndarray, " n"], of_fitted: Sequence[float]
) -> Bool[np.ndarray, " n"]:
    """Which rows are less probable than all fitted ones."""
    return log_densities < min(of_fitted)


def columns(model: Model, x: Float[Tensor, "n ..."], info: dict[str, Any]) -> dict[str, np.ndarray]:
    """What ``cpvae assign`` writes of the densities of rows; a run without quantiles has no places.

    Arguments:
        model: of the run
        x: rows (n, ...)
        info: of the run, ``run.json``
    """
    found = elbo_of_each(model, x, info["recipe"]["seed"]).double().cpu().numpy()
    table = {"log_density": found}
    if of_fitted := info.get(KEY):
        table |= {"place": places(found, of_fitted), "outlier": outliers(found, of_fitted)}
    return table

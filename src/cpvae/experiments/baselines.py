"""What CP-VAE is compared with: its own start with no network trained, and clusterings of others.

Each is fitted to rows and assigns new ones, as scikit-learn's mixtures do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from torch import Tensor

from cpvae.clustering.communities import NEIGHBOURS, communities
from cpvae.clustering.overlap import overlap_mixture
from cpvae.data import Source, split
from cpvae.data.objects import encode_frame
from cpvae.data.schema import Schema
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.models.inference import codes, represent, standardised
from cpvae.streams import stream
from cpvae.training.fit import plan
from cpvae.training.initialise import (
    as_table,
    initial_clusters,
    needs_mixture,
    rows_of_graph,
)

FORMS = ("full", "tied", "diag", "spherical")  # of the covariances of a Gaussian mixture

Assign = Callable[[Tensor], Int[np.ndarray, " n"]]


def start(model: Model, x: Float[Tensor, "n ..."], seed: int) -> Assign:
    """The initial clusters of `initialise.initial_clusters`, as a rule for new examples.

    Communities are those of the data alone, because codes need a network that was trained. A new
    example goes where most of its nearest neighbours are; a mixture assigns by responsibilities.

    Arguments:
        model: not trained; it says how examples are read
        x: training data (n, ...) in the data's units
        seed: of the fit whose start it is
    """
    k, uneven = model.n_components, len(model.shape) == 1
    if not needs_mixture(len(x), model.shape, model.likelihood.kinds):
        points = represent(model, x[rows_of_graph(len(x), seed)], standardised)
        found = communities(points, k, stream(seed, "initialisation", 1), uneven)
        if not uneven or found.parts <= k:
            nearest = _nearest(points, found.category, NEIGHBOURS)
            return lambda new: nearest.predict(represent(model, new, standardised))
    mixture = overlap_mixture(as_table(model, x), k, stream(seed, "mixture"))
    return lambda new: mixture.assign(as_table(model, new))[:, 0, 0].numpy()


def start_of_codes(model: Model, x: Float[Tensor, "n ..."], seed: int) -> Assign:
    """The initial clusters of a model after its pretraining, as a rule for new examples.

    A new example goes where most of its nearest neighbours among the codes are. Arguments as for
    `start`, but that the model was trained with no use of c.
    """
    first, last = initial_clusters([model], x, [seed])[0][:, 0].unbind(-1)
    category = torch.where(first == last, first, -1).numpy()
    nearest = _nearest(represent(model, x, codes), category, NEIGHBOURS)
    return lambda new: nearest.predict(represent(model, new, codes))


def before_training(
    x: Float[np.ndarray, "n f"],
    schema: Schema,
    k: int,
    seed: int,
    kinds: str | None = None,
    **given: Any,
) -> tuple[Model, Tensor, Schema]:
    """The model that a fit to these rows would train, the rows it would see, and their schema."""
    splits = split(Source("rows", x, schema=schema), seed, test_fraction=0.0)
    settings = {"n_components": k, "seed": seed, **given}
    planned = plan(splits.train.x, splits.schema, settings, kinds)
    return build(**planned.config), splits.train.tensor(), planned.schema


class Start:
    """The `start` of a `CPVAE` with the same seed: the same rows, read in the same way.

    Arguments:
        n_components: number of categories
        seed: of the split and of the initial clusters
    """

    def __init__(self, n_components: int, seed: int):
        self.n_components, self.seed = n_components, seed

    def fit(self, rows: pd.DataFrame) -> "Start":
        """Finds the initial clusters of the rows that `CPVAE` would train on."""
        x, schema = encode_frame(rows)
        given = x, schema, self.n_components, self.seed
        model, kept, self.schema = before_training(*given, model="cpvae")
        self.assign = start(model, kept, self.seed)
        return self

    def predict(self, rows: pd.DataFrame) -> Int[np.ndarray, " n"]:
        """The category of each row."""
        x, _ = encode_frame(rows, self.schema)
        return self.assign(torch.from_numpy(np.ascontiguousarray(x)))


class BestForm(BaseEstimator):
    """A Gaussian mixture whose form of covariances has the best BIC, of four with one start each.

    Arguments:
        n_components: number of components
        seed: of the starts, of which the best form gets ten
    """

    def __init__(self, n_components: int, seed: int):
        self.n_components, self.seed = n_components, seed

    def fit(self, points: Float[np.ndarray, "n d"], y: Any = None) -> "BestForm":
        """Chooses the form, and fits it."""
        how = self.n_components, self.seed
        tries = [gaussian_mixture(*how, form, 1).fit(points) for form in FORMS]
        self.form_ = min(tries, key=lambda each: each.bic(points)).covariance_type
        self.mixture_ = gaussian_mixture(*how, self.form_).fit(points)
        return self

    def predict(self, points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """The component of each row."""
        return self.mixture_.predict(points)


def gaussian_mixture(k: int, seed: int, form: str = "full", starts: int = 10) -> Any:
    """scikit-learn's mixture, the best of some starts."""
    from sklearn.mixture import GaussianMixture

    how: dict[str, Any] = {"covariance_type": form, "n_init": starts, "reg_covar": 1e-3}
    return GaussianMixture(k, **how, random_state=seed)


class ByNeighbours(BaseEstimator):
    """Clusters with no rule for new rows: those go where most of their nearest neighbours are.

    Arguments:
        cluster: gives each row its cluster, or -1 for none
        n_neighbours: that a new row is assigned by
    """

    def __init__(self, cluster: Callable[[np.ndarray], np.ndarray], n_neighbours: int):
        self.cluster, self.n_neighbours = cluster, n_neighbours

    def fit(self, points: Float[np.ndarray, "n d"], y: Any = None) -> "ByNeighbours":
        """Clusters the rows."""
        self.nearest_ = _nearest(points, self.cluster(points), self.n_neighbours)
        return self

    def predict(self, points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """The cluster of each row."""
        return self.nearest_.predict(points)


def louvain(k: int, seed: int) -> ByNeighbours:
    """Louvain's method on the graph of nearest neighbours, at the resolution that gives K."""
    return ByNeighbours(lambda x: communities(x, k, seed).category, NEIGHBOURS)


def hdbscan(k: int) -> ByNeighbours:
    """HDBSCAN. Its smallest cluster is a tenth of an even share: by that a component is in use."""
    from sklearn.cluster import HDBSCAN

    def cluster(points: np.ndarray) -> np.ndarray:
        fewest = max(5, len(points) // (10 * k))
        return HDBSCAN(min_cluster_size=fewest, copy=False).fit_predict(points.copy())

    return ByNeighbours(cluster, 1)


def _nearest(points: np.ndarray, category: np.ndarray, n_neighbours: int) -> Any:
    """A classifier by nearest neighbours; all examples are of one category if none has any."""
    from sklearn.neighbors import KNeighborsClassifier

    known = category >= 0 if (category >= 0).any() else np.ones(len(category), bool)
    n_neighbours = min(n_neighbours, int(known.sum()))
    return KNeighborsClassifier(n_neighbours).fit(points[known], category[known])

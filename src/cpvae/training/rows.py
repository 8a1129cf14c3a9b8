"""Rows that are trained on: all of them in memory, or on disk, where an epoch takes a window."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.clustering.overlap import OverlapMixture, overlap_mixture
from cpvae.data.store import Windows
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.streams import stream
from cpvae.training.engine import Engine
from cpvae.training.initialise import as_table
from cpvae.training.processes import digest, from_first
from cpvae.training.recipe import Recipe

Rows = Tensor | Windows
MOST_TO_START = 100_000  # rows on disk by which initial clusters are found


def sample_of(rows: Rows) -> Tensor:
    """As many rows as an epoch takes, (n, ...)."""
    return rows.sample() if isinstance(rows, Windows) else rows


def to_start(rows: Rows) -> Tensor:
    """Rows by which a model is initialised, (m, ...)."""
    return rows.sample()[:MOST_TO_START] if isinstance(rows, Windows) else rows


def of_epoch(rows: Rows, seed: int, epoch: int) -> Tensor:
    """The rows that an epoch takes, which counts from 0, (n, ...)."""
    return rows.of_epoch(seed, epoch) if isinstance(rows, Windows) else rows


def shares(
    model: Model,
    rows: Rows,
    device: torch.device,
    row_weights: Float[Tensor, " n"] | None = None,
) -> Float[Tensor, " k"]:
    """The mean of q(c|x) over all rows (eq. 14); rows in memory may have weights."""
    if not isinstance(rows, Windows):
        probs = cluster_probs(model, rows.flatten(1).to(device))
        if row_weights is not None:
            probs = probs * row_weights.to(probs).unsqueeze(1)
        return probs.mean(0)
    total = torch.zeros_like(model.aggregated, dtype=torch.float64)
    for part in rows.parts():
        for some in part.to(device).split(model.rows_at_once()):
            total += model.cluster_probs(some).double().sum(0)
    return (total / rows.n).float()


def digest_of(rows: Rows) -> str:
    """A digest of all rows; of those on disk that of their shards."""
    return digest(rows.store.facts["shards"] if isinstance(rows, Windows) else rows)


class Feed:
    """Gives an engine the rows of each epoch; nothing is to be done where it has them all.

    Initial clusters of rows on disk are components of a mixture, found by some of the rows. It
    depends on no weights, so that a run that is resumed finds it again.
    """

    def __init__(
        self,
        rows: Rows,
        engine: Engine,
        models: Sequence[Model],
        seeds: Sequence[int],
        recipe: Recipe,
    ):
        self.rows, self.engine, self.recipe = rows, engine, recipe
        self.models, self.seeds = list(models), list(seeds)
        self._mixtures: list[OverlapMixture] = []

    def begin(self, epoch: int) -> None:
        """Before an epoch, from 0."""
        if not isinstance(self.rows, Windows):
            return
        x = self.rows.of_epoch(self.seeds[0], epoch)
        likelihood = self.models[0].likelihood
        self.engine.take(likelihood.observe(x.to(self.engine.device)))
        if 0 < self.recipe.pretraining_epochs <= epoch < self.recipe.anneal_epochs:
            table = as_table(self.models[0], x)
            for index, mixture in enumerate(self._found()):
                self.engine.set_initial(index, mixture.assign(table))

    def _found(self) -> list[OverlapMixture]:
        if not self._mixtures:
            table, k = as_table(self.models[0], to_start(self.rows)), self.models[0].n_components
            seeds = [stream(seed, "mixture") for seed in self.seeds]
            self._mixtures = [
                OverlapMixture(*found)
                for found in from_first(lambda: [[*overlap_mixture(table, k, s)] for s in seeds])
            ]
        return self._mixtures

"""Initial clusters for q(c|x): communities of neighbours, or components of a mixture.

After pretraining, in which c is not used, examples of one cluster have codes that are near one
another. The graph that joins every code with its nearest ones falls into communities, which find
clusters of any shape, whereas a Gaussian mixture or k-means would cut long ones and join close ones
(`clustering.communities`). Where z has few dimensions, clusters may be clearer in the data than in
the codes: both are tried, and the one with the better communities is taken. Communities of a table
may differ in size; those of images are taken to be even. Small tables have too few neighbours, and
in mixed ones distances depend on how a category is weighed against a number: their initial clusters
are components of a mixture (`clustering.overlap`). q(c|x) learns the initial clusters with a weight
that falls to 0 by the end of the annealing; after that the bound alone decides.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.clustering.communities import Communities, communities
from cpvae.clustering.overlap import Table, overlap_mixture
from cpvae.models.base import Model
from cpvae.models.inference import Representation, codes, represent, standardised
from cpvae.streams import stream, torch_stream

ENOUGH_ROWS = 1_000  # of a table, for neighbours to show its clusters
ENOUGH_COLUMNS = 8  # of a table, for neighbours to show its clusters
FEW_CATEGORIES = 0.1  # share of a table's columns: with no more it is one of numbers to neighbours
MOST_EXAMPLES = 50_000  # in a neighbour graph, whose time grows with the square
COMPARED = 10_000  # examples on which codes and data are compared


def initial_clusters(
    models: Sequence[Model], x: Tensor, seeds: Sequence[int]
) -> list[Int[Tensor, "n 2 2"]]:
    """The initial clusters of each example, for each model.

    Arguments:
        models: after their pretraining
        x: training data (n, ...) in the data's units
        seeds: one a model, of the examples that are looked at and of the search for communities

    Returns:
        Ranges of categories, for each example two, its own cluster's and its merged cluster's, and
        of each range the first and the last category. By communities all four numbers are the rank
        of its community by size, from 0; an example without one may be of any category, 0 to K - 1.
        Communities that are more than K, beyond the K largest, are none, and so are examples beyond
        `MOST_EXAMPLES`. A table that `needs_mixture`, or whose graph falls into more than K
        separate parts, gets the ranges of `overlap.OverlapMixture`.
    """
    from joblib import Parallel, cpu_count, delayed

    if needs_mixture(len(x), models[0].shape, models[0].likelihood.kinds):
        table = as_table(models[0], x)  # one for all: standardisation knows no weights
        each = zip(models, seeds, strict=True)
        return [_by_mixture(table, model.n_components, seed) for model, seed in each]
    at_once = Parallel(n_jobs=min(cpu_count(), len(models)))
    rows = [rows_of_graph(len(x), seed) for seed in seeds]
    uneven = len(models[0].shape) == 1

    def search(
        representations: Sequence[Representation], n_rows: int, near: Sequence[float | None]
    ) -> list[Communities]:
        each = zip(models, rows, seeds, representations, near, strict=True)
        return at_once(
            delayed(communities)(
                represent(model, x[mine[:n_rows]], as_),
                model.n_components,
                stream(seed, "initialisation", 1),
                uneven,
                resolution,
            )
            for model, mine, seed, as_, resolution in each
        )

    anywhere = [None] * len(models)
    of_codes, of_data = (
        search([as_] * len(models), COMPARED, anywhere) for as_ in (codes, standardised)
    )
    better = [a if a.score >= b.score else b for a, b in zip(of_codes, of_data, strict=True)]
    if len(x) > COMPARED:
        pairs = zip(better, of_codes, strict=True)
        representations = [codes if a is b else standardised for a, b in pairs]
        better = search(representations, MOST_EXAMPLES, [found.resolution for found in better])
    ranges = []
    for model, mine, seed, found in zip(models, rows, seeds, better, strict=True):
        if uneven and found.parts > model.n_components:
            ranges.append(_by_mixture(as_table(model, x), model.n_components, seed))
            continue
        of_model = torch.tensor([0, model.n_components - 1]).repeat(len(x), 2, 1)
        category = torch.from_numpy(found.category)  # -1 where there is none
        of_model[mine[category >= 0]] = category[category >= 0].view(-1, 1, 1)
        ranges.append(of_model)
    return ranges


def rows_of_graph(n: int, seed: int) -> Int[Tensor, " m"]:
    """Which of ``n`` examples are in the neighbour graph: `MOST_EXAMPLES` at most, in any order."""
    return torch.randperm(n, generator=torch_stream(seed, "initialisation"))[:MOST_EXAMPLES]


def needs_mixture(n_examples: int, shape: Sequence[int], kinds: Sequence[str] = ()) -> bool:
    """Whether the initial clusters are components of a mixture, and not communities.

    True for tables that are short or narrow, or that have columns of categories beside others:
    more of them than distances can do without.
    """
    n_categories = sum(kind in ("binary", "categorical") for kind in kinds)
    mixed = FEW_CATEGORIES * len(kinds) < n_categories < len(kinds)
    return len(shape) == 1 and (n_examples < ENOUGH_ROWS or shape[0] < ENOUGH_COLUMNS or mixed)


def as_table(model: Model, x: Float[Tensor, "n f"]) -> Table:
    """Rows of a table as the model's networks read them, NaN where a number is missing."""
    likelihood = model.likelihood
    observed = likelihood.observe(x.to(model.aggregated.device))
    read = likelihood.standardised(observed).cpu().double()
    one_hot = torch.tensor(likelihood.one_hot)
    return Table(read[:, ~one_hot].numpy(), read[:, one_hot].numpy(), likelihood.n_levels)


def _by_mixture(table: Table, n_components: int, seed: int) -> Int[Tensor, "n 2 2"]:
    return overlap_mixture(table, n_components, stream(seed, "mixture")).assign(table)

"""Initial clusters for q(c|x): communities of neighbours, or components of a mixture.

After pretraining, in which c is not used, examples of one cluster have codes that are near one
another. The graph that joins every code with its nearest ones falls into communities, which find
clusters of any shape, where a Gaussian mixture or k-means would cut long ones and join close ones
(`clustering.communities`). Where z needs few dimensions, the data themselves separate clusters
better than their codes; which of the two does shows in how good their communities are. Clusters of
a table may be uneven in size. Small tables have too few neighbours for either, and in mixed ones
distances depend on how much a category counts: their initial clusters are components of a mixture
(`clustering.overlap`). Categories begin there, and from then on follow the objective alone.
"""

from collections.abc import Collection, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.clustering.communities import Communities, communities
from cpvae.clustering.overlap import Table, overlap_mixture
from cpvae.models.base import Model
from cpvae.models.inference import Representation, codes, represent, standardised

ENOUGH_ROWS = 1_000  # of a table, for neighbours to show its clusters
ENOUGH_COLUMNS = 8  # of a table, for the same
MOST_EXAMPLES = 50_000  # that are looked at: the time for neighbours grows with the square
COMPARED = 10_000  # of them, on which codes and data are compared


def initial_clusters(
    models: Sequence[Model], x: Tensor, seeds: Sequence[int]
) -> list[Int[Tensor, "n 2 2"]]:
    """The initial clusters of each example, for each model.

    Arguments:
        models: after their pretraining
        x: training data (n, ...) in the data's units
        seeds: one a model, of the examples that are looked at and of the search for communities

    Returns:
        For each example the first and the last category that its component may be, then those of
        its merged cluster, see `overlap`. For communities, of codes or data, whichever are better,
        all of them are the place of its community by size. Examples without a community may be of
        any category: those in the smallest communities of images, where there are more of them
        than the model has categories, and those beyond `MOST_EXAMPLES`. Tables whose graph falls
        into more separate parts than there are categories get a mixture, as those do that
        `needs_mixture`.
    """
    from joblib import Parallel, cpu_count, delayed

    if needs_mixture(len(x), models[0].shape, models[0].likelihood.kinds):
        table = as_table(models[0], x)  # restarts see the same
        each = zip(models, seeds, strict=True)
        return [_by_mixture(table, model.n_components, seed) for model, seed in each]
    at_once = Parallel(n_jobs=min(cpu_count(), len(models)))
    rows = [
        torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:MOST_EXAMPLES]
        for seed in seeds
    ]
    uneven = len(models[0].shape) == 1

    def search(of_each: Sequence[Representation], count: int) -> list[Communities]:
        each = zip(models, rows, seeds, of_each, strict=True)
        return at_once(
            delayed(communities)(
                represent(model, x[mine[:count]], representation), model.n_components, seed, uneven
            )
            for model, mine, seed, representation in each
        )

    tried = [search([of] * len(models), COMPARED) for of in (codes, standardised)]
    pairs = list(zip(*tried, strict=True))
    in_codes = [of_codes[:2] >= of_data[:2] for of_codes, of_data in pairs]
    found = [pair[0 if better else 1] for pair, better in zip(pairs, in_codes, strict=True)]
    if len(x) > COMPARED:
        found = search([codes if better else standardised for better in in_codes], MOST_EXAMPLES)
    ranges = []
    for model, mine, seed, of in zip(models, rows, seeds, found, strict=True):
        if uneven and of.parts > model.n_components:
            ranges.append(_by_mixture(as_table(model, x), model.n_components, seed))
            continue
        every = torch.tensor([0, model.n_components - 1]).repeat(len(x), 2, 1)
        category = torch.from_numpy(of.category)
        every[mine[category >= 0]] = category[category >= 0].view(-1, 1, 1)
        ranges.append(every)
    return ranges


def needs_mixture(n_examples: int, shape: Sequence[int], kinds: Collection[str] = ()) -> bool:
    """Whether the initial clusters are components of a mixture, and not communities.

    So they are in a table that is too short or too narrow for communities, and in one with columns
    of categories beside others, where distances depend on how much a category counts.
    """
    categories = {"binary", "categorical"}.intersection(kinds)
    mixed = bool(categories) and not categories.issuperset(kinds)
    return len(shape) == 1 and (n_examples < ENOUGH_ROWS or shape[0] < ENOUGH_COLUMNS or mixed)


def as_table(model: Model, x: Float[Tensor, "n f"]) -> Table:
    """Rows of a table as the model's networks read them, NaN where a number is missing."""
    likelihood = model.likelihood
    observed = likelihood.observe(x.to(model.aggregated.device))
    read = likelihood.standardised(observed).cpu().double()
    one_hot = torch.tensor(likelihood.one_hot)
    return Table(read[:, ~one_hot].numpy(), read[:, one_hot].numpy(), likelihood.n_levels)


def _by_mixture(table: Table, n_components: int, seed: int) -> Int[Tensor, "n 2 2"]:
    return overlap_mixture(table, n_components, seed).assign(table)

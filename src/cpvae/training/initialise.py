"""Where categories start: communities of examples that are neighbours, or pieces of a table.

As long as c says nothing, z has to say all, and examples of a kind get codes that are near one
another. The graph that joins every code with its nearest ones falls into `communities`, which find
kinds of any shape, where a Gaussian mixture or k-means would cut the long ones and join the close
ones. Where z needs few dimensions, the data themselves tell more than their codes; which of the two
does shows in how good their communities are. Kinds of a table may be uneven. Small tables say too
little for either, and in mixed ones what is near depends on how much a category weighs: they start
at `pieces`. Categories begin there, and from then on follow the objective alone.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cpvae.clustering.communities import Communities, communities
from cpvae.clustering.overlap import Table, pieces
from cpvae.models.base import ConditionalPriorVAE

ENOUGH = 1_000  # rows of a table from which neighbours tell what is a kind
FEATURES = 8  # columns of a table from which they do
EXAMPLES = 50_000  # that are looked at, at most: the time for neighbours grows with the square
COMPARED = 10_000  # of them, on which codes and data are compared

Kind = Callable[[ConditionalPriorVAE, Tensor], Tensor]  # of points: codes or data


def start(
    models: Sequence[ConditionalPriorVAE], x: Tensor, seeds: Sequence[int]
) -> list[Int[Tensor, "n 2 2"]]:
    """Where each example starts, for each model: in a piece of the data, and in a group of pieces.

    Arguments:
        models: whose codes z say all
        x: training data (n, ...) in the user's units
        seeds: one a model, of the examples that are looked at and of the search for communities

    Returns:
        For each example the first and the last category of its piece, then those of its group. Both
        are the one category that is its community among codes or among data, whichever are
        better, by size; or all categories: where there are more communities of images than the
        model has categories, examples in the smallest are free, and so are most examples of data
        with more than `EXAMPLES`. Tables that fall into more islands than there are categories
        start at `pieces`, as those do that `starts_at_pieces`.
    """
    from joblib import Parallel, cpu_count, delayed

    if starts_at_pieces(len(x), models[0].shape, getattr(models[0].likelihood, "kinds", ())):
        table = table_of(models[0], x)  # restarts see the same
        each = zip(models, seeds, strict=True)
        return [pieces(table, model.n_components, seed).of(table) for model, seed in each]
    at_once = Parallel(n_jobs=min(cpu_count(), len(models)))
    rows = [
        torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:EXAMPLES]
        for seed in seeds
    ]

    uneven = len(models[0].shape) == 1

    def search(kinds: Sequence[Kind], count: int) -> list[Communities]:
        each = zip(models, rows, seeds, kinds, strict=True)
        return at_once(
            delayed(communities)(
                points_of(model, x[mine[:count]], kind), model.n_components, seed, uneven
            )
            for model, mine, seed, kind in each
        )

    tried = [search([kind] * len(models), COMPARED) for kind in (codes_of, data_of)]
    pairs = list(zip(*tried, strict=True))
    of_codes = [codes[:2] >= data[:2] for codes, data in pairs]
    found = [pair[0 if better else 1] for pair, better in zip(pairs, of_codes, strict=True)]
    if len(x) > COMPARED:
        found = search([codes_of if better else data_of for better in of_codes], EXAMPLES)
    starts = [torch.tensor([0, model.n_components - 1]).repeat(len(x), 2, 1) for model in models]
    for i, (model, mine, communities_of) in enumerate(zip(models, rows, found, strict=True)):
        if uneven and communities_of.islands > model.n_components:
            table = table_of(model, x)
            starts[i] = pieces(table, model.n_components, seeds[i]).of(table)
            continue
        category = torch.from_numpy(communities_of.category)
        starts[i][mine[category >= 0]] = category[category >= 0].view(-1, 1, 1)
    return starts


def starts_at_pieces(n_examples: int, shape: Sequence[int], kinds: Sequence[str] = ()) -> bool:
    """Whether categories start at `pieces`, not as communities.

    So they do in a table that is too short or too narrow for communities, and in one with columns
    of categories beside others, where what is near depends on how much a category weighs.
    """
    categories = {"binary", "categorical"}.intersection(kinds)
    mixed = bool(categories) and not categories.issuperset(kinds)
    return len(shape) == 1 and (n_examples < ENOUGH or shape[0] < FEATURES or mixed)


def table_of(model: ConditionalPriorVAE, x: Float[Tensor, "n f"]) -> Table:
    """Rows of a table as the model's networks see them, for `pieces`."""
    likelihood = model.likelihood
    seen = likelihood.seen(likelihood.observe(x.to(model.aggregated.device))).cpu().double()
    n_levels = getattr(likelihood, "n_levels", ())
    n_numbers = seen.shape[1] - sum(n_levels)
    return Table(seen[:, :n_numbers].numpy(), seen[:, n_numbers:].numpy(), n_levels)


def points_of(
    model: ConditionalPriorVAE, x: Float[Tensor, "n ..."], kind: Kind
) -> Float[np.ndarray, "n d"]:
    """Any number of examples as points: `codes_of` or `data_of` them, in chunks."""
    parts = x.split(model.rows_at_once())
    return torch.cat(
        [kind(model, part.to(model.aggregated.device)).cpu() for part in parts]
    ).numpy()


def codes_of(model: ConditionalPriorVAE, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n d"]:
    """Posterior means of z."""
    return model.embed(x)


def data_of(model: ConditionalPriorVAE, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n f"]:
    """Examples as the networks read them."""
    return model.likelihood.inputs(model.likelihood.observe(x.flatten(1)))

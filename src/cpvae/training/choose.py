r"""How many components: a range of K is tried by the mixtures that fits start from.

A fit of the model `residual` starts as a mixture whose log-likelihood is its bound, so K is judged
by mixtures, in seconds. Rows are cut into `FOLDS` parts. For each K a mixture is fitted to all but
one part, for each part once, with another start. That gives a held-out log-likelihood of every row,
and how well the fits agree on what belongs together: the adjusted Rand index of two fits on the
same rows, a mean over pairs. Numbers are dequantised: the density of a Gaussian on a value that
many rows share has no limit, and would ask for a component for each.

The likelihood alone asks for more components than there are clusters wherever a cluster is no
Gaussian, and agreement alone is best for one or two. So `name_one` takes the K whose fits agree
(`AGREE`), and of these the fewest components whose held-out likelihood is not beaten by another of
them by more than a standard error of the paired difference (Breiman et al. 1984).
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from cpvae.clustering.gaussians import Points, fit_gaussians
from cpvae.data.schema import Kinds, Schema
from cpvae.models.build import build
from cpvae.models.residual import ResidualCPVAE
from cpvae.streams import numpy_stream, stream
from cpvae.training.fit import plan
from cpvae.training.start import points

FOLDS = 5
STARTS = 3  # of K means, in each fold
STEPS = 100  # of EM, at most
MOST_ROWS = 10_000
AGREE = 0.9  # adjusted Rand index from which on fits find the same components


class Tried(NamedTuple):
    """What was measured of one K.

    Arguments:
        k: components
        held_out: log-likelihood of each row by the fit that has not seen it, nats (n)
        agreement: adjusted Rand index of each pair of fits
    """

    k: int
    held_out: list[float]
    agreement: list[float]

    @property
    def agree(self) -> float:
        """Mean agreement; fits with one component always agree."""
        return float(np.mean(self.agreement))

    @property
    def mean(self) -> float:
        """Mean held-out log-likelihood, nats per row."""
        return float(np.mean(self.held_out))


class Named(NamedTuple):
    """The number that is named, None where there is no clear one, and why."""

    k: int | None
    why: str


class Study:
    """Rows that several K are tried on.

    Arguments:
        x: a table (n, f)
        schema: of the table
        kinds: of columns, where `Schema.column_kinds` is not to choose
        seed: of the parts and the starts

    Raises:
        ValueError: a table without numbers.
    """

    def __init__(
        self,
        x: Float[np.ndarray, "n f"],
        schema: Schema,
        kinds: Kinds | None = None,
        seed: int = 0,
    ):
        rng = numpy_stream(seed, "mixture")
        x = x[np.sort(rng.permutation(len(x))[:MOST_ROWS])]
        self.seed, given = seed, {"n_components": 2, "seed": seed, "model": "residual"}
        model = build(**plan(x, schema, given, kinds).config)
        assert isinstance(model, ResidualCPVAE)
        rows = torch.from_numpy(np.ascontiguousarray(x))
        observed = model.likelihood.of_first_head(model.likelihood.observe(rows))
        model.number_head.fit_bends(observed, torch.ones(len(x), 1))
        uniform = torch.from_numpy(rng.random(observed.shape)).to(observed)
        numbers = model.number_head.dequantised(observed, uniform).double().numpy()
        self.rows: Points = points(model, rows)._replace(numbers=numbers)
        self.fold = rng.permutation(len(x)) % FOLDS

    def try_one(self, k: int) -> Tried:
        """Fits ``k`` components, once for each fold."""
        from sklearn.cluster import KMeans
        from sklearn.metrics import adjusted_rand_score

        held_out, found = np.zeros(len(self.fold)), []
        place = np.concatenate([np.nan_to_num(self.rows.numbers), self.rows.chances], 1)
        for part in range(FOLDS):
            train, seed = np.flatnonzero(self.fold != part), stream(self.seed, "mixture", 1 + part)
            member = KMeans(k, n_init=STARTS, random_state=seed).fit_predict(place[train])
            mixture = fit_gaussians(self.rows.take(train), np.eye(k)[member], steps=STEPS)
            joint = mixture.log_prob(self.rows)
            mine = self.fold == part
            held_out[mine] = np.logaddexp.reduce(joint[mine], axis=1)
            found.append(joint.argmax(1))
        pairs = itertools.combinations(found, 2)
        agreement = [float(adjusted_rand_score(*pair)) for pair in pairs]
        return Tried(k, held_out.tolist(), agreement)


def check_table(schema: Schema) -> None:
    """Refuses images."""
    if schema.is_image:
        raise ValueError(
            "choose is for tables. For images fit with too many components, then `cpvae compact "
            "RUN` merges those that the bound does not need."
        )


def name_one(tried: Sequence[Tried]) -> Named:
    """Names one K, or none; see above."""
    stable = [each for each in tried if each.agree >= AGREE]
    if not stable:
        return Named(None, "fits of no number agree with one another: clusters are not clear here.")
    best = max(stable, key=lambda each: each.mean)
    chosen = min((each for each in stable if not _is_beaten(each, best)), key=lambda each: each.k)
    highest = max(tried, key=lambda each: each.mean)
    reason = (
        f"its fits agree ({chosen.agree:.2f}), and among such numbers none has a held-out "
        f"log-likelihood that is better by more than its standard error."
    )
    if not _is_beaten(chosen, highest):
        return Named(chosen.k, reason)
    gain = highest.mean - chosen.mean
    if chosen.k == 1 or chosen.k == max(each.k for each in tried):
        return Named(
            None,
            f"fits of {chosen.k} agree, and {highest.k} describe the rows better by {gain:.2f} "
            f"nats a row without agreeing ({highest.agree:.2f}): there is structure, and no number "
            f"of clusters that is found again.",
        )
    return Named(
        chosen.k,
        f"{reason} {highest.k} describe the rows better by {gain:.2f} nats a row and do not agree "
        f"({highest.agree:.2f}): they cut clusters, and not in the same places.",
    )


def table(tried: Sequence[Tried]) -> list[dict[str, Any]]:
    """A row a K: its mean held-out log-likelihood, how far behind the best, and agreement."""
    best = max(tried, key=lambda each: each.mean)
    return [
        {
            "components": each.k,
            "held_out_nats": each.mean,
            "behind_best_nats": best.mean - each.mean,
            "behind_best_se_nats": _error(each, best),
            "agreement": each.agree,
        }
        for each in tried
    ]


def _is_beaten(one: Tried, other: Tried) -> bool:
    return other.mean - one.mean > _error(one, other)


def _error(one: Tried, other: Tried) -> float:
    """Standard error of the mean difference of the rows' log-likelihoods."""
    off = np.subtract(one.held_out, other.held_out)
    return float(off.std() / np.sqrt(len(off)))

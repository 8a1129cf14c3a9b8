"""Figures of a model on any number of rows, taken a chunk at a time.

They are those of `metrics.evaluate` but for the split of the KL, which compares each row with all
others. A chunk takes two draws of a bound's noise: with many rows their error is small.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from cpvae.data.labels import known
from cpvae.evaluation.metrics import Estimate, bound_draws, estimate, log_likelihood
from cpvae.models.base import Model
from cpvae.models.build import has_categories
from cpvae.models.inference import components_used, exact_terms, one_draw
from cpvae.models.precision import single_precision
from cpvae.streams import torch_stream

TEMPERATURE = 0.5  # of the relaxed value
Chunks = Iterable[tuple[Tensor, "np.ndarray | None"]]


class Pool:
    """The estimate over all rows, of those over each chunk."""

    def __init__(self) -> None:
        self.parts: list[tuple[int, Estimate]] = []

    def add(self, n: int, found: Estimate) -> None:
        """Takes the estimate of a chunk of ``n`` rows."""
        self.parts.append((n, found))

    def estimate(self) -> Estimate:
        """Mean, and its standard errors over rows and of the noise."""
        sizes = np.array([n for n, _ in self.parts], dtype=float)
        means, errors, noise = np.array([found for _, found in self.parts]).T
        n = sizes.sum()
        mean = float((sizes * means).sum() / n)
        inside = np.where(sizes > 1, errors**2 * sizes * (sizes - 1), 0.0).sum()
        spread = inside + (sizes * (means - mean) ** 2).sum()
        error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
        return Estimate(mean, error, float(np.sqrt(((noise * sizes) ** 2).sum()) / n))


@single_precision()
def evaluate_chunks(
    model: Model,
    chunks: Chunks,
    n_samples: int = 500,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Figures of a model on chunks of data (n, ...), each with its labels (n) or None.

    Arguments:
        model: a fitted model
        chunks: in the user's units
        n_samples: importance samples of each row's likelihood
        seed: of binarisation and noise; each chunk has a stream of its own
        progress: called with rows done

    Returns:
        As `metrics.evaluate`, but for what the module says.
    """
    pools: dict[str, Pool] = {}
    table: Counter[tuple[str, int]] = Counter()
    k, n, labelled = model.n_components, 0, False
    of_terms, shares = torch.zeros(2, k, dtype=torch.float64)
    entropy = 0.0
    for number, (x, labels) in enumerate(chunks):
        generator = torch_stream(seed, "evaluation", number)
        observed = model.likelihood.observe(x.flatten(1), generator)
        found, log_qc = _of_chunk(model, observed, n_samples, generator)
        for name, each in found.items():
            pools.setdefault(name, Pool()).add(len(x), each)
        qc = log_qc.double().exp()
        of_terms += qc.sum(0)
        entropy -= (qc * log_qc.double()).nan_to_num().sum().item()
        probs = torch.cat([model.cluster_probs(p) for p in x.split(model.rows_at_once())])
        shares += probs.double().sum(0)
        if labels is not None:
            labelled, has = True, known(labels)
            pairs = zip(labels[has].tolist(), probs.argmax(1).numpy()[has].tolist(), strict=True)
            table.update((str(label), component) for label, component in pairs)
        n += len(x)
        if progress:
            progress(n)
    result: dict[str, Any] = {"n_examples": n, "n_components": k, "draws": 2}
    result["importance_samples"] = n_samples
    for name, pool in pools.items():
        result |= pool.estimate().named(name)
    if k > 1:
        information = torch.special.entr(of_terms / n).sum().item() - entropy / n
        result["mutual_information_c_nats"] = information
        result["components_used"] = components_used(shares / n)
        if labelled and table:
            result |= _scores(table, n)
    return result


def _of_chunk(
    model: Model, observed: Tensor, n_samples: int, generator: torch.Generator
) -> tuple[dict[str, Estimate], Tensor]:
    """Estimates on a chunk, by name, and log q(c|x)."""
    draws = bound_draws(lambda: exact_terms(model, observed, generator), math.inf)
    found = {"elbo_exact": estimate(draws.elbo())}
    if has_categories(model):
        relaxed = bound_draws(
            lambda: one_draw(model, observed, generator, TEMPERATURE, "relaxed"), math.inf
        )
        found["elbo_relaxed"] = estimate(relaxed.elbo())
    how = {"n_samples": n_samples, "generator": generator, "most_error": math.inf}
    found["log_likelihood"] = log_likelihood(model, observed, **how)[0]  # type: ignore[arg-type]
    found["reconstruction"] = estimate(draws.log_px)
    found["kl_z"] = estimate(draws.kl_z)
    if has_categories(model):
        found["kl_c"] = estimate(draws.kl_c)
    return found, draws.log_qc[0]


def _scores(counts: Counter[tuple[str, int]], n: int) -> dict[str, Any]:
    """The clustering scores, and how many rows have a label where some have none."""
    labels = sorted({label for label, _ in counts})
    components = sorted({component for _, component in counts})
    table = np.array([[counts[label, k] for k in components] for label in labels])
    labelled = int(table.sum())
    return ({} if labelled == n else {"n_labelled": labelled}) | scores_of(table)


def scores_of(table: np.ndarray) -> dict[str, float]:
    """The scores of `metrics.cluster_scores`, of rows counted by class and category."""
    n = table.sum()
    rows, columns = linear_sum_assignment(table, maximize=True)

    def pairs(counts: np.ndarray) -> float:
        return float((counts * (counts - 1.0) / 2).sum())

    def entropy(counts: np.ndarray) -> float:
        shares = counts[counts > 0] / n
        return float(-(shares * np.log(shares)).sum())

    together, classes, categories = (pairs(c) for c in (table, table.sum(1), table.sum(0)))
    expected, most = classes * categories / pairs(n), (classes + categories) / 2
    h_classes, h_categories = entropy(table.sum(1)), entropy(table.sum(0))
    information = h_classes + h_categories - entropy(table.ravel())
    mean = (h_classes + h_categories) / 2
    return {
        "accuracy": float(table[rows, columns].sum() / n),
        "purity": float(table.max(axis=0).sum() / n),
        "nmi": information / mean if mean else 1.0,
        "ari": (together - expected) / (most - expected) if most != expected else 1.0,
    }

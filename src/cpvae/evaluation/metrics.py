"""Figures of a fitted model: bounds, likelihood, the KL taken apart, and clustering scores.

All quantities are in nats per example, means over the data given, and each key of a result names
its unit and its estimator. Bounds are taken with one-hot c; the relaxed value, which is not a
bound, is called relaxed. Labels are used here and nowhere else.

An estimate has two standard errors. ``..._se_nats`` is over examples: how far it may be from that
of all data of this kind. ``..._noise_se_nats`` is of the noise alone: how far it may be from that
of these very examples with another seed.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from cpvae.data.labels import known
from cpvae.models.base import Model, Terms
from cpvae.models.build import WithCategories, has_categories
from cpvae.models.functional import log_mean_exp, mutual_information
from cpvae.models.inference import cluster_probs, components_used, exact_terms, one_draw
from cpvae.models.networks import products
from cpvae.models.precision import single_precision
from cpvae.streams import torch_stream

Progress = Callable[[int, int], None]
NOISE_ERROR = 0.02  # nats: draws are added until the noise of an estimate has a smaller one
MOST_DRAWS = 50  # of each example's noise, for the bounds
MOST_ROUNDS = 20  # of importance samples, as many each as were asked for

# key: what it is, estimator, unit
MEANING = {
    "elbo_exact_nats": ("Bound on log p(x)", "one-hot c, every category enumerated, one z", "nats"),
    "elbo_relaxed_nats": ("Relaxed value (not a bound)", "Gumbel-Softmax c, one z", "nats"),
    "log_likelihood_nats": ("log p(x)", "importance samples over (z, c), from below", "nats"),
    "reconstruction_nats": ("E log p(x | z, c)", "one-hot c, enumerated", "nats"),
    "kl_z_nats": (
        "KL of z to its prior",
        "enumerated (eq. 8); closed form, in the model residual at one z",
        "nats",
    ),
    "kl_c_nats": ("KL of c to its prior", "closed form (eq. 9)", "nats"),
    "mutual_information_c_nats": ("I(c; x)", "exact over these examples; at most log K", "nats"),
    "mutual_information_nats": (
        "I((z, c); x)",
        "against the posteriors of all these examples; at most log n (eq. 13)",
        "nats",
    ),
    "aggregated_kl_z_nats": ("E KL(q(z|c) || p(z|c))", "the rest of the KL (eq. 13)", "nats"),
    "aggregated_kl_c_nats": ("KL(q(c) || p(c))", "exact (eq. 13)", "nats"),
    "components_used": ("Components in use", "share at or above 0.1 / K", "count"),
    "accuracy": ("Accuracy", "components matched to classes one to one", "share"),
    "purity": ("Purity", "each component takes its majority class", "share"),
    "nmi": ("Normalised mutual information", "with the classes", "0 to 1"),
    "ari": ("Adjusted Rand index", "with the classes", "-0.5 to 1"),
}

WITHOUT_C = {
    "elbo_exact_nats": ("Bound on log p(x)", "one z", "nats"),
    "log_likelihood_nats": ("log p(x)", "importance samples over z, from below", "nats"),
    "reconstruction_nats": ("E log p(x | z)", "one z", "nats"),
    "kl_z_nats": ("KL of z to its prior", "closed form, or one z under a mixture", "nats"),
    "mutual_information_c_nats": (
        "I(component; x)",
        "through the responsibilities at one z; at most log K",
        "nats",
    ),
}


def meaning(result: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    """What each figure of an evaluation is, its estimator and its unit."""
    return MEANING if "kl_c_nats" in result else MEANING | WITHOUT_C


class Figure(NamedTuple):
    """A figure of an evaluation, as it is shown: all text, "" for an error that it does not have.

    ``error`` is the standard error over examples, and ``noise_error`` that of the noise.
    """

    key: str
    what: str
    estimator: str
    unit: str
    value: str
    error: str
    noise_error: str


def figures_of(result: dict[str, Any]) -> list[Figure]:
    """The figures of an evaluation that have a meaning, in its order."""
    return [
        Figure(key, *meant, *(_shown(result.get(name)) for name in (key, *_errors(key))))
        for key, meant in meaning(result).items()
        if key in result
    ]


def _errors(key: str) -> tuple[str, str]:
    """The keys of the two standard errors of a figure."""
    name = key.removesuffix("_nats")
    return f"{name}_se_nats", f"{name}_noise_se_nats"


def _shown(value: float | int | None) -> str:
    return "" if value is None else f"{value}" if isinstance(value, int) else f"{value:.3f}"


@single_precision()
def evaluate(
    model: Model,
    x: Tensor,
    labels: ArrayLike | None = None,
    n_samples: int = 500,
    seed: int = 0,
    temperature: float = 0.5,
    progress: Progress | None = None,
    precision: str = "float32",
) -> dict[str, float | int]:
    """All figures of a model on data (n, ...) in the user's units.

    Arguments:
        model: a fitted model
        x: data, (n, ...)
        labels: classes of the data, (n), for the four clustering scores; examples without one
            (None, NaN or "") are left out of these
        n_samples: importance samples of the log-likelihood
        seed: of binarisation and noise
        temperature: of the relaxed value
        progress: called with (rows done, rows in all) during the importance sampling
        precision: of the networks' products in the importance sampling, see `log_likelihood`

    Returns:
        ``elbo_exact_nats`` (eq. 7, every category enumerated), ``log_likelihood_nats`` (importance
        samples, from below), ``reconstruction_nats`` and ``kl_z_nats`` (eq. 7 and 8). For CP-VAE
        ``elbo_relaxed_nats`` (eq. 11), ``kl_c_nats`` (eq. 8) and the three terms of eq. 13 whose
        sum equals the two KLs (``mutual_information_nats``, ``aggregated_kl_z_nats``,
        ``aggregated_kl_c_nats``). For models with several components
        ``mutual_information_c_nats`` (of the component alone and x, at most log K),
        ``components_used``, and with labels ``accuracy``, ``purity``, ``nmi``, ``ari``, and
        ``n_labelled`` if some examples have no label. Estimates
        have their standard errors beside them, ``..._se_nats`` and ``..._noise_se_nats``;
        ``draws`` and ``importance_samples`` say how many it took to bring the latter below
        `NOISE_ERROR` for the bounds and the likelihood, or that the most were not enough.
    """
    generator = torch_stream(seed, "evaluation", device=x.device)
    observed = model.likelihood.observe(x.flatten(1), generator)
    draws = bound_draws(lambda: exact_terms(model, observed, generator))
    result: dict[str, float | int] = {
        "n_examples": len(x),
        "n_components": model.n_components,
        "draws": len(draws.log_px),
    }
    result |= estimate(draws.elbo()).named("elbo_exact")
    if has_categories(model):
        relaxed = bound_draws(lambda: one_draw(model, observed, generator, temperature, "relaxed"))
        result |= estimate(relaxed.elbo()).named("elbo_relaxed")
    likelihood, samples = log_likelihood(model, observed, n_samples, generator, progress, precision)
    result["importance_samples"] = samples
    result |= likelihood.named("log_likelihood")
    result |= estimate(draws.log_px).named("reconstruction")
    result |= estimate(draws.kl_z).named("kl_z")
    if has_categories(model):
        result |= estimate(draws.kl_c).named("kl_c")
        result |= kl_split(model, observed, Terms(*(each.mean(0) for each in draws)), generator)
    if model.n_components > 1:
        probs = cluster_probs(model, x)
        result["mutual_information_c_nats"] = mutual_information(draws.log_qc[0]).item()
        result["components_used"] = components_used(probs.mean(0))
        if labels is not None:
            result |= _scores(np.asarray(labels), probs.argmax(1).cpu().numpy())
    return result


def _scores(labels: np.ndarray, assigned: np.ndarray) -> dict[str, float | int]:
    """The clustering scores of the examples that have a label; how many, if some have none."""
    has_label = known(labels)
    scores: dict[str, float | int] = {}
    if not has_label.all():
        scores["n_labelled"] = int(has_label.sum())
    if has_label.any():
        labels = labels[has_label]
        labels = labels.astype(str) if labels.dtype == object else labels  # they may be mixed
        scores |= cluster_scores(labels, assigned[has_label])
    return scores


class Estimate(NamedTuple):
    """A mean over examples with its standard errors, over examples and of the noise; nats."""

    mean: float
    error: float
    noise_error: float

    def named(self, name: str) -> dict[str, float]:
        """As figures of an evaluation; one example has no error over examples."""
        figures = {"nats": self.mean, "se_nats": self.error, "noise_se_nats": self.noise_error}
        return {f"{name}_{key}": each for key, each in figures.items() if not math.isnan(each)}


def estimate(draws: Float[Tensor, "d n"]) -> Estimate:
    """Of two or more draws of each example's value."""
    d = len(draws)
    return _estimate(draws.mean(0), draws.var(0) / d)


def _estimate(value: Float[Tensor, " n"], variance: Float[Tensor, " n"]) -> Estimate:
    """Of each example's value, and the variance of its noise."""
    n = len(value)
    spread = value.double().std().item() if n > 1 else math.nan
    return Estimate(
        value.double().mean().item(), spread / n**0.5, variance.double().sum().item() ** 0.5 / n
    )


def bound_draws(draw: Callable[[], Terms], most_error: float = NOISE_ERROR) -> Terms:
    """Draws of a bound's terms, as many as bring the error of their noise below a size.

    Arguments:
        draw: gives the terms of every example, each (n), with new noise
        most_error: of the mean bound, in nats; `MOST_DRAWS` may leave it larger

    Returns:
        Terms with the draws in front, each (d, n).
    """
    terms = [draw(), draw()]
    error = estimate(torch.stack([each.elbo() for each in terms])).noise_error
    needed = min(MOST_DRAWS, math.ceil(2 * (error / most_error) ** 2)) if error < math.inf else 2
    terms += [draw() for _ in range(needed - 2)]
    return Terms(*(torch.stack(each) for each in zip(*terms, strict=True)))


def log_likelihood(
    model: Model,
    observed: Float[Tensor, "n f"],
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None = None,
    precision: str = "float32",
    most_error: float = NOISE_ERROR,
) -> tuple[Estimate, int]:
    """Mean log p(x) in nats by importance samples over (z, c); a lower bound that rises with them.

    Both samples and examples are taken in chunks, so memory does not grow with either. With the
    ``precision`` of ``bfloat16`` it is the likelihood of the model whose products are rounded to
    bfloat16, and a lower bound of that one: the rounded networks are functions of x and z too.

    Arguments:
        model: a fitted model
        observed: data as the model sees it, (n, f)
        n_samples: of each example and round
        generator: of the samples
        progress: called with (rows done, rows in all) in each round
        precision: of the networks' products
        most_error: of the noise, in nats: rounds are added until it is smaller, or `MOST_ROUNDS`

    Returns:
        The estimate, and the samples of each example that it took. The error of the noise is that
        of the first order (delta method): where few samples carry the weight it is too small.
    """
    log_sum = log_square = observed.new_full((len(observed),), -math.inf, dtype=torch.float64)
    for rounds in range(1, MOST_ROUNDS + 1):
        with products(model, precision):
            parts = list(_sums_of_weights(model, observed, n_samples, generator, progress))
        first, second = (torch.cat(part) for part in zip(*parts, strict=True))
        log_sum, log_square = torch.logaddexp(log_sum, first), torch.logaddexp(log_square, second)
        samples = rounds * n_samples
        relative = (log_square - 2 * log_sum).exp() * samples  # E w^2 / (E w)^2
        found = _estimate(log_sum - math.log(samples), (relative - 1).clamp_min(0) / samples)
        if samples > 1 and not found.noise_error > most_error:
            break
    return found, samples


def _sums_of_weights(
    model: Model,
    observed: Float[Tensor, "n f"],
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The log of the sum of each example's weights, and of their squares, in chunks of examples."""
    rows = model.rows_at_once()
    at_once, done = min(n_samples, rows), 0
    for x in observed.split(max(1, rows // at_once)):
        counts = [min(at_once, n_samples - s) for s in range(0, n_samples, at_once)]
        weights = torch.cat([model.log_weights(x, count, generator) for count in counts]).double()
        yield weights.logsumexp(0), (2 * weights).logsumexp(0)
        done += len(x)
        if progress:
            progress(done, len(observed))


def kl_split(
    model: WithCategories,
    observed: Float[Tensor, "n f"],
    terms: Terms,
    generator: torch.Generator,
) -> dict[str, float]:
    """The three terms of eq. 13, in nats, over the empirical distribution of the data given.

    I((z, c); x) is estimated from one (z, c) of each example, against the mixture of the posteriors
    of all examples, so it lies at or below log n. The other two follow: KL(q(c) || p(c)), which is
    log K - H(q(c)) for a uniform p(c), is exact, and what is left of the KL is
    E_q(c) KL(q(z|c) || p(z|c)).
    """
    qc = terms.log_qc.exp()
    aggregated = qc.mean(0)
    entropy = -(aggregated * aggregated.clamp_min(torch.finfo(qc.dtype).tiny).log()).sum().item()
    kl_c = -(aggregated @ model.log_pc()).item() - entropy
    information = _information_of_each(model, observed, terms.log_qc, generator)
    found = _estimate(information, torch.full_like(information, math.nan))
    total = (terms.kl_z + terms.kl_c).double().mean().item()
    return {
        **found.named("mutual_information"),
        "aggregated_kl_z_nats": total - kl_c - found.mean,
        "aggregated_kl_c_nats": kl_c,
    }


@torch.no_grad()
def _information_of_each(
    model: WithCategories,
    observed: Float[Tensor, "n f"],
    log_qc: Float[Tensor, "n k"],
    generator: torch.Generator,
) -> Float[Tensor, " n"]:
    """Log q(z,c|x) / q(z,c) at a draw for each x, with q(z,c) = mean_j q(c|x_j) q(z|x_j,c)."""
    component = torch.multinomial(log_qc.exp(), 1, generator=generator).squeeze(1)
    information = torch.empty(len(observed), dtype=torch.float64, device=observed.device)
    for k in component.unique().tolist():
        mine = (component == k).nonzero().squeeze(1)
        mean, logvar = (
            torch.cat(part) for part in zip(*_posteriors(model, observed, k), strict=True)
        )
        normal = torch.randn(len(mine), mean.shape[1], generator=generator, device=mean.device)
        z = mean[mine] + torch.exp(0.5 * logvar[mine]) * normal
        precision = torch.exp(-logvar)
        constant = log_qc[:, k] - 0.5 * ((mean**2 * precision + logvar).sum(1))
        for rows, z_part in zip(mine.split(500), z.split(500), strict=True):
            joint = constant + z_part @ (mean * precision).T - 0.5 * z_part**2 @ precision.T
            own = joint.gather(1, rows.unsqueeze(1)).squeeze(1)
            information[rows] = (own - log_mean_exp(joint, dim=1)).double()
    return information


def _posteriors(model: WithCategories, observed: Tensor, k: int) -> Iterator[tuple[Tensor, Tensor]]:
    for x in observed.split(model.rows_at_once()):
        yield model.posterior_given(x, k)


def cluster_scores(labels: np.ndarray, assigned: np.ndarray) -> dict[str, float]:
    """Agreement of categories with classes, each from 0 to 1.

    ``accuracy`` matches categories to classes one to one (Hungarian algorithm; examples of a
    category without a class count as wrong), ``purity`` lets each category take its majority class,
    ``nmi`` and ``ari`` are scikit-learn's.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(labels, assigned)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return {
        "accuracy": float(table[rows, columns].sum() / table.sum()),
        "purity": float(table.max(axis=0).sum() / table.sum()),
        "nmi": float(normalized_mutual_info_score(labels, assigned)),
        "ari": float(adjusted_rand_score(labels, assigned)),
    }

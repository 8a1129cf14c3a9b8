"""Figures of a fitted model: bounds, likelihood, the KL taken apart, and clustering scores.

All quantities are in nats per example, means over the data given, and each key of a result names
its unit and its estimator. Bounds are taken with one-hot c; the relaxed value, which is not a
bound, is called relaxed. Labels are used here and nowhere else.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from cpvae.models.base import Model, Terms
from cpvae.models.cpvae import ConditionalPriorVAE, has_categories
from cpvae.models.functional import log_mean_exp, mutual_information
from cpvae.models.inference import cluster_probs, components_used, exact_terms, one_draw
from cpvae.models.networks import products
from cpvae.streams import torch_stream

Progress = Callable[[int, int], None]

# key: what it is, estimator, unit
MEANING = {
    "elbo_exact_nats": ("Bound on log p(x)", "one-hot c, every category enumerated, one z", "nats"),
    "elbo_relaxed_nats": ("Relaxed value (not a bound)", "Gumbel-Softmax c, one z", "nats"),
    "log_likelihood_nats": ("log p(x)", "importance samples over (z, c), from below", "nats"),
    "reconstruction_nats": ("E log p(x | z, c)", "one-hot c, enumerated", "nats"),
    "kl_z_nats": ("KL of z to its prior", "closed form, enumerated (eq. 8)", "nats"),
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
        labels: classes of the data, (n), for the four clustering scores
        n_samples: importance samples of the log-likelihood
        seed: of binarisation and noise
        temperature: of the relaxed value
        progress: called with (rows done, rows in all) during the importance sampling
        precision: of the networks' products in the importance sampling, see `log_likelihood`

    Returns:
        ``elbo_exact_nats`` (eq. 7, every category enumerated), ``log_likelihood_nats`` (importance
        samples, from below), ``reconstruction_nats`` and ``kl_z_nats`` (eq. 7 and 8). For CP-VAE
        ``elbo_relaxed_nats``, ``kl_c_nats`` (eq. 8) and the three terms of eq. 13 whose sum equals
        the two KLs (``mutual_information_nats``, ``aggregated_kl_z_nats``,
        ``aggregated_kl_c_nats``). For models with several components
        ``mutual_information_c_nats`` (of the component alone and x, at most log K),
        ``components_used``, and with labels ``accuracy``, ``purity``, ``nmi``, ``ari``.
    """
    generator = torch_stream(seed, "evaluation", device=x.device)
    observed = model.likelihood.observe(x.flatten(1), generator)
    terms = exact_terms(model, observed, generator)
    result: dict[str, float | int] = {
        "n_examples": len(x),
        "n_components": model.n_components,
        "importance_samples": n_samples,
        "elbo_exact_nats": terms.elbo().mean().item(),
    }
    if has_categories(model):
        result["elbo_relaxed_nats"] = relaxed_elbo(model, observed, generator, temperature)
    likelihood = log_likelihood(model, observed, n_samples, generator, progress, precision)
    result |= {
        "log_likelihood_nats": likelihood,
        "reconstruction_nats": terms.log_px.mean().item(),
        "kl_z_nats": terms.kl_z.mean().item(),
    }
    if has_categories(model):
        result["kl_c_nats"] = terms.kl_c.mean().item()
        result |= kl_split(model, observed, terms, generator)
    if model.n_components > 1:
        probs = cluster_probs(model, x)
        result["mutual_information_c_nats"] = mutual_information(terms.log_qc).item()
        result["components_used"] = components_used(probs.mean(0))
        if labels is not None:
            result |= cluster_scores(np.asarray(labels), probs.argmax(1).cpu().numpy())
    return result


def relaxed_elbo(
    model: Model, observed: Float[Tensor, "n f"], generator: torch.Generator, temperature: float
) -> float:
    """The paper's training value with a Gumbel-Softmax c (eq. 11), nats; not a bound."""
    return one_draw(model, observed, generator, temperature, "relaxed").elbo().mean().item()


def log_likelihood(
    model: Model,
    observed: Float[Tensor, "n f"],
    n_samples: int,
    generator: torch.Generator,
    progress: Progress | None = None,
    precision: str = "float32",
) -> float:
    """Mean log p(x) in nats by importance samples over (z, c); a lower bound that rises with them.

    Both samples and examples are taken in chunks, so memory does not grow with either. With the
    ``precision`` of ``bfloat16`` it is the likelihood of the model whose products are rounded to
    bfloat16, and a lower bound of that one: the rounded networks are functions of x and z too.
    """
    total, done = 0.0, 0
    rows = model.rows_at_once()
    at_once = min(n_samples, rows)
    with products(model, precision):
        for x in observed.split(max(1, rows // at_once)):
            parts = []
            for start in range(0, n_samples, at_once):
                count = min(at_once, n_samples - start)
                parts.append(model.log_weights(x, count, generator))
            total += log_mean_exp(torch.cat(parts), dim=0).sum().item()
            done += len(x)
            if progress:
                progress(done, len(observed))
    return total / len(observed)


def kl_split(
    model: ConditionalPriorVAE,
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
    mutual_information = _mutual_information(model, observed, terms.log_qc, generator)
    total = (terms.kl_z + terms.kl_c).mean().item()
    return {
        "mutual_information_nats": mutual_information,
        "aggregated_kl_z_nats": total - kl_c - mutual_information,
        "aggregated_kl_c_nats": kl_c,
    }


@torch.no_grad()
def _mutual_information(
    model: ConditionalPriorVAE,
    observed: Float[Tensor, "n f"],
    log_qc: Float[Tensor, "n k"],
    generator: torch.Generator,
) -> float:
    """E log q(z,c|x) / q(z,c), with q(z,c) = mean_j q(c|x_j) q(z|x_j,c)."""
    component = torch.multinomial(log_qc.exp(), 1, generator=generator).squeeze(1)
    total = 0.0
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
            total += (own - log_mean_exp(joint, dim=1)).sum().item()
    return total / len(observed)


def _posteriors(
    model: ConditionalPriorVAE, observed: Tensor, k: int
) -> Iterator[tuple[Tensor, Tensor]]:
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

"""Held-out probabilities of tables whose numbers were rounded, beside the mixture's own.

A number with few decimals stands for the interval that is rounded to it, so what a model says of it
is a probability, at most 1, where a density could grow without end on values that recur.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from cpvae.clustering.gaussians import Gaussians
from cpvae.data.schema import Schema
from cpvae.estimator import CPVAE
from cpvae.evaluation.metrics import evaluate
from cpvae.experiments import density, tables
from cpvae.experiments.baselines import before_training, gaussian_mixture
from cpvae.experiments.cells import provenance, write
from cpvae.models.residual import ResidualCPVAE
from cpvae.training.start import points, start_as_mixture

DATASETS = ("wine", "diabetes", "olive_oils_areas", "page-blocks0", "penbased", "optdigits")


def run(dataset: str, results: Path) -> dict[str, Any]:
    """Nats a held-out row in the data's units, kept as one JSON; read back if it is there.

    Of columns with few decimals probabilities, of others densities: log p(x) by importance samples
    of CP-VAE, of the mixture that it starts from, and of scikit-learn's ``gaussian_mixture``, which
    was fitted to the numbers as they are.
    """
    file = results / f"{dataset}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    x, labels, train, test = density.parts(dataset)
    x = x.astype(np.float32)
    k, rows = len(np.unique(labels)), torch.from_numpy(x[test])
    started = time.perf_counter()
    model = CPVAE(k, kinds="number", random_state=density.SEED).fit(x[train])
    seconds = time.perf_counter() - started
    start, kept = _not_trained(x[train], k)
    start_as_mixture(start, kept, density.SEED)
    others = {
        f"{name}_{key}": value
        for name, other in (("start", start), ("gaussian_mixture", theirs(x[train], k)))
        for key, value in evaluate(other, rows, None, density.SAMPLES, density.SEED).items()
        if key in ("log_likelihood_nats", "log_likelihood_se_nats")
    }
    assert isinstance(model.model_, ResidualCPVAE)
    result = {
        "dataset": dataset,
        "intervals": int((model.model_.number_head.rounding > 0).sum()),
        "rows": len(x),
        "columns": x.shape[1],
        "components": k,
        "seed": density.SEED,
        **evaluate(model.model_, rows, np.asarray(labels)[test], density.SAMPLES, density.SEED),
        **others,
        "best_epoch": density.best(model)["epoch"],
        "seconds": seconds,
        **tables.described(model),
        **provenance(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def theirs(x: Float[np.ndarray, "n d"], k: int) -> ResidualCPVAE:
    """scikit-learn's mixture of the numbers as they are, the best of five, as a model of ours."""
    model, _ = _not_trained(x, k)
    rows = torch.from_numpy(x)
    model.number_head.standardise(model.likelihood.observe(rows))
    fitted = gaussian_mixture(k, density.SEED, starts=5).fit(points(model, rows).numbers)
    log_weights, no_chances = np.log(fitted.weights_), np.zeros((k, 0))
    model.start_from(Gaussians(log_weights, fitted.means_, fitted.covariances_, no_chances))
    return model


def _not_trained(x: Float[np.ndarray, "n d"], k: int) -> tuple[ResidualCPVAE, torch.Tensor]:
    """The model of a fit to these rows before it starts, and the rows that it would start from."""
    model, kept, _ = before_training(x, Schema((x.shape[1],)), k, density.SEED, "number")
    assert isinstance(model, ResidualCPVAE)
    return model, kept


def run_all(results: Path) -> list[dict[str, Any]]:
    """`run` for every data set."""
    return [run(dataset, results) for dataset in DATASETS]


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set: nats a held-out row by each model."""
    of = {result["dataset"]: result for result in results}
    return [
        {
            "data": name,
            "rows": of[name]["rows"],
            "columns": of[name]["columns"],
            "of these rounded": of[name]["intervals"],
            "K": of[name]["components"],
            "GaussianMixture": of[name]["gaussian_mixture_log_likelihood_nats"],
            "its start": of[name]["start_log_likelihood_nats"],
            "CPVAE, bound": of[name]["elbo_exact_nats"],
            "CPVAE, log p(x)": of[name]["log_likelihood_nats"],
            "±": of[name]["log_likelihood_se_nats"],
        }
        for name in DATASETS
        if name in of
    ]

"""Held-out density of tables of numbers: CP-VAE, the mixture it starts from, and scikit-learn's."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpvae.checkpoint import best_of
from cpvae.data.schema import Schema
from cpvae.estimator import CPVAE
from cpvae.evaluation.metrics import cluster_scores, evaluate
from cpvae.experiments import real, tables
from cpvae.experiments.baselines import before_training, gaussian_mixture
from cpvae.experiments.cells import provenance, write
from cpvae.models.residual import ResidualCPVAE
from cpvae.training.diagnosis import Record
from cpvae.training.start import points, start_as_mixture

DATASETS = (
    *("wine", "diabetes", "olive_oils_areas", "ring", "twonorm", "breast_cancer"),
    *("page-blocks0", "spambase", "texture", "penbased", "optdigits"),
)
SEED = 0  # of the folds, of which the first is held out, and of the methods
SAMPLES = 200  # importance samples a row


def run(dataset: str, results: Path) -> dict[str, Any]:
    """Nats a held-out row on standardised columns, kept as one JSON; read back if it is there.

    Numbers are read as continuous, whole ones too. ``mixture`` is what CP-VAE starts from;
    ``gaussian_mixture`` has full covariances and the best of five starts. Both and CP-VAE see the
    same rows; CP-VAE keeps a tenth of them to stop by, and the mixture it starts from does without.
    """
    file = results / f"{dataset}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    x, labels, train, test = parts(dataset)
    x = ((x - x[train].mean(0)) / x[train].std(0)).astype(np.float32)
    k = len(np.unique(labels))
    started = time.perf_counter()
    model = CPVAE(k, likelihood="gaussian", random_state=SEED).fit(x[train])
    seconds = time.perf_counter() - started
    classes = np.asarray(labels)[test]
    measured = evaluate(model.model_, torch.from_numpy(x[test]), classes, SAMPLES, SEED)
    started = time.perf_counter()
    other = gaussian_mixture(k, SEED, starts=5).fit(x[train])
    result = {
        "dataset": dataset,
        "rows": len(x),
        "columns": x.shape[1],
        "components": k,
        "seed": SEED,
        **measured,
        "mixture_nats": _mixture(x[train], x[test], k),
        "gaussian_mixture_nats": float(other.score(x[test])),
        "gaussian_mixture_accuracy": cluster_scores(classes, other.predict(x[test]))["accuracy"],
        "best_epoch": best(model)["epoch"],
        "seconds": seconds,
        "gaussian_mixture_seconds": time.perf_counter() - started,
        **tables.described(model),
        **provenance(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def parts(dataset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A table (n, d), the classes of its rows, and the numbers of those to fit and held out."""
    from sklearn.model_selection import StratifiedKFold

    load = real.DATASETS.get(dataset, lambda: tables._rows(dataset))
    frame, labels = load()
    folds = StratifiedKFold(tables.FOLDS, shuffle=True, random_state=SEED).split(frame, labels)
    train, test = next(iter(folds))
    return frame.to_numpy(np.float64), labels, train, test


def best(model: CPVAE) -> Record:
    """The record of the epoch whose weights were kept."""
    found = best_of(model.history_)
    assert found  # a fit has a history
    return found


def _mixture(train: np.ndarray, test: np.ndarray, k: int) -> float:
    """Nats a held-out row of the mixture that a fit to these rows starts from."""
    schema = Schema((train.shape[1],))
    model, kept, _ = before_training(train, schema, k, SEED, likelihood="gaussian")
    assert isinstance(model, ResidualCPVAE)
    mixture = start_as_mixture(model, kept, SEED).mixture
    rows = points(model, torch.from_numpy(test))
    log_prob = np.logaddexp.reduce(mixture.log_prob(rows), axis=1).mean()
    unit = model.number_head.unit * model.number_head.scale
    return float(log_prob) - unit.log().sum().item()


def run_all(results: Path) -> list[dict[str, Any]]:
    """`run` for every data set."""
    return [run(dataset, results) for dataset in DATASETS]


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set: nats a held-out row by each method, and accuracies."""
    of = {result["dataset"]: result for result in results}
    return [
        {
            "data": name,
            "rows": of[name]["rows"],
            "columns": of[name]["columns"],
            "K": of[name]["components"],
            "GaussianMixture": of[name]["gaussian_mixture_nats"],
            "its start": of[name]["mixture_nats"],
            "CPVAE, bound": f"{of[name]['elbo_exact_nats']:.3f}",
            "±": of[name]["elbo_exact_se_nats"],
            "CPVAE, log p(x)": of[name]["log_likelihood_nats"],
            "accuracy: GaussianMixture": of[name]["gaussian_mixture_accuracy"],
            "CPVAE": of[name]["accuracy"],
            "seconds": f"{of[name]['seconds']:.1f}",
        }
        for name in DATASETS
        if name in of
    ]

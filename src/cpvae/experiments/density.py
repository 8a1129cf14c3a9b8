"""Held-out density of tables of numbers: CP-VAE, the mixture it starts from, and scikit-learn's."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpvae.checkpoint import best_of
from cpvae.clustering.gaussians import Gaussians
from cpvae.data import Source, split
from cpvae.data.schema import Schema
from cpvae.estimator import CPVAE
from cpvae.evaluation.metrics import cluster_scores, evaluate
from cpvae.experiments import real, tables
from cpvae.experiments.baselines import gaussian_mixture
from cpvae.experiments.cells import provenance, write
from cpvae.models.build import build
from cpvae.models.residual import ResidualCPVAE
from cpvae.training.diagnosis import Record
from cpvae.training.fit import plan
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
    x, labels, train, test = _parts(dataset)
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
        "best_epoch": _best(model)["epoch"],
        "seconds": seconds,
        "gaussian_mixture_seconds": time.perf_counter() - started,
        **tables.described(model),
        **provenance(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def run_intervals(dataset: str, results: Path) -> dict[str, Any]:
    """Nats a held-out row where a number stands for the interval that is rounded to it.

    Probabilities, at most 1, of columns with few decimals; densities of the others. Columns are in
    the data's units. The ``gaussian_mixture`` is that of `run`, of the numbers as they are, and its
    probabilities are estimated by importance samples, as those of CP-VAE and of its start are.
    """
    file = results / f"{dataset}-intervals.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    x, labels, train, test = _parts(dataset)
    x, k = x.astype(np.float32), len(np.unique(labels))
    started = time.perf_counter()
    model = CPVAE(k, kinds="number", random_state=SEED).fit(x[train])
    seconds = time.perf_counter() - started
    rows = torch.from_numpy(x[test])
    start, kept = _not_trained(x[train], k, kinds="number")
    start_as_mixture(start, kept, SEED)
    plain, _ = _not_trained(x[train], k, kinds="number")
    _start_from_theirs(plain, torch.from_numpy(x[train]), k)
    others = {
        f"{name}_{key}": value
        for name, other in (("start", start), ("gaussian_mixture", plain))
        for key, value in evaluate(other, rows, None, SAMPLES, SEED).items()
        if key in ("log_likelihood_nats", "log_likelihood_se_nats")
    }
    head = plain.number_head
    result = {
        "dataset": dataset,
        "intervals": int((head.rounding > 0).sum()),
        "rows": len(x),
        "columns": x.shape[1],
        "components": k,
        "seed": SEED,
        **evaluate(model.model_, rows, np.asarray(labels)[test], SAMPLES, SEED),
        **others,
        "best_epoch": _best(model)["epoch"],
        "seconds": seconds,
        **tables.described(model),
        **provenance(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def _parts(dataset: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A table, the classes of its rows, and the numbers of those to fit and of those held out."""
    from sklearn.model_selection import StratifiedKFold

    load = real.DATASETS.get(dataset, lambda: tables._rows(dataset))
    frame, labels = load()
    folds = StratifiedKFold(tables.FOLDS, shuffle=True, random_state=SEED).split(frame, labels)
    train, test = next(iter(folds))
    return frame.to_numpy(np.float64), labels, train, test


def _start_from_theirs(model: ResidualCPVAE, x: torch.Tensor, k: int) -> None:
    """Makes the model scikit-learn's mixture of the columns as they are, with the best of five."""
    model.number_head._standardise(model.likelihood.observe(x))
    read = points(model, x)
    fitted = gaussian_mixture(k, SEED, starts=5).fit(read.numbers)
    log_weights = np.log(fitted.weights_)
    model.start_from(Gaussians(log_weights, fitted.means_, fitted.covariances_, np.zeros((k, 0))))


def _best(model: CPVAE) -> Record:
    best = best_of(model.history_)
    assert best  # a fit has a history
    return best


def _not_trained(train: np.ndarray, k: int, **given: str) -> tuple[ResidualCPVAE, torch.Tensor]:
    """The model of a fit to these rows before it starts, and the rows that it would start from."""
    schema = Schema((train.shape[1],))
    splits = split(Source("rows", train, schema=schema), SEED, test_fraction=0.0)
    settings = {"n_components": k, "seed": SEED, "likelihood": given.get("likelihood")}
    planned = plan(splits.train.x, splits.schema, settings, given.get("kinds"))
    model = build(**planned.config)
    assert isinstance(model, ResidualCPVAE)
    return model, splits.train.tensor()


def _mixture(train: np.ndarray, test: np.ndarray, k: int) -> float:
    """Nats a held-out row of the mixture that a fit to these rows starts from."""
    model, kept = _not_trained(train, k, likelihood="gaussian")
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

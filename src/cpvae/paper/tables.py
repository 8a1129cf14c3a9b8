"""Beside scikit-learn's mixtures on its own tables: categories of rows that the fit did not see."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.checkpoint import versions
from cpvae.estimator import CPVAE
from cpvae.evaluate import cluster_scores

FOLDS = 5
SEEDS = (0, 1, 2)  # of the folds and of the methods


def _gaussian_mixture(k: int, seed: int) -> Any:
    from sklearn.mixture import GaussianMixture

    return GaussianMixture(k, n_init=10, reg_covar=1e-3, random_state=seed)


def _k_means(k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=10, random_state=seed)


METHODS: dict[str, Callable[[int, int], Any]] = {
    "CPVAE": lambda k, seed: CPVAE(n_components=k, random_state=seed),
    "CPVAE-masking": lambda k, seed: CPVAE(k, invariance="masking", random_state=seed),
    "GaussianMixture": _gaussian_mixture,
    "KMeans": _k_means,
}
DATASETS = ("wine", "breast_cancer", "unequal_blobs")


def _rows(dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows and classes; of the blobs one is ten times as large as the other two."""
    from sklearn import datasets

    if dataset == "unequal_blobs":
        return datasets.make_blobs([500, 50, 50], n_features=4, random_state=1)[:2]
    return getattr(datasets, f"load_{dataset}")(return_X_y=True)


def run(dataset: str, method: str, results: Path) -> dict[str, Any]:
    """Scores of a method on a data set, fold by fold, kept as one JSON; read back if it is there.

    Each fold is held out once from ``Pipeline(StandardScaler, method)``, which sees no label; its
    rows are then given a component, and components are matched to classes one to one.
    """
    file = results / f"{dataset}-{method}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels = _rows(dataset)
    scores, start = [], time.perf_counter()
    for seed in SEEDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(x, labels):
            pipeline = make_pipeline(StandardScaler(), METHODS[method](len(set(labels)), seed))
            assigned = pipeline.fit(x[train]).predict(x[test])
            scores.append({"seed": seed, **cluster_scores(labels[test], np.asarray(assigned))})
    result = {
        "dataset": dataset,
        "method": method,
        "rows": len(x),
        "components": len(set(labels.tolist())),
        "folds": FOLDS,
        "seeds": list(SEEDS),
        "scores": scores,
        "minutes": (time.perf_counter() - start) / 60,
        "versions": versions(),
    }
    results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def run_all(results: Path) -> list[dict[str, Any]]:
    """`run` for every data set and method."""
    return [run(dataset, method, results) for dataset in DATASETS for method in METHODS]


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set and method: mean and worst accuracy over folds and seeds, mean NMI."""
    table = []
    for result in results:
        accuracy = [score["accuracy"] for score in result["scores"]]
        table.append(
            {
                "data": f"{result['dataset']}, {result['rows']} rows",
                "method": result["method"],
                "accuracy, mean": statistics.fmean(accuracy),
                "worst fold": min(accuracy),
                "NMI, mean": statistics.fmean(score["nmi"] for score in result["scores"]),
                "seconds a fit": 60 * result["minutes"] / len(accuracy),
            }
        )
    return table

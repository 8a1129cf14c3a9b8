"""CP-VAE beside its start and methods of others on small tables: components of held-out rows."""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpvae.estimator import CPVAE
from cpvae.evaluation.metrics import cluster_scores
from cpvae.experiments.baselines import BestForm, Start, gaussian_mixture, hdbscan, louvain
from cpvae.experiments.cells import provenance, write

FOLDS = 5
SEEDS = (0, 1, 2)  # of the folds and of the methods


def _k_means(k: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=10, random_state=seed)


METHODS: dict[str, Callable[[int, int], Any]] = {
    "CPVAE": lambda k, seed: CPVAE(n_components=k, random_state=seed),
    "CPVAE-masking": lambda k, seed: CPVAE(k, invariance="masking", random_state=seed),
    "Start": Start,
    "GaussianMixture": gaussian_mixture,
    "GaussianMixture-BIC": BestForm,
    "KMeans": _k_means,
    "Louvain": louvain,
    "HDBSCAN": lambda k, seed: hdbscan(k),
}
DATASETS = ("wine", "breast_cancer", "unequal_blobs", "unequal_long", "unequal_mixed")


def _rows(dataset: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows and their classes. One of the blobs is ten times as large as each of the others."""
    from sklearn import datasets

    if dataset == "unequal_mixed":
        return _mixed()
    if dataset == "unequal_long":
        return _long()
    if dataset == "unequal_blobs":
        x, labels, *_ = datasets.make_blobs([500, 50, 50], n_features=4, random_state=1)
        return pd.DataFrame(x), labels
    loaded = getattr(datasets, f"load_{dataset}")(as_frame=True)
    return loaded.data, loaded.target.to_numpy()


def _long() -> tuple[pd.DataFrame, np.ndarray]:
    """Four clusters (55, 25, 13 and 7 %), each elongated along directions of its own."""
    rng = np.random.default_rng(0)
    cluster = rng.choice(4, 800, p=[0.55, 0.25, 0.13, 0.07])
    factor = rng.standard_normal((4, 6, 6)) * [2, 1, 1, 0.5, 0.5, 0.2]
    mean = 2 * rng.standard_normal((4, 6))
    noise = rng.standard_normal((len(cluster), 6, 1))
    return pd.DataFrame(mean[cluster] + (factor[cluster] @ noise)[:, :, 0]), cluster


def _mixed() -> tuple[pd.DataFrame, np.ndarray]:
    """Trees in four clusters (70, 15, 10 and 5 %): measurements, text, a count and a boolean."""
    rng = np.random.default_rng(0)
    cluster = rng.choice(4, 900, p=[0.7, 0.15, 0.1, 0.05])
    other = rng.integers(4, size=len(cluster))
    species = np.array(["oak", "ash", "elm", "fir"])
    table = pd.DataFrame(
        {
            "height": rng.normal(np.array([20, 45, 70, 30])[cluster], 5),
            "lean": rng.normal(np.array([0, 2, -2, 4])[cluster], 1),
            "species": species[np.where(rng.random(len(cluster)) < 0.6, cluster, other)],
            "rings": rng.gamma(2, np.array([1, 3, 6, 10])[cluster]).astype(int),
            "alive": rng.random(len(cluster)) < np.array([0.1, 0.9, 0.5, 0.2])[cluster],
        }
    )
    return table, cluster


def _standardised() -> Any:
    """The preparation of columns that the mixtures need, and CPVAE has built in."""
    from sklearn.compose import make_column_selector, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = make_column_selector(dtype_include="number")
    others = make_column_selector(dtype_exclude="number")
    of_numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer(
        (of_numbers, numbers), (OneHotEncoder(handle_unknown="ignore"), others), sparse_threshold=0
    )


def _known(rows: pd.DataFrame, fitted: pd.DataFrame) -> pd.DataFrame:
    """The rows, with text that does not occur in the fitted ones as missing."""
    text = rows.select_dtypes(exclude=["number", "bool"])
    seen = text.apply(lambda column: column.isin(fitted[column.name]))
    return rows.assign(**text.astype(object).where(seen, None))


def run(
    dataset: str,
    method: str,
    results: Path,
    load: Callable[[str], tuple[pd.DataFrame, np.ndarray]] = _rows,
    folds: int = FOLDS,
) -> dict[str, Any]:
    """Scores of a method on a data set, fold by fold, kept as one JSON; read back if it is there.

    Each of the first ``folds`` of `FOLDS` is held out once from the fit, which sees no label. Its
    rows are then assigned to components, and components are matched to classes one to one.
    """
    file = results / f"{dataset}-{method}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline

    x, labels = load(dataset)
    scores, fits, start = [], [], time.perf_counter()
    for seed in SEEDS:
        parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, labels)
        for train, test in islice(parts, folds):
            fitted = METHODS[method](len(set(labels)), seed)
            if not isinstance(fitted, CPVAE | Start):
                fitted = make_pipeline(_standardised(), fitted)
            fitted.fit(x.iloc[train])
            assigned = fitted.predict(_known(x.iloc[test], x.iloc[train]))
            scores.append({"seed": seed, **cluster_scores(labels[test], np.asarray(assigned))})
            if isinstance(fitted, CPVAE):
                fits.append(described(fitted))
    result = {
        "dataset": dataset,
        "method": method,
        "rows": len(x),
        "components": len(set(labels.tolist())),
        "folds": folds,
        "seeds": list(SEEDS),
        "scores": scores,
        **({"fits": fits} if fits else {}),
        "minutes": (time.perf_counter() - start) / 60,
        **provenance(),
    }
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def described(fitted: CPVAE) -> dict[str, Any]:
    """The recipe of a fit, with what was chosen from the data, and its curve."""
    curve = [round(record["valid_elbo_nats"], 4) for record in fitted.history_]
    return {"recipe": dataclasses.asdict(fitted.recipe_), "curve": {"valid_elbo_nats": curve}}


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

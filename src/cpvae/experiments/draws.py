"""Generated rows of tables: can a random forest tell them from rows that were held out?"""

import importlib.metadata
import json
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cpvae.data.columns import decimals_of
from cpvae.data.objects import encode_frame
from cpvae.estimator import CPVAE
from cpvae.evaluation import quality
from cpvae.experiments import real, tables
from cpvae.experiments.baselines import before_training
from cpvae.experiments.cells import provenance, write
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.models.residual import ResidualCPVAE
from cpvae.streams import torch_stream
from cpvae.training.start import start_as_mixture

TREES = 300
DRAWN_OF_EACH = 1_000  # rows of a component, to see whether they are assigned to it


def _orders() -> tuple[pd.DataFrame, np.ndarray]:
    """Orders of a shop in three groups (60, 30 and 10 %): money, counts, a rating and a channel."""
    rng = np.random.default_rng(0)
    group = rng.choice(3, 1200, p=[0.6, 0.3, 0.1])

    def by(*values: float) -> np.ndarray:
        return np.array(values)[group]

    items = 1 + rng.negative_binomial(2, 2 / (2 + by(0.8, 3, 12)))
    price = np.exp(rng.normal(by(2.5, 3.2, 2.0), by(0.5, 0.4, 0.3)))
    phone, web = rng.random(len(group)) < by(0.7, 0.4, 0.1), rng.random(len(group)) < 0.6
    table = pd.DataFrame(
        {
            "items": items,
            "total": np.round(items * price, 2),
            "days": rng.poisson(by(2, 4, 9)),
            "rating": np.clip(np.round(rng.normal(by(4.5, 3.8, 3), 1)), 1, 5).astype(int),
            "returned": rng.random(len(group)) < by(0.05, 0.2, 0.1),
            "channel": np.where(phone, "phone", np.where(web, "web", "shop")),
        }
    )
    return table, group


DATASETS: dict[str, Callable[[], tuple[pd.DataFrame, np.ndarray]]] = {
    "penguins": real.DATASETS["penguins"],
    "unequal_mixed": tables._mixed,
    "diabetes": real.DATASETS["diabetes"],
    "orders": _orders,
}


def run(dataset: str, method: str, results: Path) -> dict[str, Any]:
    """How well a forest tells drawn rows from held-out ones, kept as one JSON; read back if there.

    Of each seed every fold is held out once, and as many rows are drawn from a fit to the others.
    The area under the ROC curve is that of the forest's out-of-fold probabilities over all rows of
    a seed; 0.5 is a coin. Rows with gaps are fitted to and left out here, because draws have none.

    Arguments:
        dataset: a name in `DATASETS`
        method: ``CPVAE``, or ``TVAE`` of the package ctgan
        results: folder of results
    """
    file = results / f"{dataset}-{method}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    from sklearn.model_selection import StratifiedKFold

    table, labels = DATASETS[dataset]()
    scores, fits, own, started = [], [], [], time.perf_counter()
    for seed in tables.SEEDS:
        held_out, drawn = [], []
        folds = StratifiedKFold(tables.FOLDS, shuffle=True, random_state=seed)
        for train, test in folds.split(table, labels):
            rows = table.iloc[train].reset_index(drop=True)
            held_out.append(table.iloc[test].dropna())
            n, k = len(held_out[-1]), len(set(labels.tolist()))
            if method == "TVAE":
                drawn.append(_tvae(rows, n, seed))
                continue
            model = CPVAE(k, random_state=seed).fit(rows)
            drawn.append(model.sample(n)[0])
            fits.append(tables.described(model))
            own.append(
                {
                    "of_model": _share(model.model_, seed),
                    "of_mixture": _assigned_at_start(rows, k, seed),
                }
            )
        truth, made = (pd.concat(part, ignore_index=True) for part in (held_out, drawn))
        area = told_apart(truth, made, seed)
        scores.append({"seed": seed, "auc": area, "impossible": impossible(truth, made)})
    result = {
        "dataset": dataset,
        "method": method,
        "rows": len(table),
        "trees": TREES,
        "folds": tables.FOLDS,
        "seeds": list(tables.SEEDS),
        "scores": scores,
        **({"fits": fits, "assigned": own} if fits else {}),
        "minutes": (time.perf_counter() - started) / 60,
        **provenance(),
    }
    if method == "TVAE":
        result["versions"] |= {"ctgan": importlib.metadata.version("ctgan")}
    results.mkdir(parents=True, exist_ok=True)
    write(file, result)
    return result


def told_apart(truth: pd.DataFrame, made: pd.DataFrame, seed: int) -> float:
    """As `quality.told_apart`, of frames."""
    both = pd.concat([truth, made], ignore_index=True)
    for name in both.select_dtypes(exclude="number"):
        both[name] = pd.factorize(both[name].astype(str))[0]
    x = both.to_numpy(np.float64)
    return quality.told_apart(x[: len(truth)], x[len(truth) :], seed, TREES, tables.FOLDS)


def impossible(truth: pd.DataFrame, made: pd.DataFrame) -> int:
    """Made values that no such table has.

    Negative ones where all are positive, more decimals than the column has, unknown categories.
    """
    count = 0
    for name in truth:
        values, there = made[name], truth[name]
        if not pd.api.types.is_numeric_dtype(there):
            count += int((~values.astype(str).isin(there.astype(str).unique())).sum())
            continue
        values = values.to_numpy(np.float64)
        count += int((values < 0).sum()) if there.min() >= 0 else 0
        decimals = decimals_of(there.to_numpy(np.float64))
        if decimals is not None:
            off = np.abs(values - np.round(values, decimals))
            count += int((off > 1e-6 * np.maximum(1, np.abs(values))).sum())
    return count


def _tvae(rows: pd.DataFrame, n: int, seed: int) -> pd.DataFrame:
    from ctgan import TVAE  # type: ignore[import-not-found]

    rows = rows.dropna().reset_index(drop=True)
    discrete = list(rows.select_dtypes(exclude="number"))
    np.random.seed(seed)  # noqa: NPY002  its own generator is numpy's and torch's global one
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = TVAE()
        model.fit(rows, discrete)
        return model.sample(n)


def _assigned_at_start(rows: pd.DataFrame, k: int, seed: int) -> float:
    """`_share` of the mixture that a fit to these rows starts from."""
    x, schema = encode_frame(rows)
    model, kept, _ = before_training(x, schema, k, seed)
    assert isinstance(model, ResidualCPVAE)
    start_as_mixture(model, kept, seed)
    model.aggregated.copy_(model.weights.detach().softmax(0))
    return _share(model.eval(), seed)


def _share(model: Model, seed: int) -> float:
    """Share of a component's draws that are assigned to it, a mean over components."""
    generator, shares = torch_stream(seed, "sampling"), []
    for component in torch.nonzero(model.aggregated > 0.01).flatten().tolist():
        x, _ = model.sample(DRAWN_OF_EACH, component, generator=generator)
        shares.append((cluster_probs(model, x).argmax(1) == component).float().mean().item())
    return float(np.mean(shares))


def run_all(results: Path) -> list[dict[str, Any]]:
    """`run` for every data set, by CPVAE, and by TVAE where its package is installed.

    Results that are there are read back without it.
    """
    methods = ["CPVAE", "TVAE"]
    return [
        run(dataset, method, results)
        for dataset in DATASETS
        for method in methods
        if method == "CPVAE" or find_spec("ctgan") or (results / f"{dataset}-TVAE.json").is_file()
    ]


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set: area under the curve of both, impossible values, and own draws."""
    of = {(result["dataset"], result["method"]): result for result in results}
    table = []
    for name in DATASETS:
        row: dict[str, Any] = {"data": name, "rows": of[name, "CPVAE"]["rows"]}
        for method in ("CPVAE", "TVAE"):
            if (name, method) in of:
                scores = of[name, method]["scores"]
                row[f"AUC, {method}"] = float(np.mean([score["auc"] for score in scores]))
                row[f"impossible values, {method}"] = sum(score["impossible"] for score in scores)
        own = of[name, "CPVAE"]["assigned"]
        for key, said in (("of_model", "own draws"), ("of_mixture", "own draws of the mixture")):
            row[said] = float(np.mean([each[key] for each in own]))
        table.append(row)
    return table

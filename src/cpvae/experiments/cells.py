"""One cell of an experiment: models of one configuration trained from several seeds and measured.

Each seed is written to a JSON file of its own as soon as it is measured; seeds whose file is there
are not run again.
"""

import dataclasses
import functools
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpvae import __file__ as PACKAGE
from cpvae import __version__, output
from cpvae.checkpoint import RunFolder, best_of, describe
from cpvae.data import Splits
from cpvae.data.augment import Augment
from cpvae.evaluation.classifier import Classifier, fit_classifier
from cpvae.evaluation.generation import quality
from cpvae.evaluation.metrics import evaluate
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.training.device import choose_device
from cpvae.training.diagnosis import Record
from cpvae.training.loop import TrainingData, fit_together
from cpvae.training.recipe import Recipe
from cpvae.versions import versions

CURVE = ("train_loss_nats", "valid_elbo_nats", "valid_kl_z_nats", "components_used")
SCHEMA = 1  # of result files: those that have one say what made them, see `provenance`


def run_cell(
    name: Callable[[int], Path],
    facts: dict[str, Any],
    config: dict[str, Any],
    recipe: Recipe,
    seeds: Sequence[int],
    splits: Splits,
    importance_samples: int,
    augment: Augment | None = None,
    accelerator: str = "auto",
    on_epoch: Callable[[int, Record], None] | None = None,
    runs: Path | None = None,
    also: Callable[[Model, Path], dict[str, Any]] | None = None,
) -> list[Path]:
    """Trains the seeds that have no file yet together, measures them on the test data, writes them.

    Arguments:
        name: file of a seed
        facts: first entries of the file: data set, model, components, ...
        config: keywords of `models.build` but the seed
        recipe: how, but the seed
        seeds: of the cell
        splits: the data
        importance_samples: of the log-likelihood
        augment: change of the data for the invariance term
        accelerator: as for `loop.fit`
        on_epoch: called with the index of a seed and its epoch's record
        runs: where each seed gets a run folder, from which stopped training continues
        also: gives further results of a model; takes it and the file that they go into

    Returns:
        The files that were written.
    """
    missing = [seed for seed in seeds if not name(seed).is_file()]
    if not missing:
        return []
    models = [build(**config, seed=seed) for seed in missing]
    recipes = [dataclasses.replace(recipe, seed=seed) for seed in missing]
    training = TrainingData(splits.train.tensor(), splits.valid.tensor(), augment)
    folders = home = None
    if runs is not None:
        folders = [RunFolder(runs / name(seed).stem) for seed in missing]
        for folder, seeded in zip(folders, recipes, strict=True):
            folder.write_info(_info(config, seeded, splits, "running"))
        first = name(missing[0]).stem
        home = RunFolder(runs / "+".join([first, *(f"s{seed}" for seed in missing[1:])]))
    histories = fit_together(models, training, recipes, folders, home, on_epoch, accelerator)
    # of all sessions, where training was stopped and continued
    minutes = max(history[-1]["seconds"] for history in histories) / 60
    device = choose_device(accelerator)
    x_test = splits.test.tensor().to(device)
    written = []
    for index, (model, seeded, history) in enumerate(zip(models, recipes, histories, strict=True)):
        measured = evaluate(
            model,
            x_test,
            splits.test.labels,
            importance_samples,
            seeded.seed,
            precision=recipe.precision,
        )
        best = best_of(history, recipe.pretraining_epochs)
        assert best  # a run that ended has a history
        described = describe(splits.schema, config, seeded)
        bound = measured.pop("elbo_exact_nats")
        file = name(seeded.seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        result = {
            **facts,
            "seed": seeded.seed,
            "elbo_relaxed_nats": measured.pop("elbo_relaxed_nats", bound),  # without c: the bound
            "elbo_nats": bound,
            **measured,
            "minutes": minutes,
            "trained_together": len(missing),
            "epochs": len(history),
            "best_epoch": best["epoch"],
            "best": best,
            **(also(model, file) if also else {}),
            "config": {"shape": list(splits.shape), **described["model"]},
            "recipe": described["recipe"],
            **provenance(),
            "curve": {key: [round(r[key], 4) for r in history] for key in CURVE},
        }
        write(file, result)
        if folders:
            ended = {"epochs": len(history), "best_epoch": best["epoch"]}
            folders[index].write_info(_info(config, seeded, splits, "finished") | ended)
        written.append(file)
    return written


def provenance() -> dict[str, Any]:
    """What made a result, for its file: number of the format, commit, versions and hardware."""
    return {"schema": SCHEMA, "commit": _commit(), "versions": versions()}


@functools.cache
def _commit() -> str:
    """The commit of the package's own checkout; of an installed package its version."""
    root = Path(PACKAGE).parents[2]
    if not (root / ".git").exists():
        return __version__
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    said = subprocess.run(command, capture_output=True, text=True)
    return said.stdout.strip() or __version__


_CLASSIFIERS: dict[str, Classifier] = {}


def generated(model: Model, splits: Splits, accelerator: str = "auto") -> dict[str, Any]:
    """How good the images of a model are, see `generation.quality`."""
    x = splits.test.tensor().to(model.aggregated.device)
    labels = _classes(splits, splits.test.labels)
    return quality(model, _classifier(splits, accelerator), x, labels)


def _classifier(splits: Splits, accelerator: str) -> Classifier:
    """A classifier of the data set, trained on its labels, once in a process."""
    if splits.name not in _CLASSIFIERS:
        device = choose_device(accelerator)
        labels = torch.from_numpy(_classes(splits, splits.train.labels)).to(device)
        _CLASSIFIERS[splits.name] = fit_classifier(splits.train.tensor().to(device), labels)
    return _CLASSIFIERS[splits.name]


def _classes(splits: Splits, labels: np.ndarray | None) -> np.ndarray:
    """Labels as numbers from 0 up."""
    names = splits.train.labels
    assert names is not None  # all data sets of the experiments have labels
    assert labels is not None
    return np.searchsorted(np.unique(names), labels)


def write(file: Path, result: dict[str, Any]) -> None:
    """Writes a result, whole or not at all. A list of numbers takes one line."""
    text = re.sub(
        r"\[[^\[\]{}\"]*\]", lambda m: " ".join(m[0].split()), json.dumps(result, indent=1)
    )
    output.write_text(file, text + "\n")


def read(results: Path) -> list[dict[str, Any]]:
    """The results in a folder, by file name."""
    return [json.loads(f.read_text(encoding="utf-8")) for f in sorted(results.glob("*.json"))]


def _info(config: dict[str, Any], recipe: Recipe, splits: Splits, status: str) -> dict[str, Any]:
    data: dict[str, Any] = {"source": splits.name, "label": None, "drop": []}  # named: no table
    return {**describe(splits.schema, config, recipe), "data": data, "status": status}

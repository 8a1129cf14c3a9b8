"""One cell of an experiment: models of one configuration trained from several seeds and measured.

Each seed lands as one JSON file, written whole, as soon as it is measured; seeds whose file is
there are not run again.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cpvae.augment import Augment
from cpvae.checkpoint import describe
from cpvae.data import Splits
from cpvae.evaluate import evaluate
from cpvae.models import build
from cpvae.train import Recipe, Record, choose_device, fit_together

CURVE = ("train_loss_nats", "valid_elbo_exact_nats", "valid_kl_z_nats", "components_used")


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
) -> list[Path]:
    """Trains the seeds that have no file yet as one, measures them on the test part, writes them.

    Arguments:
        name: file of a seed
        facts: what the file says first: data set, model, components, ...
        config: keywords of `models.build` but the seed
        recipe: but the seed
        seeds: of the cell
        splits: the data
        importance_samples: of the log-likelihood
        augment: of the invariance term
        accelerator: as for `train.fit`
        on_epoch: called with the place of a seed and its epoch's record

    Returns:
        The files that were written.
    """
    missing = [seed for seed in seeds if not name(seed).is_file()]
    if not missing:
        return []
    models = [build(**config, seed=seed) for seed in missing]
    recipes = [dataclasses.replace(recipe, seed=seed) for seed in missing]
    x_train, x_valid = splits.train.tensor(), splits.valid.tensor()
    started = time.monotonic()
    histories = fit_together(
        models,
        x_train,
        x_valid,
        recipes,
        augment,
        on_epoch=on_epoch,
        accelerator=accelerator,
    )
    minutes = (time.monotonic() - started) / 60
    device = choose_device(accelerator)
    x_test = splits.test.tensor().to(device)
    written = []
    for model, seeded, history in zip(models, recipes, histories, strict=True):
        figures = evaluate(model, x_test, splits.test.labels, importance_samples, seeded.seed)
        best = max(history, key=lambda record: record["valid_elbo_exact_nats"])
        described = describe(config, seeded)
        result = {
            **facts,
            "seed": seeded.seed,
            "elbo_nats": figures.pop("elbo_exact_nats"),
            **figures,
            "minutes": minutes,
            "trained_together": len(missing),
            "epochs": len(history),
            "best_epoch": best["epoch"],
            "best": best,
            "config": described["model"],
            "recipe": described["recipe"],
            "versions": described["versions"],
            "curve": {key: [round(r[key], 4) for r in history] for key in CURVE},
        }
        file = name(seeded.seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(".part")
        aside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        aside.replace(file)
        written.append(file)
    return written

"""Runs that differ in the seed alone, and the best of them by the validation bound.

On a CUDA device they are trained as one stack of models. On a CPU a stack gains nothing, because
the matrix products are what takes the time; there every core trains a run of its own on one thread,
which wastes no core on waiting for another. Each restart is a run folder of its own.
"""

import dataclasses
import math
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpvae.checkpoint import TRAINING, RunFolder, best_of, describe
from cpvae.data.augment import Augment
from cpvae.models.base import Model, build
from cpvae.training.device import choose_device
from cpvae.training.loop import Diverged, Record, fit, fit_together
from cpvae.training.recipe import Recipe

POLL = 0.5  # seconds between two looks at how far the processes are


def fit_best(
    config: dict[str, Any],
    recipe: Recipe,
    n_restarts: int,
    x_train: Tensor,
    x_valid: Tensor,
    augment: Augment | None = None,
    folder: RunFolder | None = None,
    on_epoch: Callable[[int, Record], None] | None = None,
    accelerator: str = "auto",
) -> tuple[Model, list[Record], list[dict[str, Any]]]:
    """Trains from the seeds ``recipe.seed``, ``recipe.seed + 1``, ... and keeps the best run.

    Arguments:
        config: keywords of `models.build` but the seed
        recipe: how, see `Recipe`
        n_restarts: number of seeds
        x_train: as for `train.fit`
        x_valid: as for `train.fit`; its bound chooses the run
        augment: as for `train.fit`
        folder: where the best run goes, with the others in ``restarts/seed-S`` below it; what is
            found there is gone on from
        on_epoch: called with the place of a restart and its epoch's record
        accelerator: as for `train.fit`

    Returns:
        The best model, its records, and for every restart its ``seed``, ``epochs``, ``best_epoch``
        and ``best_valid_elbo_nats``. One that diverges ends there with its best weights.

    Raises:
        Diverged: every restart diverged.
        ValueError: as for `train.fit`, or restarts begun on another kind of device.
    """
    if n_restarts == 1:
        model = build(**{**config, "seed": recipe.seed})
        tell = on_epoch or (lambda *_: None)
        given = (augment, folder, lambda record: tell(0, record), accelerator)
        history = fit(model, x_train, x_valid, recipe, *given)
        return model, history, [_outcome(recipe, history)]
    with tempfile.TemporaryDirectory() as aside:
        home = Path(aside) if folder is None else folder.path / "restarts"
        recipes = [dataclasses.replace(recipe, seed=recipe.seed + r) for r in range(n_restarts)]
        folders = [RunFolder(home / f"seed-{r.seed}") for r in recipes]
        together = choose_device(accelerator).type == "cuda"
        _check_same_way(home, folders, together)
        infos = [describe({**config, "seed": seeded.seed}, seeded) for seeded in recipes]
        for restart, info in zip(folders, infos, strict=True):
            restart.write_info({**info, "status": "running"})
        shared = (x_train, x_valid, augment, on_epoch, accelerator)
        if together:
            _train_stack(config, recipes, folders, home, *shared)
        else:
            _train_apart(config, recipes, folders, folder is not None, *shared)
        for restart, info in zip(folders, infos, strict=True):
            restart.write_info({**info, "status": "finished"})
        histories = [restart.read_history() for restart in folders]
        outcomes = [_outcome(r, h) for r, h in zip(recipes, histories, strict=True)]
        best = max(range(n_restarts), key=lambda r: outcomes[r]["best_valid_elbo_nats"])
        model = build(**{**config, "seed": recipes[best].seed})
        model.load_state_dict(folders[best].read_weights())
        if folder:
            folder.write_history(histories[best])
            folder.write_model(model.state_dict())
    return model.eval().to(choose_device(accelerator)), histories[best], outcomes


def _outcome(recipe: Recipe, history: Sequence[Record]) -> dict[str, Any]:
    none = {"epoch": 0, "valid_elbo_nats": -math.inf}  # diverged in its first epoch
    best = best_of(history, recipe.start_epochs) or none
    return {
        "seed": recipe.seed,
        "epochs": len(history),
        "best_epoch": best["epoch"],
        "best_valid_elbo_nats": best["valid_elbo_nats"],
    }


def _check_same_way(home: Path, folders: Sequence[RunFolder], together: bool) -> None:
    begun_together = (home / TRAINING).is_file()
    begun_apart = any((restart.path / TRAINING).is_file() for restart in folders)
    if begun_together if not together else begun_apart:
        before, now = ("cuda", "cpu") if begun_together else ("cpu", "cuda")
        raise ValueError(
            f"The restarts in {home} were begun on {before} and cannot go on on {now}: "
            f"use the accelerator {before}, or fit into another folder."
        )


def _train_stack(
    config: dict[str, Any],
    recipes: Sequence[Recipe],
    folders: Sequence[RunFolder],
    home: Path,
    x_train: Tensor,
    x_valid: Tensor,
    augment: Augment | None,
    on_epoch: Callable[[int, Record], None] | None,
    accelerator: str,
) -> None:
    """All as one stack of models."""
    models = [build(**{**config, "seed": r.seed}) for r in recipes]
    given = (augment, folders, RunFolder(home), on_epoch, accelerator)
    fit_together(models, x_train, x_valid, recipes, *given)


def _train_apart(
    config: dict[str, Any],
    recipes: Sequence[Recipe],
    folders: Sequence[RunFolder],
    resumable: bool,
    x_train: Tensor,
    x_valid: Tensor,
    augment: Augment | None,
    on_epoch: Callable[[int, Record], None] | None,
    accelerator: str,
) -> None:
    """A process a core."""
    import joblib

    arrays = x_train.numpy(), x_valid.numpy()  # joblib shares large arrays between processes
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(folders, on_epoch, finished), daemon=True)
    watch.start()
    try:
        failed = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(recipes)))(
            joblib.delayed(_one)(
                {**config, "seed": r.seed}, r, f.path, resumable, *arrays, augment, accelerator
            )
            for r, f in zip(recipes, folders, strict=True)
        )
    finally:
        finished.set()
        watch.join()
    if all(failed):
        raise Diverged(f"All {len(failed)} restarts diverged. {failed[0]}")


def _one(
    config: dict[str, Any],
    recipe: Recipe,
    path: Path,
    resumable: bool,
    x_train: np.ndarray,
    x_valid: np.ndarray,
    augment: Augment | None,
    accelerator: str,
) -> str | None:
    """One restart in a process of its own; what went wrong if it diverged.

    Its training state is kept only where the folder outlives the fit.
    """
    torch.set_num_threads(1)
    model = build(**config)
    train, valid = torch.tensor(x_train), torch.tensor(x_valid)
    try:
        folder = RunFolder(path)
        home = folder if resumable else None
        fit_together([model], train, valid, [recipe], augment, [folder], home, None, accelerator)
    except Diverged as error:
        return str(error)
    return None


def _watch(
    folders: Sequence[RunFolder],
    on_epoch: Callable[[int, Record], None] | None,
    finished: threading.Event,
) -> None:
    """Tells of the epochs that the processes have written."""
    seen = [0] * len(folders)
    while on_epoch:
        last = finished.wait(POLL)
        for place, restart in enumerate(folders):
            history = restart.read_history()
            for record in history[seen[place] :]:
                on_epoch(place, record)
            seen[place] = len(history)
        if last:
            return

"""Restarts: fits of one configuration from several seeds, of which the best is kept.

On a CUDA device they are trained as one stack of models. Elsewhere a stack gains nothing, because
the matrix products are what takes the time; there every core trains a run of its own on one thread,
which wastes no core on waiting for another. Each restart is a run folder of its own, and a process
that trains one ends with the process that started it.
"""

import dataclasses
import math
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cpvae.checkpoint import RESTARTS, TRAINING, RunFolder, best_of, describe
from cpvae.data.schema import Schema
from cpvae.data.store import Windows
from cpvae.lock import end_with
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.models.residual import ResidualCPVAE
from cpvae.training.device import choose_device
from cpvae.training.diagnosis import Diverged, Record
from cpvae.training.loop import TrainingData, fit_together
from cpvae.training.recipe import Recipe
from cpvae.training.refine import refine

POLL = 0.5  # seconds between two looks at how far the processes are
PATIENCE = 10.0  # seconds that a process of a run that was killed gets to end

OnEpoch = Callable[[int, Record], None]  # called with the index of a restart and a record


class Best(NamedTuple):
    """The best of several restarts: its model, its records, and the outcome of each restart."""

    model: Model
    history: list[Record]
    restarts: list[dict[str, Any]]


def fit_restarts(
    config: dict[str, Any],
    recipe: Recipe,
    n_restarts: int,
    data: TrainingData,
    folder: RunFolder | None = None,
    on_epoch: OnEpoch | None = None,
    accelerator: str = "auto",
) -> Best:
    """Trains from the seeds ``recipe.seed``, ``recipe.seed + 1``, ... and keeps the best run.

    Arguments:
        config: keywords of `models.build` but the seed
        recipe: how, see `Recipe`
        n_restarts: number of seeds
        data: what is trained on; the bound on its validation part chooses the run
        folder: where the best run goes, with the others in ``restarts/seed-S`` below it; those
            that were begun there are resumed
        on_epoch: called with the index of a restart and its epoch's record
        accelerator: as for `loop.fit`

    Raises:
        Diverged: every restart diverged. If only some do, each of those keeps its best weights.
        ValueError: as for `loop.fit`, or restarts begun on another kind of device.
    """
    if n_restarts == 1:
        model = build(**{**config, "seed": recipe.seed})
        tell = on_epoch or (lambda *_: None)
        history = fit_one(
            model, data, recipe, folder, folder, lambda record: tell(0, record), accelerator
        )
        return Best(model, history, [outcome_of(recipe, history)])
    with tempfile.TemporaryDirectory() as aside:
        home = Path(aside) if folder is None else folder.path / RESTARTS
        recipes = [dataclasses.replace(recipe, seed=recipe.seed + r) for r in range(n_restarts)]
        lock = folder.lock if folder else None
        folders = [RunFolder(home / f"seed-{r.seed}", lock) for r in recipes]
        together = choose_device(accelerator).type == "cuda" and config["model"] != "residual"
        _check_same_device(home, folders, together)
        schema = Schema(tuple(config["shape"]))  # enough for folders that do not outlive the fit
        if folder and folder.exists():
            schema = folder.read_schema()
        infos = [describe(schema, {**config, "seed": of.seed}, of) for of in recipes]
        for restart, info in zip(folders, infos, strict=True):
            restart.write_info({**info, "status": "running"})
        if together:
            _train_stack(config, recipes, folders, home, data, on_epoch, accelerator)
        else:
            resumable = folder is not None
            _train_apart(config, recipes, folders, resumable, data, on_epoch, accelerator)
        for restart, info in zip(folders, infos, strict=True):
            restart.write_info({**info, "status": "finished"})
        histories = [restart.read_history() for restart in folders]
        outcomes = [outcome_of(r, h) for r, h in zip(recipes, histories, strict=True)]
        best = max(range(n_restarts), key=lambda r: outcomes[r]["best_valid_elbo_nats"])
        model = build(**{**config, "seed": recipes[best].seed})
        model.load_state_dict(folders[best].read_weights())
        if folder:
            folder.write_history(histories[best])
            folder.write_model(model.state_dict())
    model = model.eval().to(choose_device(accelerator))
    return Best(model, histories[best], outcomes)


def fit_one(
    model: Model,
    data: TrainingData,
    recipe: Recipe,
    folder: RunFolder | None,
    home: RunFolder | None,
    on_epoch: Callable[[Record], None],
    accelerator: str,
    anew: bool = True,
) -> list[Record]:
    """One model, in the way that is its own; as `loop.fit_together`, and ``anew`` as `refine`."""
    if isinstance(model, ResidualCPVAE):
        return refine(model, data, recipe, folder, on_epoch, accelerator, anew)
    (history,) = fit_together(
        [model],
        data,
        [recipe],
        [folder] if folder else None,
        home,
        lambda _, record: on_epoch(record),
        accelerator,
        anew,
    )
    return history


def outcome_of(recipe: Recipe, history: Sequence[Record]) -> dict[str, Any]:
    """What ``run.json`` says of a restart."""
    none = {"epoch": 0, "valid_elbo_nats": -math.inf}  # diverged in its first epoch
    best = best_of(history, recipe.pretraining_epochs) or none
    return {
        "seed": recipe.seed,
        "epochs": history[-1]["epoch"] if history else 0,
        "best_epoch": best["epoch"],
        "best_valid_elbo_nats": best["valid_elbo_nats"],
    }


def _check_same_device(home: Path, folders: Sequence[RunFolder], together: bool) -> None:
    begun_together = (home / TRAINING).is_file()
    begun_apart = any((restart.path / TRAINING).is_file() for restart in folders)
    if begun_apart if together else begun_together:
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
    data: TrainingData,
    on_epoch: OnEpoch | None,
    accelerator: str,
) -> None:
    """All as one stack of models."""
    models = [build(**{**config, "seed": r.seed}) for r in recipes]
    fit_together(models, data, recipes, folders, RunFolder(home), on_epoch, accelerator)


def _train_apart(
    config: dict[str, Any],
    recipes: Sequence[Recipe],
    folders: Sequence[RunFolder],
    resumable: bool,
    data: TrainingData,
    on_epoch: OnEpoch | None,
    accelerator: str,
) -> None:
    """Each in a process of its own, on one thread, as many at once as there are cores."""
    import joblib

    # joblib shares large arrays between processes
    train = data.train.numpy() if isinstance(data.train, torch.Tensor) else data.train
    arrays = train, data.valid.numpy()
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(folders, on_epoch, finished), daemon=True)
    watch.start()
    try:
        errors = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(recipes)))(
            joblib.delayed(_train_one)(
                {**config, "seed": r.seed},
                r,
                f.path,
                resumable,
                *arrays,
                data[2:],
                accelerator,
                os.getpid(),
            )
            for r, f in zip(recipes, folders, strict=True)
        )
    finally:
        finished.set()
        watch.join()
    if all(errors):
        raise Diverged(f"All {len(errors)} restarts diverged. {errors[0]}")


def _train_one(
    config: dict[str, Any],
    recipe: Recipe,
    path: Path,
    resumable: bool,
    x_train: np.ndarray | Windows,
    x_valid: np.ndarray,
    more: tuple[Any, ...],
    accelerator: str,
    parent: int,
) -> str | None:
    """One restart in a process of its own; returns the text of the error if it diverged.

    Its training state is saved only if the folder outlives the fit (``resumable``). ``more`` is
    what `TrainingData` has beside the examples. The process ends with the one that is its
    ``parent``.
    """
    end_with(parent)
    torch.set_num_threads(1)
    model, folder = build(**config), RunFolder(path)
    train = x_train if isinstance(x_train, Windows) else torch.tensor(x_train)
    data = TrainingData(train, torch.tensor(x_valid), *more)
    home = folder if resumable else None
    try:
        with folder.writing(PATIENCE) if resumable else nullcontext():
            fit_one(model, data, recipe, folder, home, lambda _: None, accelerator)
    except Diverged as error:
        return str(error)
    return None


def _watch(
    folders: Sequence[RunFolder],
    on_epoch: OnEpoch | None,
    finished: threading.Event,
) -> None:
    """Passes on the epochs that the processes have written."""
    seen = [0] * len(folders)
    while on_epoch:
        last = finished.wait(POLL)
        for index, restart in enumerate(folders):
            history = restart.read_history()
            for record in history[seen[index] :]:
                on_epoch(index, record)
            seen[index] = len(history)
        if last:
            return

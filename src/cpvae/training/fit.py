"""A fit, from data and settings to what happened: planned, fitted, fitted again, diagnosed.

`CPVAE.fit` and ``cpvae fit`` are shells around `plan` and `fit_plan`.
Several restarts differ in the seed alone, and the best of them by the validation bound is kept. On
a CUDA device they are trained as one stack of models. Elsewhere a stack gains nothing, because the
matrix products are what takes the time; there every core trains a run of its own on one thread,
which wastes no core on waiting for another. Each restart is a run folder of its own.
"""

import dataclasses
import math
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from cpvae.checkpoint import RESTARTS, TRAINING, RunFolder, best_of, describe
from cpvae.data.augment import Augment, named
from cpvae.data.schema import Kinds, Schema
from cpvae.models.base import Model
from cpvae.models.build import MODELS, build
from cpvae.models.residual import ResidualCPVAE
from cpvae.training import defaults
from cpvae.training.device import choose_device
from cpvae.training.diagnosis import Diagnosis, Diverged, Record, diagnose, overfitted
from cpvae.training.initialise import needs_mixture
from cpvae.training.loop import TrainingData, check_trainable, fit_one_pass, fit_together
from cpvae.training.recipe import Recipe
from cpvae.training.refine import refine, refine_one_pass

POLL = 0.5  # seconds between two looks at how far the processes are

OnEpoch = Callable[[int, Record], None]  # called with the index of a restart and a record


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is built and how it is trained.

    Arguments:
        schema: of the data, with kinds of columns and units of standardisation
        config: keywords of `models.build`
        recipe: how it is optimised
        given: settings that the user named
        augment: change of x that leaves its category as it is, for the invariance term
        may_shorten: whether the user left ``max_epochs`` open, so that a fit that overfitted may be
            repeated in fewer
        shortened_from: ``max_epochs`` before it was shortened
    """

    schema: Schema
    config: dict[str, Any]
    recipe: Recipe
    given: dict[str, Any]
    augment: Augment | None = None
    may_shorten: bool = False
    shortened_from: int | None = None

    def continuing(self, before: "Plan") -> "Plan":
        """This plan, to go on with a model that was fitted by the plan ``before``.

        Its schema and model stay, this recipe is used.

        Raises:
            ValueError: settings of the model that differ.
        """
        may_differ = ("loc", "scale", "seed", "kinds", "n_levels")
        for key, value in self.config.items():
            if key not in may_differ and before.config.get(key) != value:
                raise ValueError(
                    f"warm_start goes on with a model that has {key}={before.config.get(key)}, and "
                    f"this asks for {value}: leave the setting, or set warm_start=False."
                )
        return dataclasses.replace(self, schema=before.schema, config=before.config)

    def in_parts(self, n: int) -> "Plan":
        """This plan for data that comes in parts, of which the first has ``n`` examples.

        Communities have no index for parts that are still to come, and a mixture has.
        """
        if needs_mixture(n, self.schema.shape, self.schema.kinds):
            return self
        recipe = dataclasses.replace(self.recipe, pretraining_epochs=0)
        return dataclasses.replace(self, recipe=recipe)

    def better_epochs(self, history: Sequence[Record]) -> int:
        """The number of epochs to fit again in, as a fit of this plan overfitted; else 0."""
        return overfitted(history, self.recipe) if self.may_shorten else 0

    def shortened(self, epochs: int) -> "Plan":
        """The same plan in fewer epochs, once."""
        return dataclasses.replace(
            self,
            recipe=self.recipe.shortened(epochs),
            may_shorten=False,
            shortened_from=self.recipe.max_epochs,
        )


class Fitted(NamedTuple):
    """What happened in a fit.

    ``plan`` is the one that the model comes from, ``history`` has a record an epoch (`loop.fit`),
    and ``restarts`` for each seed its ``seed``, ``epochs``, ``best_epoch`` and
    ``best_valid_elbo_nats``.
    """

    model: Model
    plan: Plan
    history: list[Record]
    restarts: list[dict[str, Any]]
    diagnosis: Diagnosis


# a context around each fit of a plan, which gives the `OnEpoch` to call, or None
Watch = Callable[[Plan], AbstractContextManager[OnEpoch | None]]


def plan(
    x: np.ndarray,
    schema: Schema,
    given: Mapping[str, Any],
    kinds: Kinds | None = None,
    invariance: str | Augment | None = None,
    accelerator: str = "auto",
) -> Plan:
    """Plans a fit to training examples ``x`` (n, ...).

    Arguments:
        x: training examples, in the data's units
        schema: of the data, as it was read
        given: settings of `models.build` and of the `Recipe` that are not left to `defaults`
        kinds: of columns, where `Schema.column_kinds` is not to choose
        invariance: a change of x that leaves its category as it is: a name, or an `Augment`
        accelerator: as for `loop.fit`

    Raises:
        ValueError: a setting that does not exist, that is out of range or that does not fit the
            data, or data that cannot be learned from.
    """
    of_model, of_recipe = defaults.sort_settings(given)
    if not of_model.get("model"):
        changes = {"invariance": invariance} if invariance else {}
        of_model["model"] = defaults.choose_model(x, schema, {**given, **changes}, kinds)
    chosen = of_model.get("likelihood"), of_model["model"]
    likelihood, schema = defaults.describe_data(x, schema, kinds, *chosen)
    config = defaults.configured(len(x), schema, {**of_model, "likelihood": likelihood})
    augment = named(invariance, schema.shape)
    if augment and not MODELS[config["model"]].model.has_categories:
        raise ValueError("invariance is about q(c|x): use it with the model 'cpvae' only.")
    if augment:
        of_recipe.setdefault("invariance_weight", defaults.INVARIANCE)
    recipe = defaults.recipe(len(x), config, accelerator, **of_recipe)
    settings = {**of_model, **of_recipe}
    return Plan(schema, config, recipe, settings, augment, "max_epochs" not in of_recipe)


def check_plan(plan: Plan, accelerator: str = "auto") -> None:
    """Refuses what cannot be trained, before anything is written; raises as `fit_plan` does."""
    check_trainable(build(**plan.config), plan.recipe, accelerator, plan.augment)


def fit_plan(
    plan: Plan,
    train: Tensor,
    valid: Tensor,
    n_restarts: int = 1,
    folder: RunFolder | None = None,
    watch: Watch | None = None,
    accelerator: str = "auto",
) -> Fitted:
    """Fits a plan, once more in fewer epochs where it overfitted, and diagnoses what came of it.

    Arguments:
        plan: from `plan`
        train: training data (n, ...) in the data's units
        valid: validation data (m, ...)
        n_restarts: number of seeds to fit from
        folder: where the run goes; a fit that was begun there is resumed
        watch: a context around each fit, see `Watch`
        accelerator: as for `loop.fit`

    Raises:
        Diverged: as for `fit_restarts`.
        ValueError: as for `fit_restarts`.
    """
    data = TrainingData(train, valid, plan.augment)
    watch = watch or (lambda _: nullcontext(None))
    while True:  # twice at most: a plan is shortened once
        with watch(plan) as on_epoch:
            if folder and not folder.exists():
                described = describe(plan.schema, plan.config, plan.recipe, plan.given)
                folder.write_info({**described, "status": "running"})
            best = fit_restarts(
                plan.config, plan.recipe, n_restarts, data, folder, on_epoch, accelerator
            )
        best_epoch = plan.better_epochs(best.history)
        if not best_epoch:
            break
        plan = plan.shortened(best_epoch)
        if folder:
            folder.clear()
    diagnosis = diagnose(best.model, best.history, plan.recipe)
    return Fitted(best.model, plan, best.history, best.restarts, diagnosis)


def continue_fit(
    model: Model,
    plan: Plan,
    train: Tensor,
    valid: Tensor,
    watch: Watch | None = None,
    accelerator: str = "auto",
) -> Fitted:
    """Trains a fitted model further by the recipe of a plan, without annealing or pretraining."""
    recipe = dataclasses.replace(plan.recipe, anneal_epochs=0, pretraining_epochs=0)
    plan = dataclasses.replace(plan, recipe=recipe)
    data = TrainingData(train, valid, plan.augment)
    with (watch or (lambda _: nullcontext(None)))(plan) as on_epoch:
        tell = on_epoch or (lambda *_: None)
        history = _fit_one(
            model, data, recipe, None, None, lambda r: tell(0, r), accelerator, anew=False
        )
    outcome = _outcome(recipe, history)
    return Fitted(model, plan, history, [outcome], diagnose(model, history, recipe))


def fit_one_more(
    model: Model,
    x: Tensor,
    plan: Plan,
    epoch: int,
    state: dict[str, Tensor] | None,
    accelerator: str = "auto",
) -> tuple[Record, dict[str, Tensor]]:
    """One pass over ``x`` (n, ...), in the way of the model; as `loop.fit_one_pass`."""
    if isinstance(model, ResidualCPVAE):
        return refine_one_pass(model, x.flatten(1), plan.recipe, epoch, accelerator), {}
    return fit_one_pass(model, x, plan.recipe, epoch, state, plan.augment, accelerator)


# --- restarts ------------------------------------------------------------------------------------


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
        history = _fit_one(
            model, data, recipe, folder, folder, lambda record: tell(0, record), accelerator
        )
        return Best(model, history, [_outcome(recipe, history)])
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
        outcomes = [_outcome(r, h) for r, h in zip(recipes, histories, strict=True)]
        best = max(range(n_restarts), key=lambda r: outcomes[r]["best_valid_elbo_nats"])
        model = build(**{**config, "seed": recipes[best].seed})
        model.load_state_dict(folders[best].read_weights())
        if folder:
            folder.write_history(histories[best])
            folder.write_model(model.state_dict())
    model = model.eval().to(choose_device(accelerator))
    return Best(model, histories[best], outcomes)


def _fit_one(
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
    folders = [folder] if folder else None
    (history,) = fit_together(
        [model], data, [recipe], folders, home, lambda _, record: on_epoch(record), accelerator
    )
    return history


def _outcome(recipe: Recipe, history: Sequence[Record]) -> dict[str, Any]:
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

    arrays = data.train.numpy(), data.valid.numpy()  # joblib shares large ones between processes
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(folders, on_epoch, finished), daemon=True)
    watch.start()
    try:
        errors = joblib.Parallel(n_jobs=min(joblib.cpu_count(), len(recipes)))(
            joblib.delayed(_train_one)(
                {**config, "seed": r.seed}, r, f.path, resumable, *arrays, data.augment, accelerator
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
    x_train: np.ndarray,
    x_valid: np.ndarray,
    augment: Augment | None,
    accelerator: str,
) -> str | None:
    """One restart in a process of its own; returns the text of the error if it diverged.

    Its training state is saved only if the folder outlives the fit (``resumable``).
    """
    torch.set_num_threads(1)
    model, folder = build(**config), RunFolder(path)
    data = TrainingData(torch.tensor(x_train), torch.tensor(x_valid), augment)
    home = folder if resumable else None
    try:
        _fit_one(model, data, recipe, folder, home, lambda _: None, accelerator)
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

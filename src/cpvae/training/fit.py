"""A fit, from data and settings to what happened: planned, fitted, fitted again, diagnosed.

`CPVAE.fit` and ``cpvae fit`` are shells around `plan` and `fit_plan`.
Several restarts differ in the seed alone, and the best of them by the validation bound is kept, see
`restarts`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from cpvae.checkpoint import RunFolder, describe
from cpvae.data.augment import Augment, named
from cpvae.data.kinds import Kinds
from cpvae.data.schema import Schema
from cpvae.data.store import Windows
from cpvae.models.base import Model
from cpvae.models.build import MODELS, build
from cpvae.models.residual import ResidualCPVAE
from cpvae.training import defaults
from cpvae.training.diagnosis import Diagnosis, Record, diagnose, overfitted
from cpvae.training.initialise import needs_mixture
from cpvae.training.loop import TrainingData, check_trainable, fit_one_pass
from cpvae.training.recipe import Recipe
from cpvae.training.refine import refine_one_pass
from cpvae.training.restarts import OnEpoch, fit_one, fit_restarts, outcome_of
from cpvae.training.rows import Rows

WINDOWS_OF_RESIDUAL = 10  # of a table on disk, that a model trains on which starts as a mixture


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
        may_differ = ("loc", "scale", "seed", "kinds", "n_levels", "limits")
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
    x: np.ndarray | Windows,
    schema: Schema,
    given: Mapping[str, Any],
    kinds: Kinds | None = None,
    invariance: str | Augment | None = None,
    accelerator: str = "auto",
) -> Plan:
    """Plans a fit to training examples ``x`` (n, ...).

    Arguments:
        x: training examples, in the data's units; or rows on disk
        schema: of the data, as it was read
        given: settings of `models.build` and of the `Recipe` that are not left to `defaults`
        kinds: of columns, where `kinds.column_kinds` is not to choose
        invariance: a change of x that leaves its category as it is: a name, or an `Augment`
        accelerator: as for `loop.fit`

    Raises:
        ValueError: a setting that does not exist, that is out of range or that does not fit the
            data, or data that cannot be learned from.
    """
    rows, x = (x, x.for_plan()) if isinstance(x, Windows) else (None, x)
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
    planned = Plan(schema, config, recipe, settings, augment, "max_epochs" not in of_recipe)
    return _by_windows(planned, rows, of_recipe) if rows else planned


def usual_epochs(
    x: np.ndarray | Windows, config: dict[str, Any], batch_size: int, accelerator: str = "auto"
) -> int:
    """The number of epochs that a plan has where the user names none."""
    usual = defaults.recipe(len(x), config, accelerator, batch_size=batch_size).max_epochs
    of_windows = isinstance(x, Windows) and config["model"] == "residual"
    return max(usual, _epochs_of_residual(x)) if of_windows else usual  # type: ignore[arg-type]


def _by_windows(planned: Plan, rows: Windows, given: Mapping[str, Any]) -> Plan:
    """A plan, made by a sample, for all rows of a table on disk.

    Units are those of all rows. An epoch takes a window, so a model that starts as a mixture, which
    needs few steps, gets some of them.
    """
    schema, recipe = _with_units(planned.schema, rows.units()), planned.recipe
    features = {k: v for k, v in schema.features().items() if k in ("loc", "scale")}
    if planned.config["model"] == "residual":
        if "max_epochs" not in given:
            epochs = max(recipe.max_epochs, _epochs_of_residual(rows))
            patience = given.get("patience", max(1, epochs // 4))
            recipe = dataclasses.replace(recipe, max_epochs=epochs, patience=patience)
        may_shorten = planned.may_shorten
    else:
        may_shorten = False
    planned = dataclasses.replace(
        planned,
        schema=schema,
        config=planned.config | features,
        recipe=recipe,
        may_shorten=may_shorten,
    )
    return planned if planned.config["model"] == "residual" else planned.in_parts(len(rows))


def _with_units(schema: Schema, units: Mapping[str, Sequence[float]]) -> Schema:
    """A schema whose measurements are standardised by units of all rows."""
    if not schema.loc:
        return schema
    kinds = schema.kinds or ("gaussian",) * len(schema.loc)

    def exact(before: Sequence[float], now: Sequence[float]) -> tuple[float, ...]:
        each = zip(kinds, before, now, strict=True)
        return tuple(b if kind not in ("number", "gaussian") else a for kind, b, a in each)

    loc, scale = exact(schema.loc, units["loc"]), exact(schema.scale, units["scale"])
    return dataclasses.replace(schema, loc=loc, scale=scale)


def _epochs_of_residual(rows: Windows) -> int:
    return min(WINDOWS_OF_RESIDUAL, rows.n // len(rows))


def check_plan(plan: Plan, accelerator: str = "auto") -> None:
    """Refuses what cannot be trained, before anything is written; raises as `fit_plan` does."""
    check_trainable(build(**plan.config), plan.recipe, accelerator, plan.augment)


def fit_plan(
    plan: Plan,
    train: Rows,
    valid: Tensor,
    n_restarts: int = 1,
    folder: RunFolder | None = None,
    watch: Watch | None = None,
    accelerator: str = "auto",
    row_weights: tuple[Tensor, Tensor] | None = None,
    start: Tensor | None = None,
) -> Fitted:
    """Fits a plan, once more in fewer epochs where it overfitted, and diagnoses what came of it.

    Arguments:
        plan: from `plan`
        train: training data (n, ...) in the data's units, or rows on disk
        valid: validation data (m, ...)
        n_restarts: number of seeds to fit from
        folder: where the run goes; a fit that was begun there is resumed
        watch: a context around each fit, see `Watch`
        accelerator: as for `loop.fit`
        row_weights: of the examples of both parts, with the mean 1
        start: responsibilities (n, k) of the training data to start from

    Raises:
        Diverged: as for `fit_restarts`.
        ValueError: as for `fit_restarts`; weights or a start for another model than ``residual``.
    """
    if (row_weights or start is not None) and plan.config["model"] != "residual":
        raise ValueError(
            f"Weights of rows and a start of your own are for the model 'residual', and this is "
            f"{plan.config['model']!r}: leave them out, or leave model and the settings that only "
            f"other models have."
        )
    if start is not None and start.shape[1] != plan.config["n_components"]:
        raise ValueError(
            f"start has {start.shape[1]} components, and n_components="
            f"{plan.config['n_components']}: make them the same."
        )
    data = TrainingData(train, valid, plan.augment, row_weights, start)
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
    train: Rows,
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
        history = fit_one(
            model, data, recipe, None, None, lambda r: tell(0, r), accelerator, anew=False
        )
    outcome = outcome_of(recipe, history)
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

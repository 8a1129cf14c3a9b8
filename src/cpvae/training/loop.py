"""How models are optimised by a `Recipe`: one plain loop over epochs.

The loop keeps the averaged weights with the best one-hot bound on the validation data, whatever the
loss weights and the expectation are. Labels have no way in. On a CPU two equal runs are equal bit
for bit, and so are a run and the same run killed and resumed.
"""

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.checkpoint import RunFolder
from cpvae.clustering.overlap import OverlapMixture, overlap_mixture
from cpvae.data.augment import Augment
from cpvae.models.base import Model, Terms
from cpvae.models.functional import mutual_information
from cpvae.models.inference import components_used, exact_terms, sampled_terms
from cpvae.models.precision import single_precision
from cpvae.streams import stream, torch_stream
from cpvae.training import processes
from cpvae.training.device import choose_device, has_bfloat16
from cpvae.training.diagnosis import Record, diverged
from cpvae.training.engine import Engine
from cpvae.training.initialise import as_table
from cpvae.training.kernels import choose_kernels
from cpvae.training.objective import Means
from cpvae.training.recipe import MOST_ENUMERATED, Phase, Recipe
from cpvae.training.rows import Feed, Rows, digest_of, sample_of
from cpvae.training.settings import torch_settings
from cpvae.training.state import Group, Run, under

# parameters times batch size under which a second thread costs more than it brings
SMALL = 2e7
ENOUGH_VALIDATION = 500  # rows: smaller sets are drawn several times over


class TrainingData(NamedTuple):
    """What models are trained on: examples (n, ...) and (m, ...) in the data's own units.

    ``train`` may be on disk, see `rows`.
    ``valid`` is for early stopping and the choice of weights; ``augment`` is a change of data that
    should leave c as it is, for the invariance term. The model `residual` alone knows weights of
    the rows, of both parts and with the mean 1, and responsibilities (n, k) to start from.
    """

    train: Rows
    valid: Tensor
    augment: Augment | None = None
    row_weights: tuple[Tensor, Tensor] | None = None
    start: Tensor | None = None


@single_precision()
def fit(
    model: Model,
    x_train: Tensor,
    x_valid: Tensor,
    recipe: Recipe,
    augment: Augment | None = None,
    folder: RunFolder | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    accelerator: str = "auto",
) -> list[Record]:
    """Trains ``model`` in index and leaves it with its best weights, in evaluation mode.

    Arguments:
        model: from `build`
        x_train: training data (n, ...) in the data's units
        x_valid: validation data (m, ...), for early stopping and the choice of weights
        recipe: how
        augment: change of (b, f) data that should leave c as it is; needed by ``invariance``
        folder: where to save; a training state found there is gone on from
        on_epoch: called with each epoch's record
        accelerator: ``auto`` (a CUDA device, or else the processor), ``cpu``, ``cuda`` or ``mps``

    Returns:
        One record an epoch: ``epoch`` (from 1), ``seconds``, means of the training terms, the
        one-hot bound ``valid_elbo_nats`` on the validation data (every category enumerated up to
        K = 100, one sampled for each example beyond) and its terms, ``components_used``.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: ``invariance`` without ``augment`` or for a model without a category, or no
            such accelerator.
    """
    histories = fit_together(
        [model],
        TrainingData(x_train, x_valid, augment),
        [recipe],
        [folder] if folder else None,
        folder,
        (lambda _, record: on_epoch(record)) if on_epoch else None,
        accelerator,
    )
    return histories[0]


def fit_together(
    models: Sequence[Model],
    data: TrainingData,
    recipes: Sequence[Recipe],
    folders: Sequence[RunFolder] | None = None,
    home: RunFolder | None = None,
    on_epoch: Callable[[int, Record], None] | None = None,
    accelerator: str = "auto",
    anew: bool = True,
) -> list[list[Record]]:
    """Trains several models as one, each as `fit` would have trained it alone.

    Each stops by its own patience. One that diverges stops there with its best weights, and the
    others go on.

    Arguments:
        models: built from one configuration, but for the seed
        data: what they are trained on
        recipes: one a model, the same but for the seed
        folders: where each keeps its history and its best weights
        home: where the training state of all is kept
        on_epoch: called with the index of a model and its epoch's record
        accelerator: as for `fit`
        anew: whether components are numbered by size in the end, and do not have numbers already

    Returns:
        The records of each model.

    Raises:
        Diverged: the loss of every model stopped being finite.
        ValueError: as for `fit`, or recipes that differ in more than the seed.
    """
    recipe = recipes[0]
    if any(dataclasses.replace(other, seed=recipe.seed) != recipe for other in recipes):
        raise ValueError("Models are trained together by one recipe: only the seeds may differ.")
    check_trainable(models[0], recipe, accelerator, data.augment)
    device = choose_device(accelerator)
    small = sum(p.numel() for m in models for p in m.parameters()) * recipe.batch_size < SMALL
    if recipe.precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        warnings.warn(
            "This processor has no instructions for bfloat16: float32 is likely to be faster.",
            stacklevel=2,
        )
    kernels = choose_kernels(device, recipe, len(data.train), small)
    seeds = [seeded.seed for seeded in recipes]
    engine = _engine(models, seeds, sample_of(data.train), recipe, data.augment, device, kernels)
    mine: Sequence[RunFolder | None] = folders or [None] * len(models)
    runs = [Run(*each) for each in zip(models, seeds, mine, strict=True)]
    group = Group(runs, engine, home)
    group.restore()
    if processes.size() > 1:
        settings = {"recipe": processes.digest(recipe, seeds), "data": digest_of(data.train)}
        valid = {"validation data": processes.digest(data.valid)}
        processes.check_same({**settings, **valid, **group.digests()})
    with torch_settings(device, small):
        _loop(group, data, recipe, on_epoch)
    for run in runs:
        run.finish(data.train, device, anew)
    return [run.history for run in runs]


def fit_one_pass(
    model: Model,
    x: Tensor,
    recipe: Recipe,
    epoch: int,
    state: dict[str, Tensor] | None = None,
    augment: Augment | None = None,
    accelerator: str = "auto",
) -> tuple[Record, dict[str, Tensor]]:
    """Trains ``model`` in index on one pass over ``x``, for data that comes in parts.

    Nothing is validated: the weights are kept as they are after the pass. Initial clusters, where
    there are some, are components of a mixture fitted to the part that comes after pretraining;
    later parts are assigned to them.

    Arguments:
        model: from `build`
        x: data (n, ...) in the data's units
        recipe: how
        epoch: passes that were taken before, which say where in its annealing the recipe is
        state: from the pass before
        augment: as for `fit`
        accelerator: as for `fit`

    Returns:
        The record of the pass, as `fit` has them but for the validation, and the state: of the
        optimiser, and the mixture.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: as for `fit`.
    """
    check_trainable(model, recipe, accelerator, augment)
    device = choose_device(accelerator)
    engine = _engine([model], [recipe.seed], x, recipe, augment, device, "plain")
    state = state or {}
    if state:
        engine.load_state(0, state)
    kept = under("mixture.", state)
    if recipe.pretraining_epochs and recipe.pretraining_epochs <= epoch < recipe.anneal_epochs:
        table = as_table(model, x)
        found = OverlapMixture(**kept) if kept else None
        found = found or overlap_mixture(table, model.n_components, stream(recipe.seed, "mixture"))
        kept = found._asdict()
        engine.set_initial(0, found.assign(table))
    phase = recipe.at(epoch)
    means = _of_each(engine.epoch(phase))[0]
    if not all(map(math.isfinite, means.values())):
        raise diverged(epoch + 1, recipe.learning_rate)
    model.eval()
    state = {key: value for key, value in engine.state(0).items() if key != "initial"}
    state |= {f"mixture.{key}": value for key, value in kept.items()}
    return {"epoch": epoch + 1, **_trained(means, model, phase)}, state


def check_trainable(
    model: Model, recipe: Recipe, accelerator: str, augment: Augment | None = None
) -> None:
    """Refuses what `fit` would refuse, for who must know before anything is written.

    Raises:
        ValueError: a recipe or an augmentation that does not fit the model, or an accelerator that
            is not here.
    """
    choose_device(accelerator)
    if recipe.invariance_weight and augment is None:
        raise ValueError(
            "invariance_weight weighs a term that needs an augmentation: give --invariance on the "
            "command line, CPVAE(invariance=...) in Python."
        )
    if augment and not model.likelihood.takes_missing:
        row = torch.zeros(1, math.prod(model.shape))
        if augment.change(row, torch.zeros(1, augment.n_random)).isnan().any():
            raise ValueError(
                "This augmentation makes values go missing, which a Bernoulli likelihood does not "
                "take: use the Gaussian likelihood."
            )
    for name in ("invariance_weight", "pretraining_epochs"):
        if getattr(recipe, name) and not model.has_categories:
            raise ValueError(f"{name} is about q(c|x): only the model 'cpvae' has one.")
    if recipe.precision == "bfloat16" and not model.likelihood.binarised:
        raise ValueError(
            "precision='bfloat16' has three digits, enough for the logits of data in [0, 1] and "
            "too few for the means of a Gaussian likelihood: use float32."
        )


def validation_data(model: Model, x: Float[Tensor, "m f"], seed: int) -> Float[Tensor, "r f"]:
    """Validation data as the model sees it, drawn once; small sets are drawn several times over."""
    generator = torch_stream(seed, "validation data", device=x.device)
    times = math.ceil(ENOUGH_VALIDATION / len(x))
    return model.likelihood.observe(x.repeat(times, 1), generator)


def validate(model: Model, observed: Float[Tensor, "r f"], seed: int) -> Record:
    """The one-hot bound under the same noise in every epoch, so that epochs compare.

    Where q(c|x) is spread over hundreds of categories, enumerating them would take longer than
    the epoch itself, and one is sampled.
    """
    model.eval()
    terms_of = exact_terms if model.n_components <= MOST_ENUMERATED else sampled_terms
    generator = torch_stream(seed, "validation", device=observed.device)
    if processes.size() > 1:
        return validated_together(model, observed, generator, terms_of)
    return validated(model, terms_of(model, observed, generator))


def validated_together(
    model: Model,
    observed: Float[Tensor, "r f"],
    generator: torch.Generator,
    terms_of: Callable[..., Terms],
) -> Record:
    """As `validated`, of what `terms_of` gives, with the chunks of data shared among processes."""
    k, mine = model.n_components, (processes.rank(), processes.size())
    sums = torch.zeros(k + 4, dtype=torch.float64, device=observed.device)
    if terms := terms_of(model, observed, generator, mine):
        qc = terms.log_qc.double().exp()
        entropy = -(qc * terms.log_qc.double()).nan_to_num().sum()
        each = [terms.log_px, terms.kl_z, terms.kl_c]
        sums += torch.stack([*qc.sum(0), *(t.double().sum() for t in each), entropy])
    means = processes.summed(sums) / len(observed)
    aggregated, (log_px, kl_z, kl_c, entropy) = means[:k], means[k:]
    model.aggregated.copy_(aggregated)
    return {
        "valid_elbo_nats": (log_px - kl_z - kl_c).item(),
        "valid_reconstruction_nats": log_px.item(),
        "valid_kl_z_nats": kl_z.item(),
        "valid_kl_c_nats": kl_c.item(),
        "valid_mutual_information_c_nats": (torch.special.entr(aggregated).sum() - entropy).item(),
        "components_used": components_used(aggregated),
    }


def validated(model: Model, terms: Terms, weight: Float[Tensor, "r 1"] | float = 1.0) -> Record:
    """The validation half of an epoch's record, of the terms of the validation data.

    ``weight`` is that of each row, with the mean 1.
    """
    aggregated = (weight * terms.log_qc.exp()).mean(0)
    each = torch.stack([terms.elbo(), *terms[:3]], 1)
    elbo, log_px, kl_z, kl_c = (weight * each).mean(0).tolist()
    model.aggregated.copy_(aggregated)  # until the end of the run takes it over the training data
    return {
        "valid_elbo_nats": elbo,
        "valid_reconstruction_nats": log_px,
        "valid_kl_z_nats": kl_z,
        "valid_kl_c_nats": kl_c,
        "valid_mutual_information_c_nats": mutual_information(terms.log_qc).item(),
        "components_used": components_used(aggregated),
    }


def _loop(
    group: Group,
    data: TrainingData,
    recipe: Recipe,
    on_epoch: Callable[[int, Record], None] | None,
) -> None:
    """Epochs until the last one or until every run's patience has ended."""
    runs, engine = group.runs, group.engine
    x_valid = data.valid.flatten(1).to(engine.device)
    valid = [validation_data(run.model, x_valid, run.seed) for run in runs]
    feed = Feed(data.train, engine, [r.model for r in runs], [r.seed for r in runs], recipe)
    started = time.monotonic() - max(run.seconds for run in runs)
    epoch = max(run.epoch for run in runs)
    for run in runs:
        lost = recipe.has_lost_patience(run.epoch, run.best_epoch)
        run.stopped = run.diverged or run.epoch < epoch or lost
    while epoch < recipe.max_epochs and not all(run.stopped for run in runs):
        if epoch == recipe.pretraining_epochs > 0 and isinstance(data.train, Tensor):
            group.initialise(data.train)
        feed.begin(epoch)
        phase = recipe.at(epoch)
        trained = _of_each(engine.epoch(phase))
        epoch += 1
        for index, run in enumerate(runs):
            if run.stopped:
                continue
            with run.averaged(min(epoch, recipe.averaging)):
                record = {
                    "epoch": epoch,
                    "seconds": time.monotonic() - started,
                    **_trained(trained[index], run.model, phase),
                    "weight_kl_z": phase.weights.kl_z,
                    "weight_kl_c": phase.weights.kl_c,
                    "temperature": phase.temperature,
                    **validate(run.model, valid[index], run.seed),
                }
                record = processes.from_first(lambda record=record: record)  # type: ignore[misc]
                _keep_or_stop(run, record, recipe)
            if on_epoch and not run.diverged:
                on_epoch(index, record)
        if all(run.diverged for run in runs):
            for run in runs:
                run.keep_best()
            raise diverged(epoch, recipe.learning_rate)
        group.save_sometimes()
    group.save()


def _keep_or_stop(run: Run, record: Record, recipe: Recipe) -> None:
    """Keeps an epoch's record, and stops the run where it diverged or lost patience."""
    if not math.isfinite(record["train_loss_nats"] + record["valid_elbo_nats"]):
        run.stopped = run.diverged = True
        return
    run.add(record)
    run.stopped = recipe.has_lost_patience(run.epoch, run.best_epoch)


def _of_each(means: Means) -> list[dict[str, float]]:
    """The means of each model, by name; all are read from the device at once."""
    rows = torch.stack(means).T.tolist()
    return [dict(zip(Means._fields, row, strict=True)) for row in rows]


def _trained(means: dict[str, float], model: Model, phase: Phase) -> Record:
    """The training half of an epoch's record."""
    expectation = phase.expectation if model.has_categories else "sampled"
    elbo = means["log_px"] - means["kl_z"] - means["kl_c"]
    return {
        "train_loss_nats": means["loss"],
        f"train_elbo_{expectation}_nats": elbo,
        "train_reconstruction_nats": means["log_px"],
        "train_kl_z_nats": means["kl_z"],
        "train_kl_c_nats": means["kl_c"],
        "train_invariance_nats": means["invariance"],
    }


def _engine(
    models: Sequence[Model],
    seeds: Sequence[int],
    x: Tensor,
    recipe: Recipe,
    augment: Augment | None,
    device: torch.device,
    kernels: str,
) -> Engine:
    """The engine of models on a device, with their data as they see it."""
    for model in models:
        model.to(device)
    train = models[0].likelihood.observe(x.flatten(1).to(device))
    for model, seed in zip(models, seeds, strict=True):
        if model.prior.starts_from_data:
            generator = torch_stream(seed, "pseudo-inputs", device=device)
            inputs = model.read(train)
            model.prior.start_from(inputs, generator)  # type: ignore[operator]  # it has one
    changes = augment if recipe.invariance_weight else None
    return Engine(models, seeds, train, recipe, changes, kernels)

"""How a model is optimised by a `Recipe`: one plain loop.

The loop keeps the averaged weights with the best one-hot bound on the validation data, whatever the
objective's weights and estimator are. Labels have no way in. On a CPU two equal runs are equal bit
for bit, and so are a run and the same run killed and resumed.
"""

import contextlib
import dataclasses
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.checkpoint import RunFolder, best_of
from cpvae.clustering.overlap import Pieces, pieces
from cpvae.data.augment import Augment
from cpvae.evaluation.metrics import cluster_probs, components_used, exact_terms, sampled_terms
from cpvae.models.base import ConditionalPriorVAE, Model
from cpvae.models.likelihoods import BernoulliLikelihood
from cpvae.models.priors import VampPrior
from cpvae.training.device import choose_device, has_bfloat16
from cpvae.training.engine import Engine
from cpvae.training.initialise import start, table_of
from cpvae.training.objective import Weights, mutual_information, ramp
from cpvae.training.recipe import Recipe

SAVE_EVERY = 5.0  # seconds between two saves of the training state, at least
RECORD = 3_000  # steps of a run from which recording one pays on a CPU, see `engine.Engine`
COMPILE = {
    "cpu": 8_000,
    "cuda": 50_000,
}  # and compiling one, where there is a compiler; 3x if small
SMALL = 2e7  # parameters times batch size under which a second thread costs more than it brings
SILENT = 100.0  # weight of KL(c) under which c says nothing
START = 10.0  # first weight of naming the category that an example starts in
ENUMERATED = 100  # categories up to which validation enumerates them; beyond it samples one
Record = dict[str, Any]


class Diverged(RuntimeError):
    """The loss or the weights stopped being finite; the last good weights were kept."""


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
    """Trains ``model`` in place and leaves it with its best weights, in evaluation mode.

    Arguments:
        model: from `models.build`
        x_train: training data (n, ...) in the user's units
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
        x_train,
        x_valid,
        [recipe],
        augment,
        [folder] if folder else None,
        folder,
        (lambda _, record: on_epoch(record)) if on_epoch else None,
        accelerator,
    )
    return histories[0]


def fit_together(
    models: Sequence[Model],
    x_train: Tensor,
    x_valid: Tensor,
    recipes: Sequence[Recipe],
    augment: Augment | None = None,
    folders: Sequence[RunFolder] | None = None,
    home: RunFolder | None = None,
    on_epoch: Callable[[int, Record], None] | None = None,
    accelerator: str = "auto",
) -> list[list[Record]]:
    """Trains several models as one, each as `fit` would have trained it alone.

    Each stops by its own patience. One that diverges stops there with its best weights, and the
    others go on.

    Arguments:
        models: built from one configuration, but for the seed
        x_train: as for `fit`
        x_valid: as for `fit`
        recipes: one a model, the same but for the seed
        augment: as for `fit`
        folders: where each keeps its history and its best weights
        home: where the training state of all is kept
        on_epoch: called with the place of a model and its epoch's record
        accelerator: as for `fit`

    Returns:
        The records of each model.

    Raises:
        Diverged: the loss of every model stopped being finite.
        ValueError: as for `fit`, or recipes that differ in more than the seed.
    """
    recipe = recipes[0]
    if any(dataclasses.replace(other, seed=recipe.seed) != recipe for other in recipes):
        raise ValueError("Models are trained together by one recipe: only the seeds may differ.")
    check(models[0], recipe, accelerator, augment)
    device = choose_device(accelerator)
    small = sum(p.numel() for m in models for p in m.parameters()) * recipe.batch_size < SMALL
    if recipe.precision == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        warnings.warn(
            "This processor has no instructions for bfloat16: float32 is likely to be faster.",
            stacklevel=2,
        )
    engine = _engine(
        models,
        [r.seed for r in recipes],
        x_train,
        recipe,
        augment,
        device,
        _kernels(device, recipe, len(x_train), small),
    )
    runs = [
        _Run(model, seeded.seed, folders[i] if folders else None)
        for i, (model, seeded) in enumerate(zip(models, recipes, strict=True))
    ]
    group = _Group(runs, engine, home)
    group.restore()
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if small:
        torch.set_num_threads(1)
    if device.type == "cuda":  # TensorFloat-32: three times the speed, the same bounds
        torch.set_float32_matmul_precision("high")
    try:
        _loop(group, x_train, x_valid.flatten(1).to(device), recipe, on_epoch)
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
    for run in runs:
        run.finish(x_train.flatten(1), device)
    return [run.history for run in runs]


def one_pass(
    model: Model,
    x: Tensor,
    recipe: Recipe,
    epoch: int,
    state: dict[str, Tensor] | None = None,
    augment: Augment | None = None,
    accelerator: str = "auto",
) -> tuple[Record, dict[str, Tensor]]:
    """Trains ``model`` in place on one pass over ``x``, for data that comes in parts.

    Nothing is validated: the weights are kept as they are after the pass. Categories that start do
    so at `pieces` of the part that comes then, and so do the parts after it.

    Arguments:
        model: from `models.build`
        x: data (n, ...) in the user's units
        recipe: how
        epoch: passes that were taken before, which say where in its annealing the recipe is
        state: from the pass before
        augment: as for `fit`
        accelerator: as for `fit`

    Returns:
        The record of the pass, as `fit` has them but for the validation, and the state: of the
        optimiser, and the pieces.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: as for `fit`.
    """
    check(model, recipe, accelerator, augment)
    device = choose_device(accelerator)
    engine = _engine([model], [recipe.seed + epoch], x, recipe, augment, device, "plain")
    state = state or {}
    if state:
        engine.load_state(0, {**state, "generator": engine.generators[0].get_state()})
    kept = _under("pieces.", state)
    if recipe.start_epochs and recipe.start_epochs <= epoch < recipe.anneal_epochs:
        assert isinstance(model, ConditionalPriorVAE)  # `check` refuses others
        table = table_of(model, x)
        found = Pieces(**kept) if kept else pieces(table, model.n_components, recipe.seed)
        kept = found._asdict()
        engine.set_start(0, found.of(table))
    estimator = _estimator(recipe, epoch)
    engine.set_estimator(estimator)
    weights, temperature = _schedule(recipe, epoch)
    (trained,) = torch.stack(engine.epoch(weights, temperature)).T.tolist()
    if not all(map(math.isfinite, trained)):
        raise Diverged(_divergence(epoch + 1, recipe))
    model.eval()
    state = {key: value for key, value in engine.state(0).items() if key != "start"}
    state |= {f"pieces.{key}": value for key, value in kept.items()}
    return {"epoch": epoch + 1, **_trained(trained, model, estimator)}, state


def still_rising(history: Sequence[Record], recipe: Recipe) -> float:
    """Nats by which the bound rose in the last tenth of a run that ended at its last epoch.

    0 where the run stopped by itself, or where it is less than a two-hundredth of all it rose.
    """
    bounds = [record["valid_elbo_nats"] for record in history]
    if len(bounds) < max(2, recipe.max_epochs):
        return 0.0
    best = max(bounds)
    rise = best - max(bounds[: max(1, 9 * len(bounds) // 10)])
    return rise if rise > 0.005 * (best - min(bounds)) else 0.0


def overfitted(history: Sequence[Record], recipe: Recipe) -> int:
    """Epoch of the best bound, where categories start and it came before the annealing had ended.

    The model then learned its examples by heart before its components were formed. Else 0.
    """
    best = best_of(history, recipe.start_epochs)
    if not recipe.start_epochs or not best or len(history) <= recipe.anneal_epochs:
        return 0
    return best["epoch"] if best["epoch"] < recipe.anneal_epochs else 0


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
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    for model, generator in zip(models, generators, strict=True):
        if isinstance(model.prior, VampPrior) and model.prior.from_data:
            model.prior.start_from(model.likelihood.inputs(train), generator)
    return Engine(
        models,
        generators,
        train,
        recipe.batch_size,
        recipe.learning_rate,
        recipe.estimator,
        augment if recipe.invariance else None,
        kernels=kernels,
        precision=recipe.precision,
        starts=recipe.start_epochs > 0,
    )


def check(model: Model, recipe: Recipe, accelerator: str, augment: Augment | None = None) -> None:
    """Refuses what `fit` would refuse, for who must know before anything is written.

    Raises:
        ValueError: a recipe or an augmentation that does not fit the model, or an accelerator that
            is not here.
    """
    choose_device(accelerator)
    if recipe.invariance and augment is None:
        raise ValueError("The invariance term needs an augment function: see cpvae.data.augment.")
    if augment and not model.likelihood.takes_missing:
        row = torch.zeros(1, math.prod(model.shape))
        if augment.change(row, torch.zeros(1, augment.n_random)).isnan().any():
            raise ValueError(
                "This augmentation makes values go missing, which a Bernoulli likelihood does not "
                "take: use the Gaussian likelihood."
            )
    for name, asked in (("invariance", recipe.invariance), ("start_epochs", recipe.start_epochs)):
        if asked and not isinstance(model, ConditionalPriorVAE):
            raise ValueError(f"{name} is about q(c|x): only the model 'cpvae' has one.")
    if recipe.precision == "bfloat16" and not isinstance(model.likelihood, BernoulliLikelihood):
        raise ValueError(
            "precision='bfloat16' has three digits, enough for the logits of data in [0, 1] and "
            "too few for the means of a Gaussian likelihood: use float32."
        )


def _kernels(device: torch.device, recipe: Recipe, n: int, small: bool) -> str:
    """How the engine runs a step: by what the run is long enough for and the machine can do."""
    steps = recipe.max_epochs * n / recipe.batch_size
    compiler = {
        "cpu": os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++"),
        "cuda": find_spec("triton"),
    }
    if compiler.get(device.type) and steps >= COMPILE[device.type] * (3 if small else 1):
        return "compiled"
    return "recorded" if steps >= RECORD and device.type == "cpu" else "plain"


def _loop(
    group: "_Group",
    x_train: Tensor,
    x_valid: Float[Tensor, "m f"],
    recipe: Recipe,
    on_epoch: Callable[[int, Record], None] | None,
) -> None:
    """Epochs until the last one or until every run's patience has ended."""
    runs, engine = group.runs, group.engine
    valid = [_validation(run.model, x_valid, run.seed) for run in runs]
    started = time.monotonic() - max(run.seconds for run in runs)
    epoch = max(run.epoch for run in runs)
    for run in runs:
        run.stopped = run.diverged or run.epoch < epoch or _stale(run, recipe)
    while epoch < recipe.max_epochs and not all(run.stopped for run in runs):
        if epoch == recipe.start_epochs > 0:
            group.start(x_train)
        estimator = _estimator(recipe, epoch)
        engine.set_estimator(estimator)
        weights, temperature = _schedule(recipe, epoch)
        means = engine.epoch(weights, temperature)
        trained = torch.stack(means).T.tolist()
        epoch += 1
        for place, run in enumerate(runs):
            if run.stopped:
                continue
            with run.averaged(min(epoch, recipe.averaging)):
                record = {
                    "epoch": epoch,
                    "seconds": time.monotonic() - started,
                    **_trained(trained[place], run.model, estimator),
                    "weight_kl_z": weights.kl_z,
                    "weight_kl_c": weights.kl_c,
                    "temperature": temperature,
                    **_validate(run.model, valid[place], run.seed),
                }
                if math.isfinite(record["train_loss_nats"] + record["valid_elbo_nats"]):
                    run.add(record)
                    run.stopped = _stale(run, recipe)
                else:
                    run.stopped = run.diverged = True
            if on_epoch and not run.diverged:
                on_epoch(place, record)
        if all(run.diverged for run in runs):
            for run in runs:
                run.keep_best()
            raise Diverged(_divergence(epoch, recipe))
        group.save_sometimes()
    group.save()


def _estimator(recipe: Recipe, epoch: int) -> str:
    return "exact" if 0 < recipe.exact_after <= epoch else recipe.estimator


def _trained(means: Sequence[float], model: Model, estimator: str) -> Record:
    loss, log_px, kl_z, kl_c, moved = means  # as in `engine.Means`
    if not isinstance(model, ConditionalPriorVAE):
        estimator = "sampled"
    return {
        "train_loss_nats": loss,
        f"train_elbo_{estimator}_nats": log_px - kl_z - kl_c,
        "train_reconstruction_nats": log_px,
        "train_kl_z_nats": kl_z,
        "train_kl_c_nats": kl_c,
        "train_invariance_nats": moved,
    }


def _schedule(recipe: Recipe, epoch: int) -> tuple[Weights, float]:
    """Weights and temperature of an epoch; all move on straight lines over the annealing."""

    def value(start: float, end: float) -> float:
        return ramp(epoch, start, end, recipe.anneal_epochs)

    asked = value(START, 0.0) if epoch >= recipe.start_epochs > 0 else 0.0
    weights = Weights(
        kl_z=value(recipe.kl_z_start, 1.0),
        kl_c=SILENT if epoch < recipe.start_epochs else value(recipe.kl_c_start, 1.0),
        invariance=recipe.invariance,
        balance=recipe.balance,
        certainty=value(1.0, recipe.certainty),
        start=asked,
        piece=max(0.0, 2 * asked - START),
    )
    return weights, value(recipe.temperature_start, recipe.temperature_end)


def _validation(model: Model, x: Float[Tensor, "m f"], seed: int) -> Float[Tensor, "r f"]:
    """Validation data as the model sees it, drawn once; small sets are drawn several times over."""
    generator = torch.Generator(x.device).manual_seed(seed)
    return model.likelihood.observe(x.repeat(math.ceil(500 / len(x)), 1), generator)


def _validate(model: Model, observed: Float[Tensor, "r f"], seed: int) -> Record:
    """The one-hot bound under the same noise in every epoch, so that epochs compare.

    Where q(c|x) is spread over hundreds of categories, enumerating them would take longer than
    the epoch itself.
    """
    model.eval()
    terms_of = exact_terms if model.n_components <= ENUMERATED else sampled_terms
    terms = terms_of(model, observed, torch.Generator(observed.device).manual_seed(seed))
    aggregated = terms.log_qc.exp().mean(0)
    model.aggregated.copy_(aggregated)  # until the end of the run takes it over the training data
    return {
        "valid_elbo_nats": terms.elbo().mean().item(),
        "valid_reconstruction_nats": terms.log_px.mean().item(),
        "valid_kl_z_nats": terms.kl_z.mean().item(),
        "valid_kl_c_nats": terms.kl_c.mean().item(),
        "valid_mutual_information_c_nats": mutual_information(terms.log_qc).item(),
        "components_used": components_used(aggregated),
    }


def _stale(run: "_Run", recipe: Recipe) -> bool:
    counted_from = max(run.best_epoch, recipe.anneal_epochs, recipe.exact_after)
    return run.epoch - counted_from >= recipe.patience


def _divergence(epoch: int, recipe: Recipe) -> str:
    return (
        f"The loss stopped being finite in epoch {epoch}; the best weights before it were kept. "
        f"Likely causes: a learning rate that is too high (it is {recipe.learning_rate:g}; try "
        f"{recipe.learning_rate / 3:.1g}), or features with extreme values (rescale or clip them)."
    )


class _Run:
    """What changes of one model during its training."""

    def __init__(self, model: Model, seed: int, folder: RunFolder | None):
        self.model, self.seed, self.folder = model, seed, folder
        self.history: list[Record] = []
        self.best_epoch, self.best_elbo = 0, -math.inf
        self.best = self.weights()
        self.average = {key: p.detach().clone() for key, p in model.named_parameters()}
        self.stopped = self.diverged = False

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def seconds(self) -> float:
        return self.history[-1]["seconds"] if self.history else 0.0

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers."""
        return {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    @contextlib.contextmanager
    def averaged(self, window: int) -> Iterator[None]:
        """The model with the average of its weights, these ones counted in as one of ``window``."""
        for key, parameter in self.model.named_parameters():
            self.average[key].lerp_(parameter.detach(), 1 / window)
        with self._weights_of(self.average):
            yield

    @contextlib.contextmanager
    def _weights_of(self, parameters: dict[str, Tensor]) -> Iterator[None]:
        """The model with these for its own parameters."""
        own = {key: p.detach().clone() for key, p in self.model.named_parameters()}
        self._put(parameters)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, parameters: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for key, parameter in self.model.named_parameters():
                parameter.copy_(parameters[key])

    @contextlib.contextmanager
    def starting(self) -> Iterator[ConditionalPriorVAE]:
        """The model as averaged so far; what was best before there are categories is past."""
        self.best_epoch, self.best_elbo = 0, -math.inf
        assert isinstance(self.model, ConditionalPriorVAE)  # no other model has categories
        with self._weights_of(self.average):
            self.model.eval()
            yield self.model

    def add(self, record: Record) -> None:
        """Takes an epoch's record, and the weights if they are the best so far."""
        self.history.append(record)
        if record["valid_elbo_nats"] > self.best_elbo:
            self.best_epoch, self.best_elbo = record["epoch"], record["valid_elbo_nats"]
            self.best = self.weights()
        if self.folder:
            self.folder.append_history(record)

    def keep_best(self) -> None:
        """Puts the best weights into the model and into the folder."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        if self.folder:
            self.folder.write_model(self.best)

    def finish(self, x_train: Float[Tensor, "n f"], device: torch.device) -> None:
        """Takes the best weights, and stores the aggregated posterior with them (eq. 14)."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        self.model.aggregated.copy_(cluster_probs(self.model, x_train.to(device)).mean(0))
        self.best = self.weights()
        self.keep_best()


class _Group:
    """The runs that are trained together, and their way to the run folder and back.

    The state of all is one file, so that a kill at any moment leaves all at the same epoch.
    """

    def __init__(self, runs: Sequence[_Run], engine: Engine, home: RunFolder | None):
        self.runs, self.engine, self.home = list(runs), engine, home
        self.saved_at = -math.inf
        self.took = 0.0

    def start(self, x_train: Tensor) -> None:
        """Gives every example the categories that it may start in, in every run that goes on."""
        # The codes of one that diverged are no numbers
        going = [place for place, run in enumerate(self.runs) if not run.stopped]
        with contextlib.ExitStack() as stack:
            models = [stack.enter_context(self.runs[place].starting()) for place in going]
            found = start(models, x_train, [self.runs[place].seed for place in going])
        for place, categories in zip(going, found, strict=True):
            self.engine.set_start(place, categories)

    def save_sometimes(self) -> None:
        """Saves when the last save is some seconds old, and ten times what it took."""
        if time.monotonic() - self.saved_at > max(SAVE_EVERY, 10 * self.took):
            self.save()

    def save(self) -> None:
        """Writes the training state, then the best weights."""
        if not self.home:
            return
        started = time.monotonic()
        tensors: dict[str, Tensor] = {}
        progress = []
        for place, run in enumerate(self.runs):
            state = {f"last.{key}": value for key, value in run.model.state_dict().items()}
            state |= {f"best.{key}": value for key, value in run.best.items()}
            state |= {f"average.{key}": value for key, value in run.average.items()}
            state |= {f"engine.{key}": value for key, value in self.engine.state(place).items()}
            tensors |= {f"{place}.{key}": value for key, value in state.items()}
            fields = ("epoch", "best_epoch", "best_elbo", "diverged")
            progress.append({key: getattr(run, key) for key in fields})
        self.home.write_training(tensors, {"runs": progress})
        for run in self.runs:
            if run.folder:
                run.folder.write_model(run.best)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - started

    def restore(self) -> None:
        """Goes back to the training state in the folder, if there is one."""
        stored = self.home.read_training() if self.home else None
        if not stored:
            for run in self.runs:
                if run.folder:
                    run.folder.write_history([])
            return
        tensors, progress = stored
        if len(progress.get("runs", [])) != len(self.runs):
            raise ValueError(
                "The run folder holds the training of another number of models: fit again into "
                "another folder."
            )
        for place, (run, kept) in enumerate(zip(self.runs, progress["runs"], strict=True)):
            self._restore_run(run, kept)
            mine = _under(f"{place}.", tensors)
            run.model.load_state_dict(_under("last.", mine))
            device = self.engine.device
            run.best = {k: v.to(device) for k, v in _under("best.", mine).items()}
            averages = _under("average.", mine)
            for key, average in run.average.items():  # older states have none: begin at the weights
                average.copy_(averages.get(key, run.model.get_parameter(key)))
            self.engine.load_state(place, _under("engine.", mine))

    def _restore_run(self, run: _Run, kept: dict[str, Any]) -> None:
        if run.folder:
            run.history = run.folder.read_history()[: kept["epoch"]]
            if len(run.history) < kept["epoch"]:
                raise ValueError(
                    f"{run.folder.path} is damaged: its history ends before epoch "
                    f"{kept['epoch']}, which was saved. Fit again into another folder."
                )
            run.folder.write_history(run.history)
        for key in ("best_epoch", "best_elbo", "diverged"):
            setattr(run, key, kept[key])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

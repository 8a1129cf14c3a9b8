"""How a model is optimised: a flat recipe and one plain loop.

The loop keeps the weights with the best one-hot bound on the validation data, whatever the
objective's weights and estimator are. Labels have no way in. On a CPU two equal runs are equal bit
for bit, and so are a run and the same run killed and resumed.
"""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from cpvae.augment import Augment
from cpvae.checkpoint import RunFolder
from cpvae.evaluate import cluster_probs, components_used, draw_noise, exact_terms
from cpvae.models import ESTIMATORS, Model
from cpvae.objective import (
    Weights,
    conditional_entropy,
    evenness,
    invariance,
    loss,
    mutual_information,
    ramp,
)

SAVE_EVERY = 5.0  # seconds between two saves of the training state, at least
SMALL = 2e7  # parameters times batch size under which a second thread costs more than it brings
MEMORY = 0.95  # what a step keeps of the running mean of q(c|x)
Record = dict[str, Any]


class Diverged(RuntimeError):
    """The loss or the weights stopped being finite; the last good weights were kept."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about the optimisation that is not the model or the data.

    Arguments:
        max_epochs: passes over the data at most
        batch_size: examples a step
        learning_rate: of Adam
        estimator: of the expectation over c in training, see `ConditionalPriorVAE.terms`
        anneal_epochs: epochs over which the weights of the KL terms and the temperature go from
            their start to their end
        kl_z_start: first weight of KL(z); above 1 makes z dear, so that c carries what it can
        kl_c_start: first weight of KL(c)
        temperature_start: first temperature of the Gumbel-Softmax
        temperature_end: last temperature
        invariance: weight of KL(q(c|x) || q(c|T(x))) under a change T of x; 0 leaves this term and
            the two below out
        balance: weight of a reward for using all categories evenly
        certainty: last weight of a charge for being unsure of the category. It starts at 1, where
            it cancels the bound's own reward for being unsure, and rises over the annealing:
            categories that are sure too early are the wrong ones
        patience: epochs without a better validation bound, after the annealing, that end the run
        seed: of weights, order, noise and binarisation

    Raises:
        ValueError: a value that is out of range, with the range.
    """

    max_epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    estimator: str = "straight_through"
    anneal_epochs: int = 10
    kl_z_start: float = 6.0
    kl_c_start: float = 1.0
    temperature_start: float = 1.0
    temperature_end: float = 0.5
    invariance: float = 0.0
    balance: float = 8.0
    certainty: float = 3.0
    patience: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_epochs", "batch_size", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: use a whole number from 1 up.")
        for name in ("learning_rate", "temperature_start", "temperature_end"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: use a number above 0.")
        non_negative = ("anneal_epochs", "kl_z_start", "kl_c_start", "seed")
        for name in (*non_negative, "invariance", "balance", "certainty"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: use 0 or a number above.")
        if self.estimator not in ESTIMATORS:
            raise ValueError(f"estimator={self.estimator!r}: choose from {', '.join(ESTIMATORS)}.")


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
        accelerator: ``auto``, ``cpu``, ``cuda``, ``mps``, as lightning-fabric names them

    Returns:
        One record an epoch: ``epoch`` (from 1), ``seconds``, means of the training terms, the
        validation bound ``valid_elbo_exact_nats`` and its terms, ``components_used``.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: ``invariance`` without ``augment``.
    """
    if recipe.invariance and augment is None:
        raise ValueError("The invariance term needs an augment function: see cpvae.augment.")
    fabric = Fabric(accelerator=accelerator, devices=1)
    wrapped, optimizer = set_up(fabric, model, recipe)
    run = _Run(model, optimizer, torch.Generator(fabric.device).manual_seed(recipe.seed), folder)
    run.restore()
    threads = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) * recipe.batch_size < SMALL:
        torch.set_num_threads(1)
    try:
        _loop(fabric, wrapped, optimizer, run, x_train, x_valid, recipe, augment, on_epoch)
    finally:
        torch.set_num_threads(threads)
    return run.history


def _loop(
    fabric: Fabric,
    wrapped: Any,
    optimizer: Any,
    run: "_Run",
    x_train: Tensor,
    x_valid: Tensor,
    recipe: Recipe,
    augment: Augment | None,
    on_epoch: Callable[[Record], None] | None,
) -> None:
    """Epochs until the last one or until patience ends."""
    model = run.model
    train = fabric.to_device(x_train.flatten(1))
    valid = _validation(model, fabric.to_device(x_valid.flatten(1)), recipe.seed)
    started = time.monotonic() - run.seconds
    while run.epoch < recipe.max_epochs and not _stale(run, recipe):
        epoch = run.epoch
        model.train()
        sums = train_epoch(fabric, wrapped, optimizer, train, recipe, epoch, augment, run.generator)
        record = {"epoch": epoch + 1, "seconds": time.monotonic() - started, **sums}
        record |= _validate(model, valid, recipe.seed)
        if not math.isfinite(record["train_loss_nats"] + record["valid_elbo_exact_nats"]):
            run.keep_best()
            raise Diverged(_divergence(epoch + 1, recipe))
        run.add(record)
        if on_epoch:
            on_epoch(record)
    run.finish(train)


def set_up(fabric: Fabric, model: Model, recipe: Recipe) -> tuple[Any, Any]:
    """The model on its device, and its optimizer, both wrapped by fabric."""
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)
    wrapped, optimizer = fabric.setup(model, optimizer)
    for method in ("terms", "infer"):
        wrapped.mark_forward_method(method)
    return wrapped, optimizer


def train_epoch(
    fabric: Fabric,
    model: Any,
    optimizer: Any,
    x: Float[Tensor, "n f"],
    recipe: Recipe,
    epoch: int,
    augment: Augment | None,
    generator: torch.Generator,
) -> Record:
    """One pass over the data in random order; means of the terms, read once at the end."""
    weights, temperature = _schedule(recipe, epoch)
    likelihood = model.module.likelihood
    usage = model.module.aggregated.clone()  # of the last epoch, even before the first
    sums = torch.zeros(6, device=x.device)
    order = torch.randperm(len(x), generator=generator, device=x.device)
    for index in order.split(recipe.batch_size):
        batch = x[index]
        noise = draw_noise(model.module, len(batch), generator)
        observed = likelihood.observe(batch, generator)
        terms = model.terms(observed, noise, temperature, recipe.estimator)
        objective = loss(terms, weights)
        moved = torch.zeros((), device=x.device)
        if weights.invariance and augment:
            _, log_qc_moved = model.infer(likelihood.observe(augment(batch, generator), generator))
            moved = invariance(terms.log_qc, log_qc_moved)
            objective = objective + weights.invariance * moved
            usage = MEMORY * usage + (1 - MEMORY) * terms.log_qc.detach().exp().mean(0)
            objective = objective - weights.balance * evenness(terms.log_qc, usage)
            objective = objective + weights.certainty * conditional_entropy(terms.log_qc)
        optimizer.zero_grad()
        fabric.backward(objective)
        optimizer.step()
        means = (objective, terms.elbo().mean(), *(t.mean() for t in terms[:3]), moved)
        sums += torch.stack([m.detach() for m in means]) * len(batch)
    loss_, elbo, log_px, kl_z, kl_c, moved_ = (sums / len(x)).tolist()
    return {
        "train_loss_nats": loss_,
        f"train_elbo_{recipe.estimator}_nats": elbo,
        "train_reconstruction_nats": log_px,
        "train_kl_z_nats": kl_z,
        "train_kl_c_nats": kl_c,
        "train_invariance_nats": moved_,
        "weight_kl_z": weights.kl_z,
        "weight_kl_c": weights.kl_c,
        "temperature": temperature,
    }


def _schedule(recipe: Recipe, epoch: int) -> tuple[Weights, float]:
    """Weights and temperature of an epoch; all move on straight lines over the annealing."""

    def value(start: float, end: float) -> float:
        return ramp(epoch, start, end, recipe.anneal_epochs)

    weights = Weights(
        kl_z=value(recipe.kl_z_start, 1.0),
        kl_c=value(recipe.kl_c_start, 1.0),
        invariance=recipe.invariance,
        balance=recipe.balance,
        certainty=value(1.0, recipe.certainty),
    )
    return weights, value(recipe.temperature_start, recipe.temperature_end)


def _validation(model: Model, x: Float[Tensor, "m f"], seed: int) -> Float[Tensor, "r f"]:
    """Validation data as the model sees it, drawn once; small sets are drawn several times over."""
    generator = torch.Generator(x.device).manual_seed(seed)
    return model.likelihood.observe(x.repeat(math.ceil(500 / len(x)), 1), generator)


def _validate(model: Model, observed: Float[Tensor, "r f"], seed: int) -> Record:
    """The one-hot bound under the same noise in every epoch, so that epochs compare."""
    model.eval()
    terms = exact_terms(model, observed, torch.Generator(observed.device).manual_seed(seed))
    aggregated = terms.log_qc.exp().mean(0)
    model.aggregated.copy_(aggregated)  # until the end of the run takes it over the training data
    return {
        "valid_elbo_exact_nats": terms.elbo().mean().item(),
        "valid_reconstruction_nats": terms.log_px.mean().item(),
        "valid_kl_z_nats": terms.kl_z.mean().item(),
        "valid_kl_c_nats": terms.kl_c.mean().item(),
        "valid_mutual_information_c_nats": mutual_information(terms.log_qc).item(),
        "components_used": components_used(aggregated),
    }


def _stale(run: "_Run", recipe: Recipe) -> bool:
    return run.epoch - max(run.best_epoch, recipe.anneal_epochs) >= recipe.patience


def _divergence(epoch: int, recipe: Recipe) -> str:
    return (
        f"The loss stopped being finite in epoch {epoch}; the best weights before it were kept. "
        f"Likely causes: a learning rate that is too high (it is {recipe.learning_rate:g}; try "
        f"{recipe.learning_rate / 3:.1g}), or features with extreme values (rescale or clip them)."
    )


class _Run:
    """What changes during a run, and its way to the run folder and back."""

    def __init__(
        self,
        model: Model,
        optimizer: Any,
        generator: torch.Generator,
        folder: RunFolder | None,
    ):
        self.model, self.optimizer, self.generator = model, optimizer, generator
        self.folder = folder
        self.history: list[Record] = []
        self.best_epoch, self.best_elbo = 0, -math.inf
        self.best = self._weights()
        self.saved_at = -math.inf

    @property
    def epoch(self) -> int:
        return len(self.history)

    @property
    def seconds(self) -> float:
        return self.history[-1]["seconds"] if self.history else 0.0

    def _weights(self) -> dict[str, Tensor]:
        return {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def add(self, record: Record) -> None:
        """Takes an epoch's record; saves when the last save is some seconds old."""
        self.history.append(record)
        if record["valid_elbo_exact_nats"] > self.best_elbo:
            self.best_epoch, self.best_elbo = record["epoch"], record["valid_elbo_exact_nats"]
            self.best = self._weights()
        if self.folder:
            self.folder.append_history(record)
            if time.monotonic() - self.saved_at > SAVE_EVERY:
                self.save()

    def save(self) -> None:
        """Writes the training state, then the best weights."""
        if not self.folder:
            return
        optimizer = self.optimizer.state_dict()["state"]
        tensors = {f"last.{key}": value for key, value in self.model.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self.best.items()}
        for index, state in optimizer.items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
        tensors["generator"] = self.generator.get_state()
        progress = {key: getattr(self, key) for key in ("epoch", "best_epoch", "best_elbo")}
        self.folder.write_training(tensors, progress)
        self.folder.write_model(self.best)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Goes back to the training state in the folder, if there is one."""
        if not self.folder:
            return
        stored = self.folder.read_training()
        if not stored:
            self.folder.write_history([])
            return
        tensors, progress = stored
        self.history = self.folder.read_history()[: progress["epoch"]]
        if len(self.history) < progress["epoch"]:
            raise ValueError(
                f"{self.folder.path} is damaged: its history ends before epoch "
                f"{progress['epoch']}, which was saved. Fit again into another folder."
            )
        self.folder.write_history(self.history)
        self.best_epoch, self.best_elbo = progress["best_epoch"], progress["best_elbo"]
        self.model.load_state_dict(_under("last.", tensors))
        self.best = _under("best.", tensors)
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, key = name.split(".")
            states.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": states, "param_groups": groups})
        self.generator.set_state(tensors["generator"])

    def keep_best(self) -> None:
        """Puts the best weights into the model and into the folder."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        if self.folder:
            self.folder.write_model(self.best)

    def finish(self, x_train: Float[Tensor, "n f"]) -> None:
        """Saves, takes the best weights, and stores the aggregated posterior with them (eq. 14)."""
        self.save()
        self.model.load_state_dict(self.best)
        self.model.eval()
        self.model.aggregated.copy_(cluster_probs(self.model, x_train).mean(0))
        self.best = self._weights()
        self.keep_best()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

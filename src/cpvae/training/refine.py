"""Training of a model that starts as a mixture of the data (`models.residual`).

The mixture is the first candidate: its bound is its log-likelihood. Training goes on while held-out
rows gain by it and ends early where they do not, and the mixture is left only where the gain is
more than its standard error. Some hundred steps of large batches do, in a minute, so a run that was
stopped begins again.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cpvae.checkpoint import RunFolder
from cpvae.models.base import Terms
from cpvae.models.inference import exact_terms
from cpvae.models.pairs import Pairs, pairs_of
from cpvae.models.residual import Prepared, ResidualCPVAE
from cpvae.streams import stream, torch_stream
from cpvae.training.device import choose_device
from cpvae.training.diagnosis import Record, diverged
from cpvae.training.loop import TrainingData, torch_settings, validated, validation_data
from cpvae.training.processes import (
    check_same,
    digest,
    from_first,
    share,
    size,
    summed,
    weighted_sum,
)
from cpvae.training.recipe import Recipe
from cpvae.training.rows import Rows, digest_of, of_epoch, to_start
from cpvae.training.start import start_as_mixture, start_on_all
from cpvae.training.state import Run

EVERY = 25  # steps between two validations, at least
LIKELY = 1e-3  # training enumerates no category of an example that is less probable
TRIAL = 0.1  # of a run, from which on it ends where nothing is gained
LONG_TRIAL = 0.35  # the same where an epoch has several batches: gains show late, at full rate
MOST_GRADIENT = 10.0  # norm that gradients are clipped to
AGREE = 2.0  # weight of the agreement of draws with their component
DECAY = 0.01  # of all weights; of the networks' it goes towards the mixture


def refine(
    model: ResidualCPVAE,
    data: TrainingData,
    recipe: Recipe,
    folder: RunFolder | None = None,
    on_epoch: Callable[[Record], None] | None = None,
    accelerator: str = "auto",
    anew: bool = True,
) -> list[Record]:
    """Makes ``model`` the mixture of the data, trains it, and leaves it with its best weights.

    Arguments:
        model: from `build`
        data: what it is trained on
        recipe: ``max_epochs``, ``batch_size``, ``learning_rate``, ``patience`` and ``seed`` of it
        folder: where to save
        on_epoch: called with each record
        accelerator: as for `loop.fit`
        anew: whether the model becomes the mixture first; else it goes on from where it is

    Returns:
        Records as those of `loop.fit`, of epochs that are `EVERY` steps apart or more. The first is
        of epoch 0, the mixture. ``gain_nats`` is what held-out rows gained over it, and
        ``gain_se_nats`` the standard error of that; ``counts`` is false where it is not exceeded.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: no such accelerator.
    """
    device, started = choose_device(accelerator), time.monotonic()
    x_valid, x_start = data.valid.flatten(1), to_start(data.train).flatten(1)
    of_train, of_valid = data.row_weights or (None, None)
    run = Run(model, recipe.seed, folder)
    if folder:
        folder.write_history([])
    with torch_settings(device, small=True):
        if anew:
            start = from_first(
                lambda: start_as_mixture(model, x_start, recipe.seed, of_train, data.start)
            )
            model.load_state_dict(from_first(model.state_dict))
        model.to(device)
        _check_same(data, recipe, model)
        held_out = HeldOut(model, x_valid.to(device), recipe.seed, of_valid)
        train = model.likelihood.observe(x_start.to(device))
        first = exact_terms(model, train, torch_stream(recipe.seed, "training", 0, device))
        weight = None if of_train is None else of_train.to(train)
        epochs = _epochs(model, data.train, recipe, weight)
        for epoch, trained in chain([(0, _record(_weighted(first, weight)))], epochs):
            record = {"epoch": epoch, "seconds": time.monotonic() - started, **trained}
            record = from_first(lambda epoch=epoch, r=record: r | held_out.validate())  # type: ignore[misc]
            if not math.isfinite(record["train_loss_nats"] + record["valid_elbo_nats"]):
                run.keep_best()
                raise diverged(epoch, recipe.learning_rate)
            run.add(record)
            if on_epoch:
                on_epoch(record)
            if _is_over(run, recipe, len(data.train) > recipe.batch_size):
                break
        if anew and run.best_epoch == 0:  # so no row needs to be held out
            both = data.row_weights and torch.cat(data.row_weights)
            start_on_all(model, torch.cat([x_start, x_valid]), start, both)
            model.load_state_dict(from_first(model.state_dict))
            run.best = run.weights()
        run.finish(data.train, device, anew and data.start is None, of_train)
    return run.history


def refine_one_pass(
    model: ResidualCPVAE, x: Float[Tensor, "n f"], recipe: Recipe, epoch: int, accelerator: str
) -> Record:
    """Trains a fitted model on one more pass over ``x`` (n, f), for data that comes in parts.

    Nothing is validated. ``epoch`` is the number of passes before; the record is as `refine` has
    them, but for the validation.

    Raises:
        Diverged: the loss stopped being finite.
        ValueError: no such accelerator.
    """
    device = choose_device(accelerator)
    once = dataclasses.replace(recipe, max_epochs=1, seed=stream(recipe.seed, "training", epoch))
    model.to(device)
    with torch_settings(device, small=True):
        *_, (_, trained) = _epochs(model, x, once)
    if not math.isfinite(trained["train_loss_nats"]):
        raise diverged(epoch + 1, recipe.learning_rate)
    model.eval()
    return {"epoch": epoch + 1, **trained}


class HeldOut:
    """The bound of held-out rows under the same noise in every epoch, beside the mixture's.

    Arguments:
        model: as the mixture
        x: held-out rows (m, f) in the data's units
        seed: of the noise
        weight: of the rows, with the mean 1
    """

    def __init__(
        self,
        model: ResidualCPVAE,
        x: Float[Tensor, "m f"],
        seed: int,
        weight: Float[Tensor, " m"] | None = None,
    ):
        self.model, self.seed, self.n = model, seed, len(x)
        self.weight = torch.ones(len(x)) if weight is None else weight
        self.observed = validation_data(model, x, seed)
        self.of_mixture = self._of_each(self._terms())

    def validate(self) -> Record:
        """The validation half of a record."""
        terms = self._terms()
        gain = self._of_each(terms) - self.of_mixture
        gain = gain * self.weight.to(gain)
        error = gain.std().item() / self.n**0.5 if self.n > 1 else math.inf
        times = len(self.observed) // self.n
        weight = self.weight.repeat(times).unsqueeze(1).to(self.observed)
        is_mixture = not gain.any()
        return {
            **validated(self.model, terms, weight),
            "gain_nats": gain.mean().item(),
            "gain_se_nats": 0.0 if is_mixture else error,
            "counts": is_mixture or gain.mean().item() > error,
        }

    def _terms(self) -> Terms:
        self.model.eval()
        generator = torch_stream(self.seed, "validation", device=self.observed.device)
        return exact_terms(self.model, self.observed, generator)

    def _of_each(self, terms: Terms) -> Float[Tensor, " m"]:
        return terms.elbo().double().view(-1, self.n).mean(0)


def _epochs(
    model: ResidualCPVAE,
    rows_of: Rows,
    recipe: Recipe,
    weight: Float[Tensor, " n"] | None = None,
) -> Iterator[tuple[int, Record]]:
    """Trains, and gives an epoch and the training half of its record every `EVERY` steps.

    The learning rate rises and falls once (Smith 2018).
    """
    n, batch_size = len(rows_of), min(recipe.batch_size, len(rows_of))
    steps, between = n // batch_size, math.ceil(EVERY / (n // batch_size))
    device = model.aggregated.device
    optimiser = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=DECAY, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.max_epochs * steps + 1
    )
    kept: list[Terms] = []
    for epoch in range(recipe.max_epochs):
        if epoch == 0 or not isinstance(rows_of, Tensor):
            x_epoch = of_epoch(rows_of, recipe.seed, epoch).flatten(1)
            train = model.likelihood.observe(x_epoch.to(device))
            prepared = _prepared(model, train)
            likely = pairs_of(prepared.log_qc.exp(), LIKELY)
        noise = torch_stream(recipe.seed, "training", epoch + 1, device)
        order = torch_stream(recipe.seed, "order", epoch + 1)
        rows = torch.randperm(n, generator=order)[: steps * batch_size].to(device)
        model.train()
        for batch in rows.split(batch_size):
            normal = torch.randn(len(batch), model.normal_dim, generator=noise, device=device)
            x, mine, pairs, of = train, prepared, likely, weight
            if len(batch) < n:
                x, mine = train[batch], prepared.take(batch)
                pairs = pairs_of(mine.log_qc.exp(), LIKELY)
                of = None if weight is None else weight[batch]
            of_pairs = torch.randn(len(pairs.row), model.normal_dim, generator=noise, device=device)
            of_batch, of_agreement = 1.0, 1.0  # weights among processes
            if size() > 1:
                own, of_batch = share(len(batch))
                x, normal, mine = x[own], normal[own], mine.take(own)
                pairs, which = pairs.within(own)
                of_pairs, of_agreement = of_pairs[which], len(pairs.row) / len(which)
            terms = _weighted(model.bound_of(x, mine, pairs, normal), of)
            if of is not None:
                pairs = pairs._replace(weight=pairs.weight * of[pairs.row])
            agreement = of_agreement * _agreement(model, pairs, of_pairs)
            loss = -of_batch * terms.elbo().mean() - AGREE * agreement
            optimiser.zero_grad()
            loss.backward()
            _sum_gradients(model)
            torch.nn.utils.clip_grad_norm_(model.parameters(), MOST_GRADIENT)
            optimiser.step()
            schedule.step()
            kept.append(Terms(*(each.detach() for each in terms)))
        if (epoch + 1) % between == 0 or epoch + 1 == recipe.max_epochs:
            record = _record(Terms(*(torch.cat(each) for each in zip(*kept, strict=True))))
            yield epoch + 1, _of_all(record, share(batch_size)[1])
            kept.clear()


@torch.no_grad()
def _prepared(model: ResidualCPVAE, train: Float[Tensor, "n f"]) -> Prepared:
    """What bounds of observed data need, in chunks."""
    parts = [model.prepare(part) for part in train.split(model.rows_at_once())]
    read, log_qc, measured = zip(*parts, strict=True)
    return Prepared(torch.cat(read), torch.cat(log_qc), torch.cat(measured, 1))


def _sum_gradients(model: ResidualCPVAE) -> None:
    """Gradients summed over processes."""
    found = [p for p in model.parameters() if p.grad is not None]
    gradients = [p.grad for p in found if p.grad is not None]
    for parameter, total in zip(found, weighted_sum(gradients, 1.0), strict=True):
        parameter.grad = total


def _of_all(record: Record, weight: float) -> Record:
    """Means over the rows of all processes, of those over the own ones."""
    if size() == 1:
        return record
    means = summed(torch.tensor([*record.values()], dtype=torch.float64) * weight)
    return dict(zip(record, means.tolist(), strict=True))


def _check_same(data: TrainingData, recipe: Recipe, model: ResidualCPVAE) -> None:
    """Refuses processes that do not train the same thing."""
    if size() > 1:
        digests = {"recipe": digest(recipe), "data": digest_of(data.train)}
        digests |= {"validation data": digest(data.valid)}
        check_same(digests | {"model": digest(*model.state_dict().values())})


def _weighted(terms: Terms, weight: Float[Tensor, " b"] | None) -> Terms:
    """Terms of rows times the weight of each, whose mean is 1."""
    if weight is None:
        return terms
    log_px, kl_z, kl_c, log_qc = terms
    return Terms(weight * log_px, weight * kl_z, weight * kl_c, log_qc)


def _agreement(
    model: ResidualCPVAE, pairs: Pairs, noise: Float[Tensor, "p e"]
) -> Float[Tensor, ""]:
    """Mean log q(c|x), nats, of an x that is drawn from the component of each pair."""
    w = model.n_numbers
    of_z, of_y = noise.tensor_split([model.latent_dim], -1)
    z = model.place(of_z, pairs)
    c = F.one_hot(pairs.component, model.n_components).to(z.dtype)
    mean, logvar, logits = model.decode(z, c).tensor_split([w, 2 * w], -1)
    y = mean + of_y * torch.exp(0.5 * logvar)
    of_categories = torch.where(model.responsibilities.is_raw, model.number_head.plain(y), y)
    boolean, others = logits.tensor_split([model.n_binary], 1)
    levels = others.split(model.likelihood.n_levels, 1) if model.likelihood.n_levels else ()
    true = boolean.sigmoid()
    chances = torch.cat([true, 1 - true, *(level.softmax(1) for level in levels)], 1)
    log_qc = model.responsibilities.log_prob(of_categories, chances)
    return (pairs.weight * log_qc.gather(1, pairs.component.unsqueeze(1)).squeeze(1)).mean()


def _record(terms: Terms) -> Record:
    means = [each.detach().mean().item() for each in (terms.elbo(), *terms[:3])]
    names = ("elbo_exact", "reconstruction", "kl_z", "kl_c")
    return {
        "train_loss_nats": -means[0],
        **{f"train_{name}_nats": mean for name, mean in zip(names, means, strict=True)},
    }


def _is_over(run: Run, recipe: Recipe, several: bool) -> bool:
    """Whether nothing is gained after the `TRIAL`, or nothing more for the recipe's patience.

    Where there is something to gain, steps gain from the first on, at first perhaps less than its
    standard error, which is large where few rows are held out. What is lost again stays lost.
    """
    last, trial = run.history[-1], LONG_TRIAL if several else TRIAL
    if last["epoch"] >= trial * recipe.max_epochs and last["gain_nats"] <= 0:
        return True
    highest = max(run.history, key=lambda record: record["gain_nats"])
    return last["epoch"] - highest["epoch"] >= recipe.patience

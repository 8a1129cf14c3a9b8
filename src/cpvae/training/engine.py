"""The training engine: an epoch of steps, for one model or for several of one configuration.

A step is the model, its gradient and Adam. Nothing is copied from the device to the processor
within an epoch. `batches` says what a batch is, and `kernels` takes Python out of a step.

Several models are trained as one: their parameters are stacked, each model's own parameters become
views of its row, and the step is mapped over rows (`torch.func.vmap`).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call

from cpvae.data.augment import Augment
from cpvae.models.base import Model
from cpvae.models.networks import products
from cpvae.training import processes
from cpvae.training.adam import Adam
from cpvae.training.batches import Batch, Batches
from cpvae.training.kernels import Captured, Function, compile_with_adam, trace
from cpvae.training.objective import Means, Objective
from cpvae.training.recipe import LossWeights, Phase, Recipe


class Engine:
    """Trains models together, an epoch at a time.

    Arguments:
        models: one model, or several that were built from the same configuration but the seed
        seeds: one per model, of the order of rows, noise and binarisation
        observed: training data (n, f) on the models' device, grey values as they are
        recipe: settings of the optimisation
        augment: change of the data for the invariance term, or None to leave the term out
        kernels: how steps run after the first epoch: ``plain``, ``recorded`` (on a CPU) or
            ``compiled``, which falls back to the former, with a warning, where it fails
    """

    def __init__(
        self,
        models: Sequence[Model],
        seeds: Sequence[int],
        observed: Float[Tensor, "n f"],
        recipe: Recipe,
        augment: Augment | None = None,
        kernels: str = "plain",
    ):
        self.models, self.precision = list(models), recipe.precision
        self.batches = Batches(
            models, seeds, observed, recipe.batch_size, augment, recipe.pretraining_epochs > 0
        )
        self.device = observed.device
        self._objective = Objective(models[0], recipe.expectation)
        # `Objective` holds the model as its ``model``
        self._names = [f"model.{name}" for name, _ in models[0].named_parameters()]
        several = len(self.models) > 1
        parameters = _stack(self.models) if several else list(models[0].parameters())
        self._call = self._objective_of_each(augment) if several else self._objective_of_one
        self.adam = Adam(parameters, recipe.learning_rate)
        self._schedule = torch.zeros(len(LossWeights._fields) + 1, device=self.device)
        self._same_memory = [*parameters, *self._schedule.unbind()]
        self._usage = torch.zeros(len(models), models[0].n_components, device=self.device)
        self._sums = torch.zeros(len(models), len(Means._fields), device=self.device)
        if processes.size() > 1 and augment:  # a step that has two halves more cannot be recorded
            self._objective.mean_of_all = self._mean_of_all
            kernels = "plain"
        elif processes.size() > 1 and kernels == "compiled":  # which has Adam in it
            kernels = "recorded" if self.device.type == "cpu" else "plain"
        self._wanted, self._past_first_epoch = kernels, False
        self._fast: Function | None = None
        captured = self.device.type == "cuda" and processes.size() == 1
        self._captured = Captured(self._steps) if captured else None
        self._full, self._weight, self._rows = True, 1.0, recipe.batch_size  # of a block
        self.kernels = "plain"  # that steps run with now

    # --- an epoch --------------------------------------------------------------------------------

    def epoch(self, phase: Phase) -> Means:
        """One pass over the data, each model in its own random order."""
        # in place, as a CUDA graph reads this memory; `loop.validate` has set what is aggregated
        self._schedule.copy_(torch.tensor([*phase.weights, phase.temperature]))
        self._usage.copy_(torch.stack([m.aggregated for m in self.models]))
        self._sums.zero_()
        self._set_expectation(phase.expectation)
        # The first epoch of a run is plain, so that a person sees it soon; a resumed run has had it
        begun = bool(self.adam.steps > 0)
        if begun and not self._past_first_epoch and self._wanted != "plain":
            self._forget()  # the first epoch's kernels
        self._past_first_epoch = begun
        with ExitStack() as stack:
            for model in self.models:
                model.train()
                stack.enter_context(products(model, self.precision))
            for block, rows in self.batches.blocks(phase.epoch):
                self._full, self._weight = rows == self.batches.batch_size, processes.share(rows)[1]
                self._rows = rows
                (self._captured or self._steps)(block)
        processes.summed(self._sums)
        return Means(*(self._sums / len(self.batches.data)).unbind(1))

    def _set_expectation(self, expectation: str) -> None:
        if expectation != self._objective.expectation:
            self._objective.expectation = expectation
            self._forget()

    def _forget(self) -> None:
        """Forgets recorded, compiled and captured kernels: they are made again when needed."""
        self._fast, self.kernels = None, "plain"
        if self._captured:
            self._captured.clear()

    def _steps(self, block: Batch) -> None:
        """All steps of a block: the hot path."""
        usage = self._usage if len(self.models) > 1 else self._usage[0]
        present = block.present()
        full = self._full
        kept: list[dict[str, Tensor]] = []
        for tensors in zip(*present.values(), strict=True):
            batch = dict(zip(present, tensors, strict=True))
            if self._wanted != "plain" and self._past_first_epoch and full:
                self._fast = self._fast or self._make_fast(usage, batch)
            step = self._fast if full and self._fast else partial(self._step, self._gradients)
            results = self._named(step(*self._same_memory, usage, *tensors))
            usage = results.pop("usage")
            kept.append(results)
        self._usage.copy_(usage.view_as(self._usage))
        for name in kept[0]:
            # the loss is a number a model, other terms one an example
            values = torch.stack([of[name] for of in kept]).view(len(kept), len(self.models), -1)
            means = values.mean(2).sum(0) * (self._rows * self._weight)
            self._sums[:, Means._fields.index(name)] += means

    def take(self, observed: Float[Tensor, "n f"]) -> None:
        """Takes other training data of the same size, for the epochs that follow."""
        self.batches.take(observed)

    # --- a step ----------------------------------------------------------------------------------

    def _input_names(self) -> list[str]:
        """Names of the tensors that a step takes, in order, except those of the batch."""
        return [*self._names, *LossWeights._fields, "temperature", "usage"]

    def _output_names(self) -> list[str]:
        """Names of the tensors that a step gives, in order, except the gradients."""
        means = [name for name in Means._fields if self.batches.augment or name != "invariance"]
        return ["usage", *means]

    def _named(self, results: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._output_names(), results, strict=True))

    def _step(self, gradients: Function, *inputs: Tensor) -> Sequence[Tensor]:
        """Moves the parameters along the gradients, and gives the rest."""
        results = gradients(*inputs)
        count = len(self.adam.parameters)
        self.adam.step(processes.weighted_sum(results[-count:], self._weight))
        return results[:-count]

    def _gradients(
        self, *inputs: Tensor, call: Callable[..., Any] | None = None
    ) -> tuple[Tensor, ...]:
        """What a step gives, then the gradients of the parameters."""
        batch_fields = self._batch_fields()
        given = dict(zip([*self._input_names(), *batch_fields], inputs, strict=True))
        parameters = [given[name] for name in self._names]
        weights = LossWeights(**{name: given[name] for name in LossWeights._fields})
        batch = Batch(**{name: given[name] for name in batch_fields})
        objective, kept, usage = (call or self._call)(
            parameters, batch, given["usage"], weights, given["temperature"]
        )
        results = {"usage": usage, **kept}
        gradients = torch.autograd.grad(objective.sum(), parameters)
        return *(results[name] for name in self._output_names()), *gradients

    def _batch_fields(self) -> list[str]:
        absent = {"changed"} if self.batches.augment is None else set()
        absent |= {"initial"} if self.batches.initial is None else set()
        return [name for name in Batch._fields if name not in absent]

    def _objective_of_one(self, parameters: Sequence[Tensor], *arguments: Any) -> Any:
        """The objective of one model, with these parameters in index of its own."""
        named = dict(zip(self._names, parameters, strict=True))
        return functional_call(self._objective, named, arguments)

    def _objective_of_each(self, augment: Augment | None) -> Callable[..., Any]:
        """The objective of each model of a stack."""
        initial = None if self.batches.initial is None else 0
        # not data: the axis of each field that is mapped over
        batch = Batch(0, 0, 0, 0 if augment else None, initial)  # type: ignore[arg-type]
        return torch.func.vmap(self._objective_of_one, in_dims=(0, batch, 0, None, None))

    def _make_fast(self, usage: Tensor, batch: dict[str, Tensor]) -> Function:
        """A step with no Python between its kernels, for inputs like these; sets ``kernels``."""
        self.kernels = self._wanted
        if self.device.type == "cuda":
            call = torch.compile(self._call, dynamic=False)
            return partial(self._step, partial(self._gradients, call=call))
        example = [*self._same_memory, usage, *batch.values()]
        if self._wanted == "compiled":
            compiled = compile_with_adam(self._gradients, self.adam, example)
            if compiled:
                return compiled
            self.kernels = "recorded"
        return partial(self._step, trace(self._gradients, example))

    def _mean_of_all(self, mean: Tensor) -> Tensor:
        """The mean over the rows of all processes, of that over the own ones."""
        return processes.summed(mean * self._weight)

    # --- to a run folder and back ----------------------------------------------------------------

    def set_initial(self, index: int, ranges: Int[Tensor, "n 2 2"]) -> None:
        """Takes the initial clusters of a model, see `initialise.initial_clusters`."""
        self.batches.set_initial(index, ranges)

    def state(self, index: int) -> dict[str, Tensor]:
        """What resuming needs beside a model's weights: Adam's state, and initial clusters."""
        state = {"steps": self.adam.steps.clone()}
        for name in ("mean", "square"):
            moments = getattr(self.adam, name)
            state |= {f"{name}.{i}": self._row(m, index) for i, m in enumerate(moments)}
        initial = self.batches.initial
        return state if initial is None else state | {"initial": initial[index].clone()}

    def load_state(self, index: int, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.adam.steps.copy_(state["steps"])
        for name in ("mean", "square"):
            for i, moment in enumerate(getattr(self.adam, name)):
                self._row(moment, index).copy_(state[f"{name}.{i}"])
        if "initial" in state:
            self.set_initial(index, state["initial"])

    def _row(self, tensor: Tensor, index: int) -> Tensor:
        """A model's row of a stacked tensor; the tensor itself where there is one model."""
        return tensor[index] if len(self.models) > 1 else tensor


def _stack(models: Sequence[Model]) -> list[Tensor]:
    """Parameters of all models, (r, ...) each; the models' own become views of their row."""
    stacks = []
    for together in zip(*(m.parameters() for m in models), strict=True):
        stack = torch.stack([p.detach() for p in together])
        for row, parameter in enumerate(together):
            parameter.data = stack[row]
        stacks.append(stack.requires_grad_())
    return stacks

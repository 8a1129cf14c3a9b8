"""The training engine: many steps at a time, for one model or for several of a kind at once.

What a step needs beside the model is prepared for a block of steps in one go: examples are gathered
from data that stays on the device in two bytes a feature, moved, binarised, and all noise is drawn.
A step itself is then the model, its gradient and Adam, and nothing is read back before the end of
an epoch. On a GPU a block of steps is captured once as a CUDA graph and replayed; on a CPU the
kernels of one step are recorded once and replayed without Python between them.

Several models are trained as one: their parameters are stacked, each model's own parameters become
views of its row, and the step is mapped over rows (`torch.func.vmap`). Rows share the data, and
nothing else: each has its own order, noise and binarisation from its own generator.
"""

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from cpvae.data.augment import Augment
from cpvae.models.base import ConditionalPriorVAE, Model, Noise, draw_noise
from cpvae.models.networks import products
from cpvae.training.adam import Adam
from cpvae.training.objective import (
    Weights,
    conditional_entropy,
    evenness,
    invariance,
    loss,
    surprise,
)

MEMORY = 0.95  # what a step keeps of the running mean of q(c|x)
BLOCK = 50  # steps prepared at once, at most
BLOCK_BYTES = {"cpu": 2**25, "cuda": 2**30}  # memory that a block may take, about


class Batch(NamedTuple):
    """What one step consumes, (b, ...) each, or a block of steps, (steps, r, b, ...).

    ``moved`` is None without an augmentation, and ``start`` (b, 2, 2), see `start.start`, where
    categories have none.
    """

    observed: Tensor
    normal: Tensor
    gumbel: Tensor
    moved: Tensor | None = None
    start: Tensor | None = None


class Means(NamedTuple):
    """Means over the examples of an epoch, in nats: a float a model, (r) each."""

    loss: Tensor
    log_px: Tensor
    kl_z: Tensor
    kl_c: Tensor
    moved: Tensor


class Objective(nn.Module):
    """What a step minimises, as a module, so that its parameters can be handed in as a stack."""

    def __init__(self, model: Model, estimator: str):
        super().__init__()
        self.model, self.estimator = model, estimator

    def forward(
        self,
        batch: Batch,
        usage: Float[Tensor, " k"],
        weights: Weights,
        temperature: float | Tensor,
    ) -> tuple[Tensor, tuple[Tensor, ...], Float[Tensor, " k"]]:
        """The loss, what to keep of it for the record, and the running mean of q(c|x)."""
        noise = Noise(batch.normal, batch.gumbel)
        terms = self.model.terms(batch.observed, noise, temperature, self.estimator)
        objective = loss(terms, weights)
        if batch.start is not None:
            piece, group = surprise(terms.log_qc, batch.start).unbind(-1)
            objective = objective + weights.start * group + weights.piece * (piece - group)
        kept = (terms.log_px.detach(), terms.kl_z.detach(), terms.kl_c.detach())
        if batch.moved is None:
            return objective, (objective.detach(), *kept), usage
        assert isinstance(self.model, ConditionalPriorVAE)  # no other model has an invariance term
        _, log_qc_moved = self.model.infer(batch.moved)
        moved = invariance(terms.log_qc, log_qc_moved)
        usage = MEMORY * usage + (1 - MEMORY) * terms.log_qc.detach().exp().mean(0)
        objective = objective + weights.invariance * moved
        objective = objective - weights.balance * evenness(terms.log_qc, usage)
        objective = objective + weights.certainty * conditional_entropy(terms.log_qc)
        return objective, (objective.detach(), *kept, moved.detach()), usage


class Engine:
    """Trains models of one kind together, an epoch at a time.

    Arguments:
        models: one model, or several that were built from the same configuration but the seed
        generators: of order, noise and binarisation, one a model
        observed: training data as the models see it (n, f), on their device
        batch_size: examples a step
        learning_rate: of Adam
        estimator: of the expectation over c
        augment: change of the data for the invariance term, or None to leave the term out
        kernels: ``plain``; or else what happens after the first epoch: ``recorded``, on a CPU,
            takes two seconds and gives the same floats; ``compiled`` fuses them, takes some ten
            seconds and may round otherwise. Where compiling fails it says so and records them.
        precision: of the networks' products, see `Recipe`
        starts: whether examples have categories to start in, see `set_start`
    """

    def __init__(
        self,
        models: Sequence[Model],
        generators: Sequence[torch.Generator],
        observed: Float[Tensor, "n f"],
        batch_size: int,
        learning_rate: float,
        estimator: str,
        augment: Augment | None = None,
        kernels: str = "plain",
        precision: str = "float32",
        starts: bool = False,
    ):
        self.models, self.generators, self.augment = list(models), list(generators), augment
        self.batch_size, self.device = batch_size, observed.device
        self.likelihood = models[0].likelihood
        self.data = self.likelihood.store(observed)
        self.precision = precision
        shape = (len(self.models), len(observed), 2, 2)
        self._start = torch.zeros(shape, dtype=torch.int64, device=self.device) if starts else None
        self._objective = objective = Objective(models[0], estimator)
        names = [f"model.{name}" for name, _ in models[0].named_parameters()]

        def call(parameters: Sequence[Tensor], *arguments: Any) -> Any:
            return functional_call(objective, dict(zip(names, parameters, strict=True)), arguments)

        if len(self.models) == 1:
            parameters: list[Tensor] = list(models[0].parameters())
        else:
            parameters = _stack(self.models)
            optional = (0 if augment else None, 0 if starts else None)
            batch = Batch(0, 0, 0, *optional)  # type: ignore[arg-type]
            call = torch.func.vmap(call, in_dims=(0, batch, 0, None, None))
        self._call: Callable[..., Any] = call
        self._kernels = kernels
        self._ready = False
        self._fast: Callable[..., Sequence[Tensor]] | None = None
        self.adam = Adam(parameters, learning_rate)
        self._dials = torch.zeros(len(Weights._fields) + 1, device=self.device)
        self._inputs = [*parameters, *self._dials.unbind()]
        self._plain = partial(self._gradients, call)
        self._usage = torch.zeros(len(models), models[0].n_components, device=self.device)
        self._sums = torch.zeros(len(models), len(Means._fields), device=self.device)
        self._graphs: dict[tuple[int, ...], _Graph | None] = {}

    def epoch(self, weights: Weights, temperature: float) -> Means:
        """One pass over the data, each model in its own random order."""
        self._dials.copy_(torch.tensor([*weights, temperature]))  # a graph reads them there
        self._usage.copy_(torch.stack([m.aggregated for m in self.models]))  # of the last epoch
        self._sums.zero_()
        # The first epoch is taken as it comes, so that a person sees it soon; also after a resume
        ready = bool(self.adam.steps > 0)
        if ready and not self._ready and self._kernels != "plain":
            self._graphs.clear()  # of the first epoch's kernels
        self._ready = ready
        for model in self.models:
            model.train()
        n = len(self.data)
        order = torch.stack(
            [torch.randperm(n, generator=g, device=g.device) for g in self.generators]
        )
        with ExitStack() as stack:
            for model in self.models:
                stack.enter_context(products(model, self.precision))
            for index in self._blocks(order):
                self._take(self._prepare(index))
        return Means(*(self._sums / n).unbind(1))

    def state(self, place: int) -> dict[str, Tensor]:
        """What goes on with a model beside its weights: Adam's moments, the generator."""
        state = {"steps": self.adam.steps.clone(), "generator": self.generators[place].get_state()}
        for name in ("mean", "square"):
            moments = getattr(self.adam, name)
            state |= {f"{name}.{i}": self._row(m, place) for i, m in enumerate(moments)}
        return state if self._start is None else state | {"start": self._start[place].clone()}

    def load_state(self, place: int, state: dict[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.adam.steps.copy_(state["steps"])
        self.generators[place].set_state(state["generator"])
        for name in ("mean", "square"):
            for i, moment in enumerate(getattr(self.adam, name)):
                self._row(moment, place).copy_(state[f"{name}.{i}"])
        if "start" in state:
            self.set_start(place, state["start"])

    def set_estimator(self, estimator: str) -> None:
        """Changes how the expectation over c is taken, from the next epoch on."""
        if estimator != self._objective.estimator:
            self._objective.estimator, self._fast = estimator, None
            self._graphs.clear()

    def set_start(self, place: int, start: Int[Tensor, "n 2 2"]) -> None:
        """What `start.start` found for a model, for ``Weights.start``."""
        assert self._start is not None  # who has categories to start in has said so
        self._start[place] = start

    def _row(self, tensor: Tensor, place: int) -> Tensor:
        return tensor[place] if len(self.models) > 1 else tensor

    def _blocks(self, order: Int[Tensor, "r n"]) -> list[Int[Tensor, "s r b"]]:
        """The order cut into blocks of full batches, and the batch that is left over."""
        r, n = order.shape
        b = min(self.batch_size, n)
        full = n // b
        a_step = 4 * r * b * (2 * self.data.shape[1] + self.models[0].gumbel_dim)
        memory = BLOCK_BYTES.get(self.device.type, BLOCK_BYTES["cpu"])
        limit = min(BLOCK, max(1, memory // a_step))
        steps = math.ceil(full / math.ceil(full / limit))
        batches = order[:, : full * b].view(r, full, b).transpose(0, 1)
        rest = order[:, full * b :].unsqueeze(0)
        return [*batches.split(steps), *([rest] if n % b else [])]

    def _prepare(self, index: Int[Tensor, "s r b"]) -> Batch:
        """Examples and noise of a block; each model's from its own generator."""
        parts = []
        for r, generator in enumerate(self.generators):
            mine = index[:, r]
            n = mine.numel()
            stored = self.data[mine.flatten()]
            noise = self.likelihood.noise(stored.shape, generator)
            observed = self.likelihood.draw(stored, noise)
            part = [observed, *draw_noise(self.models[r], n, generator)]
            if self.augment:
                u = torch.rand(n, self.augment.n_random, generator=generator, device=self.device)
                changed = self.augment.change(self.likelihood.restore(stored), u)
                noise = self.likelihood.noise(stored.shape, generator)
                part.append(self.likelihood.draw(self.likelihood.store(changed), noise))
            parts.append([t.unflatten(0, mine.shape) for t in part])
        if len(parts) == 1:
            stacked = parts[0]
        else:
            stacked = [torch.stack(tensors, 1) for tensors in zip(*parts, strict=True)]
        start = None
        if self._start is not None:
            rows = [row[index[:, r]] for r, row in enumerate(self._start)]
            start = rows[0] if len(rows) == 1 else torch.stack(rows, 1)
        return Batch(*stacked)._replace(start=start)

    def _take(self, block: Batch) -> None:
        """All steps of a block; on a GPU the first of a size as they are, then as a graph."""
        if self.device.type != "cuda":
            self._steps(block)
            return
        size = tuple(block.normal.shape)
        if size not in self._graphs:  # capturing needs a first run that is not captured
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._steps(block)
            torch.cuda.current_stream().wait_stream(side)
            self._graphs[size] = None
            return
        graph = self._graphs[size]
        if graph is None:
            graph = _Graph(block)
            with torch.cuda.graph(graph.graph):
                self._steps(graph.block)
            self._graphs[size] = graph
        graph.replay(block)

    def _steps(self, block: Batch) -> None:
        """The hot path."""
        usage = self._usage if len(self.models) > 1 else self._usage[0]
        steps, rows = len(block.normal), block.normal.shape[-2]
        step: Callable[..., Sequence[Tensor]] = partial(self._step, self._plain)
        kept = []
        for batch in zip(*(t for t in block if t is not None), strict=True):
            if self._kernels != "plain" and self._ready and rows == self.batch_size:
                if not self._fast:
                    self._fast = self._without_python([usage, *batch])
                step = self._fast
            usage, *told = step(usage, *batch)
            kept.append(told)
        self._usage.copy_(usage.view_as(self._usage))
        for i, part in enumerate(zip(*kept, strict=True)):
            values = torch.stack(part).view(steps, len(self.models), -1)
            self._sums[:, i] += values.mean(2).sum(0) * rows

    def _step(
        self, gradients: Callable[..., Sequence[Tensor]], usage: Tensor, *batch: Tensor
    ) -> Sequence[Tensor]:
        """Of the running mean of q(c|x) and a batch: that mean as it goes on, and what is kept for
        the record. Moves the parameters.
        """
        results = gradients(*self._inputs, usage, *batch)
        count = len(self.adam.parameters)
        self.adam.step(results[-count:])
        return results[:-count]

    def _gradients(self, call: Callable[..., Any], *inputs: Any) -> tuple[Tensor, ...]:
        """Of parameters, dials, usage and a batch: what `_step` returns, and the gradients."""
        count = len(self.adam.parameters)
        parameters, rest = inputs[:count], inputs[count:]
        weights = Weights(*rest[: len(Weights._fields)])
        temperature, usage, *batch = rest[len(weights) :]
        start = batch.pop() if self._start is not None else None
        arguments = (Batch(*batch)._replace(start=start), usage, weights, temperature)
        objective, kept, usage = call(parameters, *arguments)
        return usage, *kept, *torch.autograd.grad(objective.sum(), parameters)

    def _without_python(self, example: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
        """`_step` with no Python between its kernels, for inputs like the ``example``."""
        if self.device.type == "cuda":
            call = torch.compile(self._call, dynamic=False)
            return partial(self._step, partial(self._gradients, call))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, used by both
            compiled = self._compiled(example) if self._kernels == "compiled" else None
            if compiled:
                return compiled
            inputs = [*self._inputs, *example]
            recorded = torch.jit.trace(
                _graph(self._plain, inputs),
                tuple(t.detach() for t in inputs),
                check_trace=False,
            )

        def gradients(*inputs: Tensor) -> Sequence[Tensor]:
            # Without its optimiser the recording gives the same floats as the steps themselves
            with torch.no_grad(), torch.jit.optimized_execution(False):
                return recorded(*inputs)

        return partial(self._step, gradients)

    def _compiled(self, example: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]] | None:
        """`_step` as one C++ program, or None, with a warning, where that cannot be had."""
        count = len(self.adam.parameters)
        state = [*self.adam.mean, *self.adam.square]

        def whole(*inputs: Tensor) -> Sequence[Tensor]:
            moments, factors, rest = (
                inputs[: 2 * count],
                inputs[2 * count :][:2],
                inputs[2 * count + 2 :],
            )
            results = self._plain(*rest)
            moved = zip(rest, moments, moments[count:], results[-count:], strict=False)
            with torch.no_grad():
                self.adam.move(list(moved), *factors)
            return results[:-count]

        def copies() -> list[Any]:  # a step moves what it is given
            given = (*state, torch.ones(()), torch.ones(()), *self._inputs, *example)
            return [t.detach().clone().requires_grad_(t.requires_grad) for t in given]

        try:
            from torch._inductor import config

            graph = _graph(whole, copies())
            for node in graph.graph.nodes:
                node.meta.clear()  # what tracing noted there stands in the way of a C++ wrapper
            key = _same(graph, copies())
            program = _PROGRAMS.get(key)
            if not program:
                with torch.no_grad(), config.patch(cpp_wrapper=True):
                    program = torch._inductor.compile(graph, copies())
                    program(*copies())  # compiles what is left to compile
                _PROGRAMS.clear()  # one is enough: restarts come one after another
                _PROGRAMS[key] = program
        except Exception as error:  # whatever compiler, linker and their files may raise
            warnings.warn(f"The step could not be compiled and is recorded: {error}", stacklevel=2)
            return None

        def step(usage: Tensor, *batch: Tensor) -> Sequence[Tensor]:
            with torch.no_grad():
                factors = self.adam.next_factors()
                return program(*state, *factors, *self._inputs, usage, *batch)

        return step


_PROGRAMS: dict[bytes, Callable[..., Sequence[Tensor]]] = {}  # restarts in a process share them


def _same(graph: Any, inputs: Sequence[Tensor]) -> bytes:
    """A digest that two graphs share if they are the same program of inputs of the same shapes."""
    digest = hashlib.sha256(graph.code.encode())
    for tensor in inputs:
        digest.update(f"{tensor.shape} {tensor.dtype} {torch.get_num_threads()}".encode())
    for node in graph.graph.find_nodes(op="get_attr"):  # constants that were traced
        digest.update(getattr(graph, node.target).detach().numpy().tobytes())
    return digest.digest()


def _graph(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Any:
    """The kernels that a function calls, gradients included."""
    from torch.fx.experimental.proxy_tensor import make_fx  # takes a second or two

    return make_fx(function)(*inputs)


class _Graph:
    """A captured block of steps, and the memory that it reads."""

    def __init__(self, block: Batch):
        self.graph = torch.cuda.CUDAGraph()
        self.block = Batch(*(t if t is None else t.clone() for t in block))  # type: ignore[arg-type]

    def replay(self, block: Batch) -> None:
        """The captured steps on the contents of ``block``."""
        for mine, given in zip(self.block, block, strict=True):
            if mine is not None and given is not None:
                mine.copy_(given)
        self.graph.replay()


def _stack(models: Sequence[Model]) -> list[Tensor]:
    """Parameters of all models, (r, ...) each; the models' own become views of their row."""
    stacks = []
    for together in zip(*(m.parameters() for m in models), strict=True):
        stack = torch.stack([p.detach() for p in together])
        for row, parameter in enumerate(together):
            parameter.data = stack[row]
        stacks.append(stack.requires_grad_())
    return stacks

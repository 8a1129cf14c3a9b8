"""A training step and the floor under it, which ``run.py`` measures.

A step is measured through the training engine itself, on data of the paper's size (784 features,
two gated layers of 300, 40 latent dimensions). The floor is the same matrix products, forward and
backward, and nothing else: their sizes are read off the model while it takes a step, so that they
cannot drift from what it does.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpvae.models.base import Model, draw_noise
from cpvae.models.build import build
from cpvae.models.cpvae import ConditionalPriorVAE
from cpvae.training.engine import Engine
from cpvae.training.recipe import LossWeights, Phase, Recipe

STEPS = 100  # steps a measurement on a CPU; ten times as many on a GPU


def paper_model(name: str, n_components: int, seed: int = 0) -> Model:
    """A system with the network of the paper's section 5."""
    return build(name, shape=[784], n_components=n_components, seed=seed)


def products(model: Model, batch: int, expectation: str) -> list[tuple[int, int, int, bool]]:
    """(rows, n_in, n_out, whether the input needs a gradient) of each matrix product in a step."""
    seen: list[tuple[int, int, int, bool]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        seen.append((x.numel() // x.shape[-1], x.shape[-1], output.shape[-1], x.requires_grad))

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Linear)]
    noise = draw_noise(model, batch, torch.Generator().manual_seed(0))
    model.terms(torch.rand(batch, 784).round(), noise, expectation=expectation)
    for hook in hooks:
        hook.remove()
    k, d = model.n_components, model.latent_dim
    to_components = 2 if isinstance(model, ConditionalPriorVAE) or k > 1 else 0
    return seen + [(batch, d, k, True)] * to_components


class Floor:
    """The matrix products of a step into memory that is already there; on a GPU as one graph."""

    def __init__(self, name: str, n_components: int, batch: int, expectation: str, device: str):
        model = paper_model(name, n_components)
        self.work = []
        for rows, n_in, n_out, needs_gradient in products(model, batch, expectation):
            sizes = (rows, n_in), (n_out, n_in), (rows, n_out)
            x, w, dy = (torch.randn(size, device=device) for size in sizes)
            memory = (torch.empty_like(t) for t in (dy, w, x))
            self.work.append((x, w, dy, *memory, needs_gradient))
        self.run = self._products
        if device == "cuda":
            self._products()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._products()
            self.run = graph.replay

    def _products(self) -> None:
        """Those of one step."""
        for x, w, dy, y, dw, dx, needs_gradient in self.work:
            torch.mm(x, w.T, out=y)
            torch.mm(dy.T, x, out=dw)
            if needs_gradient:
                torch.mm(dy, w, out=dx)

    def milliseconds(self) -> float:
        """Those of one step."""
        return milliseconds(self.run, STEPS)


class Step:
    """Training steps of one system by the engine."""

    def __init__(
        self,
        name: str,
        n_components: int,
        batch: int,
        expectation: str = "relaxed",
        kernels: str = "compiled",
        precision: str = "float32",
        restarts: int = 1,
        device: str = "cpu",
        data: Tensor | None = None,
    ):
        self.steps = STEPS if device == "cpu" else 10 * STEPS
        x = torch.rand(self.steps * batch, 784) if data is None else data
        self.steps = len(x) // batch
        models = [paper_model(name, n_components, seed).to(device) for seed in range(restarts)]
        generators = [torch.Generator(device).manual_seed(seed) for seed in range(restarts)]
        recipe = Recipe(
            batch_size=batch, learning_rate=1e-3, expectation=expectation, precision=precision
        )
        self.phase = Phase(LossWeights(), 0.5, expectation)
        self.engine = Engine(models, generators, x.to(device), recipe, kernels=kernels)
        self.parameters = sum(p.numel() for p in models[0].parameters())
        self.loss = 0.0
        self.epoch()  # the first is taken without what makes the others fast

    def epoch(self) -> None:
        """Takes all steps of an epoch."""
        self.loss = self.engine.epoch(self.phase).loss.mean().item()

    def milliseconds(self) -> float:
        """A step of all restarts."""
        return milliseconds(self.epoch, 1) / self.steps


def milliseconds(function: Callable[[], Any], times: int) -> float:
    """Mean time of a call, of ``times`` in a row."""
    start = time.perf_counter()
    for _ in range(times):
        function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - start) / times

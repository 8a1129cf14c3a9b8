"""Milliseconds a training step, and the floor under it: run as `make bench`.

A step is measured through the training loop itself, on data of the paper's size (784 features, two
gated layers of 300, 40 latent dimensions). The floor is the same matrix products, forward and
backward, and nothing else: the sizes are read off the model while it takes a step, so that they
cannot drift from what it does. Both are measured in turn, many times, and medians are compared;
milliseconds depend on the machine and its mood, the ratio hardly does.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cpvae.checkpoint import versions
from cpvae.engine import Engine
from cpvae.evaluate import draw_noise
from cpvae.models import Model, build
from cpvae.objective import Weights

RESULTS = Path(__file__).parent / "results"
STEPS = 40  # steps a measurement


def paper_model(n_components: int) -> Model:
    """The network of the paper's section 5."""
    return build(shape=(784,), n_components=n_components, latent_dim=40, hidden=(300, 300))


def products(model: Model, batch: int, estimator: str) -> list[tuple[int, int, int, bool]]:
    """(rows, n_in, n_out, whether the input needs a gradient) of each linear layer in one step."""
    seen: list[tuple[int, int, int, bool]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x = inputs[0]
        seen.append((x.numel() // x.shape[-1], x.shape[-1], output.shape[-1], x.requires_grad))

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Linear)]
    noise = draw_noise(model, batch, torch.Generator().manual_seed(0))
    model.terms(torch.rand(batch, 784).round(), noise, estimator=estimator)
    for hook in hooks:
        hook.remove()
    k, d = model.n_components, model.latent_dim
    return [*seen, (batch, d, k, True), (batch, d, k, True)]  # the KL to all components


class Floor:
    """The matrix products of a step into memory that is already there."""

    def __init__(self, model: Model, batch: int, estimator: str):
        self.work = []
        for rows, n_in, n_out, needs_gradient in products(model, batch, estimator):
            x, w, dy = torch.randn(rows, n_in), torch.randn(n_out, n_in), torch.randn(rows, n_out)
            y, dw, dx = torch.empty_like(dy), torch.empty_like(w), torch.empty_like(x)
            self.work.append((x, w, dy, y, dw, dx, needs_gradient))

    def run(self) -> None:
        """One step's worth."""
        for x, w, dy, y, dw, dx, needs_gradient in self.work:
            torch.mm(x, w.T, out=y)
            torch.mm(dy.T, x, out=dw)
            if needs_gradient:
                torch.mm(dy, w, out=dx)


class Step:
    """Training steps of the real loop."""

    def __init__(self, model: Model, batch: int, estimator: str):
        x = torch.rand(STEPS * batch, 784)
        generator = torch.Generator().manual_seed(0)
        self.engine = Engine([model], [generator], x, batch, 1e-3, estimator, compiled=True)

    def run(self) -> None:
        """`STEPS` steps."""
        self.engine.epoch(Weights(), 0.5)


def milliseconds(function: Any, times: int) -> float:
    """Time of one call, of ``times`` in a row."""
    start = time.perf_counter()
    for _ in range(times):
        function()
    return 1000 * (time.perf_counter() - start) / times


def compare(n_components: int, batch: int, estimator: str, repeats: int) -> list[dict[str, Any]]:
    """Medians of step, floor, and their ratio, measured in turn."""
    model = paper_model(n_components)
    step, floor = Step(model, batch, estimator), Floor(model, batch, estimator)
    step.run()
    milliseconds(floor.run, STEPS)
    pairs = [
        (milliseconds(step.run, 1) / STEPS, milliseconds(floor.run, STEPS)) for _ in range(repeats)
    ]
    name = f"cpvae {estimator} K={n_components} batch={batch}"
    return [
        {"name": f"{name} step", "value": statistics.median(s for s, _ in pairs), "unit": "ms"},
        {"name": f"{name} floor", "value": statistics.median(f for _, f in pairs), "unit": "ms"},
        {"name": f"{name} ratio", "value": statistics.median(s / f for s, f in pairs), "unit": "1"},
    ]


def main() -> None:
    """Measures all cases and writes them into ``benchmarks/results``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="measurements of each, in turn")
    repeats = parser.parse_args().repeats
    cases = [(10, 100, "relaxed"), (10, 100, "straight_through"), (10, 100, "exact")]
    cases += [(k, 100, "straight_through") for k in (1, 50, 150, 500)]
    cases += [(10, batch, "straight_through") for batch in (500, 2000)]
    records = []
    for case in cases:
        records += compare(*case, repeats)
        step, floor, ratio = (record["value"] for record in records[-3:])
        print(f"{records[-3]['name']:45s} {step:7.2f} ms  floor {floor:6.2f} ms  ratio {ratio:.2f}")
    RESULTS.mkdir(exist_ok=True)
    out = RESULTS / f"steps-{platform.machine()}-{os.cpu_count()}-cores.json"
    out.write_text(json.dumps({"versions": versions(), "records": records}, indent=2) + "\n")
    print(f"-> {out}")


if __name__ == "__main__":
    main()

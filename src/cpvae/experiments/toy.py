"""The one-dimensional mixture of section 5.1: figures 3 and 4, and numbers beside them.

The paper writes N(0.1, 0.1) and N(1, 0.1) and does not say whether 0.1 is a standard deviation or a
variance; both are here. It does not give the length of training and the decoder's noise: here the
first is in `RECIPE`, and the noise is learned. Networks, latent dimensions and batches are the
paper's, and so is the warm-up of both KL terms from 0, by which c finds the modes. With the full
weight of KL(c) from the beginning c stays unused, because a split of the data that is not yet sharp
costs more than it gains.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import norm, wasserstein_distance

from cpvae.checkpoint import describe
from cpvae.data.schema import Schema
from cpvae.evaluation.metrics import evaluate
from cpvae.experiments.cells import CURVE, provenance, write
from cpvae.models.build import build
from cpvae.report.figures import BLUE, GREY, plain
from cpvae.streams import numpy_stream, torch_stream
from cpvae.training.loop import fit
from cpvae.training.recipe import Recipe

CENTRES = (0.1, 1.0)
SPREADS = {"sd": 0.1, "variance": math.sqrt(0.1)}
SYSTEMS = [
    ("cpvae", 2),
    ("cpvae", 150),
    ("vae", 1),
    ("mog", 2),
    ("mog", 150),
    ("vamp", 2),
    ("vamp", 150),
]
N_TRAIN, N_VALID, N_TEST, N_GENERATED = 50_000, 1_000, 2_000, 50_000
IMPORTANCE_SAMPLES = 100
RECIPE = Recipe(
    max_epochs=10,
    batch_size=100,
    learning_rate=1e-3,
    expectation="relaxed",
    anneal_epochs=4,
    kl_z_start=0.0,
    kl_c_start=0.0,
    patience=10,
)
EDGES = np.linspace(-1.5, 2.6, 206)  # of the histograms
VALLEY = (0.4, 0.7)  # between the modes
NAMES = {"cpvae": "CP", "vae": "VAE", "mog": "MG", "vamp": "VP"}


def draw(n: int, spread: str, rng: np.random.Generator) -> Float[np.ndarray, "n 1"]:
    """Points of the mixture, two equal components."""
    centre = np.asarray(CENTRES)[rng.integers(2, size=n)]
    return rng.normal(centre, SPREADS[spread])[:, np.newaxis].astype(np.float32)


def log_density(x: np.ndarray, spread: str) -> np.ndarray:
    """Log-density of the mixture in nats."""
    each = [norm.logpdf(x, centre, SPREADS[spread]) for centre in CENTRES]
    return np.logaddexp(*each) - math.log(2)


def valley(x: Float[np.ndarray, " n"]) -> float:
    """Share of the points between the modes."""
    return float(((x > VALLEY[0]) & (x < VALLEY[1])).mean())


def run(
    spread: str, results: Path, seed: int = 0, show: Callable[[str], object] = print
) -> list[dict[str, Any]]:
    """Trains the systems that have no file in ``results`` yet, a process a core; returns them all.

    Each is written to ``toy-SPREAD-MODEL-kK-sSEED.json``, with histograms of what it generates.

    Arguments:
        spread: ``sd`` or ``variance``: what the second 0.1 of N(0.1, 0.1) is
        results: folder of the files
        seed: of data and models
        show: called with a line for each system that is done

    Raises:
        ValueError: an unknown ``spread``.
    """
    if spread not in SPREADS:
        raise ValueError(f"spread={spread!r} is unknown: choose from {', '.join(SPREADS)}.")
    files = {
        system: results / f"toy-{spread}-{system[0]}-k{system[1]}-s{seed}.json"
        for system in SYSTEMS
    }
    missing = [system for system, file in files.items() if not file.is_file()]
    if missing:
        results.mkdir(parents=True, exist_ok=True)
        jobs = min(joblib.cpu_count(), len(missing))
        # the slowest first, so that no core is idle for long at the end
        missing.sort(key=lambda system: -system[1])
        for stem in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
            joblib.delayed(_measure)(*system, spread, seed, files[system]) for system in missing
        ):
            show(f"{stem} done")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files.values()]


def _measure(name: str, k: int, spread: str, seed: int, file: Path) -> str:
    """Trains and measures one system in a process of its own."""
    torch.set_num_threads(1)
    rng = numpy_stream(seed, "data")
    train, valid, test, truth, again = (
        draw(n, spread, rng) for n in (N_TRAIN, N_VALID, N_TEST, N_GENERATED, N_GENERATED)
    )
    loc, scale = (tuple(of(0).tolist()) for of in (train.mean, train.std))
    schema = Schema((1,), loc=loc, scale=scale)
    config = {
        "model": name,
        "likelihood": "gaussian",
        "n_components": k,
        **schema.features(),
    }
    model = build(**config, seed=seed)
    recipe = dataclasses.replace(RECIPE, seed=seed)
    started = time.monotonic()
    history = fit(model, torch.from_numpy(train), torch.from_numpy(valid), recipe)
    minutes = (time.monotonic() - started) / 60
    measured = evaluate(model, torch.from_numpy(test), None, IMPORTANCE_SAMPLES, seed)
    generated = {}
    for origin in ("aggregated", "uniform"):
        generator = torch_stream(seed, "sampling")
        x = model.sample(N_GENERATED, from_=origin, generator=generator)[0].numpy()[:, 0]
        generated[origin] = {
            "wasserstein": float(wasserstein_distance(x, truth[:, 0])),
            "valley_share": valley(x),
            "histogram": np.histogram(x, EDGES)[0].tolist(),
        }
    described = describe(schema, config, recipe)
    result = {
        "spread": spread,
        "model": name,
        "components": k,
        "seed": seed,
        "true_log_density_nats": float(log_density(test, spread).mean()),
        "wasserstein_of_true_samples": float(wasserstein_distance(truth[:, 0], again[:, 0])),
        "valley_share_true": valley(truth[:, 0]),
        "histogram_true": np.histogram(truth, EDGES)[0].tolist(),
        **measured,
        "drawn_from": model.drawn_from,
        "generated": generated,
        "aggregated": model.aggregated.numpy().round(5).tolist(),
        "minutes": minutes,
        "epochs": len(history),
        "config": {"shape": [1], **described["model"]},
        "recipe": described["recipe"],
        **provenance(),
        "curve": {key: [round(r[key], 4) for r in history] for key in CURVE},
    }
    write(file, result)
    return file.stem


def rows(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the command prints, a row a system; the truth comes last.

    ``log p(x)`` in nats, by importance samples; ``distance`` is the Wasserstein distance of 50,000
    generated points to as many true ones, and ``% between`` how many of them lie between the modes;
    then both again with c from the uniform prior.
    """
    table = []
    for result in results:
        own, other = (result["generated"][origin] for origin in _origins(result))
        table.append(
            {
                "model": f"{NAMES[result['model']]}, K={result['components']}",
                "log p(x)": result["log_likelihood_nats"],
                "distance": own["wasserstein"],
                "% between": 100 * own["valley_share"],
                "in use": result.get("components_used", 1),
                "uniform: distance": other["wasserstein"],
                "% between ": 100 * other["valley_share"],
            }
        )
    last = results[-1]
    truth = {
        "model": "the truth",
        "log p(x)": last["true_log_density_nats"],
        "distance": last["wasserstein_of_true_samples"],
        "% between": 100 * last["valley_share_true"],
        "in use": 2,
        "uniform: distance": "",
        "% between ": "",
    }
    return [*table, truth]


def seed_rows(by_seed: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row a system: log p(x) less that of the truth, and % between the modes, of each seed."""
    table = []
    for results in zip(*by_seed, strict=True):
        row = {"model": f"{NAMES[results[0]['model']]}, K={results[0]['components']}"}
        for result in results:
            less = result["log_likelihood_nats"] - result["true_log_density_nats"]
            between = 100 * result["generated"][_origins(result)[0]]["valley_share"]
            row[f"seed {result['seed']}"] = f"{less:.3f}, {between:.1f} %"
        table.append(row)
    return table


def _origins(result: dict[str, Any]) -> tuple[str, str]:
    """Where the paper draws components from, and the uniform prior, as keys of `generated`."""
    return result["drawn_from"], "uniform"


def histograms(results: Sequence[dict[str, Any]]) -> Figure:
    """Figure 3: what each system generates, over the truth."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    down = -(-(1 + len(results)) // 4)
    panels = figure.subplots(down, 4, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[1 + len(results) :]:
        axes.set_visible(False)
    _bars(panels[0], results[0]["histogram_true"], GREY, "ground truth")
    for axes, result in zip(panels[1:], results, strict=False):
        own = result["generated"][_origins(result)[0]]
        _line(axes, result["histogram_true"])
        name = f"{NAMES[result['model']]}, K={result['components']}"
        _bars(axes, own["histogram"], BLUE, f"{name}: {own['wasserstein']:.3f}")
    figure.supxlabel("x; beside each name the Wasserstein distance to the truth", fontsize=9)
    return figure


def excess(results: Sequence[dict[str, Any]]) -> Figure:
    """Figure 4: CP-VAE with K=150, c drawn from the aggregated posterior and from the uniform."""
    result = next(r for r in results if (r["model"], r["components"]) == ("cpvae", 150))
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    used, *panels = figure.subplots(1, 3)
    used.plot(sorted(result["aggregated"], reverse=True), color=BLUE)
    used.axhline(1 / result["components"], color=GREY, linewidth=1, linestyle="--")
    used.set_title("q(c), the most used first", fontsize=9)
    used.set_xlabel("component")
    plain(used)
    for axes, origin in zip(panels, ("aggregated", "uniform"), strict=True):
        _line(axes, result["histogram_true"])
        distance = result["generated"][origin]["wasserstein"]
        _bars(
            axes,
            result["generated"][origin]["histogram"],
            BLUE,
            f"c from the {origin}: {distance:.3f}",
        )
        axes.set_xlabel("x")
    return figure


def _bars(axes: Any, counts: Sequence[int], colour: str, title: str) -> None:
    axes.stairs(_density(counts), EDGES, fill=True, color=colour, alpha=0.8)
    axes.set_title(title, fontsize=9)
    plain(axes)


def _line(axes: Any, counts: Sequence[int]) -> None:
    axes.stairs(_density(counts), EDGES, color="black", linewidth=0.7)


def _density(counts: Sequence[int]) -> np.ndarray:
    return np.asarray(counts) / sum(counts) / np.diff(EDGES)

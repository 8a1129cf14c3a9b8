"""Measures speed and memory, beside the floor and beside peers, in one run: ``make bench``.

Whatever is compared is measured in turn, several times, and medians are compared: milliseconds
depend on the machine and its load, ratios within one run hardly do. Writes a list of records
(``name``, ``value``, ``unit``) and a table into ``benchmarks/results``. Leave the machine alone
meanwhile. What needs a CUDA device is measured where there is one.
"""

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from small import measure as measure_small
from steps import Floor, Step, paper_model

from cpvae.data import load
from cpvae.models.build import build
from cpvae.training import defaults
from cpvae.training.device import has_bfloat16
from cpvae.training.loop import TrainingData, fit
from cpvae.training.restarts import fit_restarts
from cpvae.versions import versions

HERE = Path(__file__).parent
COMPILED = "compiled"
DEVICES = ("cpu", "cuda")
PARTS = ["small", "steps", "stacks", "restarts", "processes", "peers", "bounds"]
SEEDS = 8  # of the bounds that are compared
WAYS = [("recorded", "float32"), (COMPILED, "float32"), (COMPILED, "bfloat16")]


class Records(list):
    """What was measured, printed as it comes."""

    def note(self, name: str, value: float, unit: str) -> None:
        """Adds a record."""
        self.append({"name": name, "value": round(value, 4), "unit": unit})
        print(f"{name:62s} {value:10.3f} {unit}", flush=True)


def in_turn(measures: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Each measured once to warm up and then in turn."""
    for measure in measures.values():
        measure()
    rounds = [{name: measure() for name, measure in measures.items()} for _ in range(repeats)]
    return {name: [r[name] for r in rounds] for name in measures}


def ratio(one: list[float], other: list[float]) -> float:
    """Median of the ratios of what was measured in the same round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def cases() -> dict[str, dict[str, Any]]:
    """What is measured beside its own floor: a name and the keywords of `Step`."""
    base = {"name": "cpvae", "n_components": 10, "batch": 100, "expectation": "relaxed"}
    made = {}
    for kernels in ("plain", "recorded", COMPILED):
        made[f"cpvae relaxed K=10 batch=100 {kernels}"] = {**base, "kernels": kernels}
    for expectation in ("straight_through", "exact"):
        made[f"cpvae {expectation} K=10 batch=100"] = {**base, "expectation": expectation}
    for k in (1, 50, 150, 500):
        made[f"cpvae relaxed K={k} batch=100"] = {**base, "n_components": k}
    for batch in (500, 2000):
        made[f"cpvae relaxed K=10 batch={batch}"] = {**base, "batch": batch}
    for name, k in [("vae", 1), ("mog", 10), ("vamp", 500), ("hvae", 1), ("hvamp", 500)]:
        made[f"{name} K={k} batch=100"] = {**base, "name": name, "n_components": k}
    for case in (
        {},
        {"expectation": "straight_through"},
        *({"n_components": k} for k in (150, 500)),
        {"batch": 500},
        {"name": "vae", "n_components": 1},
        {"name": "vamp", "n_components": 500},
    ):
        case = {**base, "precision": "bfloat16", **case}
        made["{name} {expectation} K={n_components} batch={batch} bfloat16".format(**case)] = case
    return made


def measure_steps(records: Records, repeats: int, device: str, only: str) -> None:
    """Steps of every system, expectation, K and batch size, each beside its own floor."""
    prefix = "" if device == "cpu" else f"{device} "
    for name, case in cases().items():
        if only not in name or (device == "cuda" and case.get("kernels") == "recorded"):
            continue
        if device == "cpu" and case.get("precision") == "bfloat16" and not has_bfloat16():
            continue
        step = Step(**{"kernels": COMPILED, **case}, device=device)
        shape = (case[key] for key in ("name", "n_components", "batch", "expectation"))
        floor = Floor(*shape, device=device)
        taken = in_turn({"step": step.milliseconds, "floor": floor.milliseconds}, repeats)
        for what, values in taken.items():
            records.note(f"{prefix}{name} {what}", statistics.median(values), "ms")
        records.note(f"{prefix}{name} ratio", ratio(taken["step"], taken["floor"]), "1")


def measure_stacks(records: Records, repeats: int, device: str) -> None:
    """Steps of 1, 8 and 64 restarts as one stack of models."""
    prefix = "" if device == "cpu" else f"{device} "
    for count in (1, 8, 64):
        step = Step("cpvae", 10, 100, restarts=count, kernels=COMPILED, device=device)
        (taken,) = in_turn({"step": step.milliseconds}, min(repeats, 3)).values()
        name = f"{prefix}stack of {count} restarts, a step of one of them"
        records.note(name, statistics.median(taken) / count, "ms")


def measure_restarts(records: Records) -> None:
    """Eight restarts by `fit_restarts`, on the processor, against eight times one, by the defaults:
    10,000 steps.
    """
    x = torch.rand(10_000, 784, generator=torch.Generator().manual_seed(0))
    config = defaults.model_config(x.numpy())
    recipe = defaults.recipe(len(x), config, "cpu", patience=1000)
    seconds = []
    for count in (1, 8, 1):  # one before and one after, because the machine's load changes
        started = time.perf_counter()
        fit_restarts(config, recipe, count, TrainingData(x, x[:500]), accelerator="cpu")
        seconds.append(time.perf_counter() - started)
        name = f"{count} restarts of {recipe.max_epochs * len(x) // recipe.batch_size} steps"
        records.note(f"{name}, {recipe.precision}, with process start", seconds[-1], "s")
    before, eight, after = seconds
    cost = eight / (4 * (before + after))
    records.note(f"8 restarts over eight times 1, {recipe.precision}", cost, "1")


def measure_processes(records: Records, repeats: int) -> None:
    """Peak memory, the help text, and the time from the shell to the first step."""
    for name, k in [("cpvae", 10), ("cpvae", 150), ("cpvae", 500), ("vamp", 500)]:
        script = [sys.executable, "-W", "ignore", str(HERE / "memory.py"), name, str(k), "plain"]
        answer = subprocess.run(script, capture_output=True, text=True, check=True).stdout
        peak, parameters = answer.split()
        records.note(f"{name} K={k} peak memory above a vae's process", float(peak), "MB")
        megabytes = 16 * int(parameters) / 2**20  # weight, gradient and two moments of four bytes
        records.note(f"{name} K={k} parameters, gradients and Adam", megabytes, "MB")
    cpvae = str(Path(sys.executable).with_name("cpvae"))
    helps, firsts = [], []
    for _ in range(repeats):
        started = time.time()
        subprocess.run([cpvae, "--help"], capture_output=True, check=True)
        helps.append(time.time() - started)
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(HERE / "first_step.py"), "fit", "digits"]
            env = {**os.environ, "STARTED": str(time.time())}
            step = subprocess.run(
                [*command, "--out", f"{folder}/run"], capture_output=True, text=True, env=env
            )
            firsts.append(float(step.stdout))
    records.note("cpvae --help", statistics.median(helps), "s")
    records.note("cpvae fit digits, shell to first step", statistics.median(firsts), "s")


def measure_bounds(records: Records) -> None:
    """The validation bound on MNIST after `fit --max-epochs 5`, in bfloat16 less in float32, seed
    by seed; and in float32 on two threads less on one, which is the same sums in another order.
    """
    splits = load("mnist")
    x, valid = splits.train.tensor(), splits.valid.tensor()
    config = defaults.model_config(splits.train.x)

    def bound(seed: int, precision: str, threads: int) -> float:
        recipe = defaults.recipe(len(x), config, "cpu", seed=seed, max_epochs=5)
        recipe = dataclasses.replace(recipe, precision=precision)
        torch.set_num_threads(threads)
        model = build(**{**config, "seed": seed})
        return fit(model, x, valid, recipe, accelerator="cpu")[-1]["valid_elbo_nats"]

    moves = []
    for seed in range(SEEDS):
        plain = bound(seed, "float32", 1)
        moves.append(bound(seed, "bfloat16", 1) - plain)
        records.note(f"bound after 5 epochs, seed {seed}, bfloat16 less float32", moves[-1], "nats")
        if seed < 2:
            move = bound(seed, "float32", 2) - plain
            records.note(f"bound after 5 epochs, seed {seed}, 2 threads less 1", move, "nats")
    largest = max(map(abs, moves))
    records.note("bound after 5 epochs, bfloat16, largest move of a seed", largest, "nats")


class Peers:
    """Public implementations in a process and an environment of their own."""

    def __init__(self, python: Path, data: np.ndarray, folder: str):
        np.save(f"{folder}/x.npy", data)
        self.process = subprocess.Popen(
            [python, HERE / "peers" / "serve.py", f"{folder}/x.npy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")},
        )

    def measure(self, name: str) -> dict[str, Any]:
        """One measurement: ``ms`` a step, ``parameters`` and all ``losses`` so far."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The peer {name} ended without an answer: run serve.py by hand.")
        return json.loads(answer)


def measure_peers(records: Records, repeats: int, python: Path) -> None:
    """Epochs of ours and of the peers in turn, on data with something to learn."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((10_000, 10)) @ rng.standard_normal((10, 784))
    x = (1 / (1 + np.exp(-logits))).astype(np.float32)
    pairs = {
        "pythae vae": ("vae", 1),
        "pythae vamp K=500": ("vamp", 500),
        "jax cpvae relaxed K=10": ("cpvae", 10),
        "scikit-learn GaussianMixture K=10": None,
    }
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(python, x, folder)
        for peer, system in pairs.items():
            answers: list[dict[str, Any]] = []

            def theirs(peer: str = peer, answers: list[dict[str, Any]] = answers) -> float:
                answers.append(peers.measure(peer))
                return answers[-1]["ms"]

            measures: dict[str, Callable[[], float]] = {peer: theirs}
            if system:
                data = torch.from_numpy(x)
                for kernels, precision in WAYS:
                    if precision == "bfloat16" and not has_bfloat16():
                        continue
                    step = Step(*system, 100, kernels=kernels, precision=precision, data=data)
                    way = kernels if precision == "float32" else f"{kernels} {precision}"
                    measures[f"cpvae's {system[0]} K={system[1]} {way}"] = step.milliseconds
            taken = in_turn(measures, repeats)
            for name, values in taken.items():
                records.note(f"{name}, a step of an epoch", statistics.median(values), "ms")
                if name != peer:
                    records.note(f"{peer} over {name}", ratio(taken[peer], values), "1")
            losses, size = answers[-1]["losses"], answers[-1]["parameters"]
            records.note(f"{peer} parameters", size, "1")
            if system:
                records.note(f"{system[0]} K={system[1]} parameters", step.parameters, "1")
                assert losses[-1] < losses[0], f"{peer} does not learn: {losses}"
                same = sum(p.numel() for p in paper_model(*system).parameters())
                assert abs(size - same) <= 784, f"{peer} is another model: {size} and {same}"
        peers.process.terminate()


def write(records: Records) -> Path:
    """The records as JSON and as a table, under the hardware's name.

    Records of parts that were not measured this time stay.
    """
    machine = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    stem = HERE / "results" / machine.lower().replace(" ", "-")
    stem.parent.mkdir(exist_ok=True)
    file = stem.with_suffix(".json")
    stored = json.loads(file.read_text())["records"] if file.is_file() else []
    named = {record["name"]: record for record in [*stored, *records]}
    about = {"versions": versions(), "records": list(named.values())}
    file.write_text(json.dumps(about, indent=1) + "\n")
    table = Table("what", "value", "unit", box=None)
    for record in named.values():
        table.add_row(record["name"], f"{record['value']:.3f}", record["unit"])
    with open(stem.with_suffix(".txt"), "w") as out:
        Console(file=out, width=110).print(table)
    return stem


def _processor() -> str:
    name = versions()["processor"]
    capability = torch.backends.cpu.get_cpu_capability()
    return re.sub(r"\(R\)|,", "", f"{platform.machine()} {name} {capability}")


def main() -> None:
    """Measures everything, or the parts that are named."""
    here = DEVICES if torch.cuda.is_available() else DEVICES[:1]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each, in turn")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all where none is named")
    parser.add_argument("--device", choices=here, help="of steps and stacks; all if left out")
    parser.add_argument("--only", default="", help="steps with this text in their name")
    parser.add_argument("--peers", type=Path, help="Python of the environment that has the peers")
    arguments = parser.parse_args()
    records, repeats = Records(), arguments.repeats
    parts = arguments.parts or PARTS
    for device in [arguments.device] if arguments.device else here:
        if "steps" in parts:
            measure_steps(records, repeats, device, arguments.only)
        if "stacks" in parts:
            measure_stacks(records, repeats, device)
    if "small" in parts:
        peers = arguments.peers and arguments.peers.absolute()
        measure_small(records.note, min(repeats, 3), peers)
    if "restarts" in parts:
        measure_restarts(records)
    if "processes" in parts:
        measure_processes(records, min(repeats, 5))
    if not has_bfloat16():
        print("bfloat16 is left out: this processor has no instructions for it")
    elif "bounds" in parts:
        measure_bounds(records)
    if "peers" in parts and arguments.peers:
        measure_peers(records, repeats, arguments.peers.absolute())
    print(f"-> {write(records)}.json")


if __name__ == "__main__":
    main()

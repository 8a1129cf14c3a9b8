"""Several processes train one model as one process does."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from cpvae.data.augment import named
from cpvae.models.build import build
from cpvae.training import processes
from cpvae.training.loop import TrainingData, fit
from cpvae.training.recipe import Recipe
from cpvae.training.refine import refine

pytestmark = pytest.mark.usefixtures("without_shape_checks")
NAMES = ("invariance", "residual")


def trained(name: str, rows: int = 95):
    """A model and its history, by two epochs on a table with a batch left over at its end."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows + 40, 5, generator=generator) + 4 * torch.arange(rows + 40)[:, None] % 3
    units = {"shape": [5], "loc": [0.0] * 5, "scale": [1.0] * 5, "n_components": 3, "seed": 0}
    data = TrainingData(x[:rows], x[rows:])
    if name == "residual":
        x[::9, 2] = float("nan")
        kinds = {"kinds": ["number"] * 5, "limits": [[0.0, None, None]] * 5, "n_levels": [0] * 5}
        config = {"model": "residual", "likelihood": "mixed", "latent_dim": 5, "hidden": [8]}
        model = build(**units, **kinds, **config)
        recipe = Recipe(max_epochs=4, batch_size=40, anneal_epochs=0, learning_rate=3e-3)
        return model, refine(model, data, recipe)
    config = {"model": "cpvae", "likelihood": "gaussian", "latent_dim": 2, "hidden": [8]}
    model = build(**units, **config, mixing_weights="uniform")
    # rows + 1 so that the last batch has one row, fewer than processes
    recipe = {"max_epochs": 2, "batch_size": 47, "pretraining_epochs": 1, "anneal_epochs": 2}
    if name == "invariance":
        data = data._replace(augment=named("masking", (5,)))
        recipe |= {"invariance_weight": 2.0, "marginal_entropy": 8.0}
    else:
        recipe |= {"max_epochs": 1600, "batch_size": 47, "patience": 3, "anneal_epochs": 2}
    return model, fit(model, data.train, data.valid, Recipe(**recipe), data.augment)


def work(rank: int, out: Path, names: Sequence[str]) -> None:
    """What each of two processes does."""
    dist.init_process_group("gloo", f"file://{out}/store", rank=rank, world_size=2)
    assert (processes.rank(), processes.size()) == (rank, 2)
    for name in names:
        model, history = trained(name)
        torch.save({"model": model.state_dict(), "history": history}, out / f"{name}-{rank}.pt")
    try:
        trained(names[0], rows=95 + rank)
    except ValueError as error:
        (out / f"error-{rank}").write_text(str(error))
    dist.destroy_process_group()


def close(mine, other, tolerance=1e-5):
    return all(
        torch.allclose(mine[key].float(), other[key].float(), atol=tolerance) for key in other
    )


def compare(out: Path, names: Sequence[str]) -> None:
    """Trains in two processes of their own, and in this one."""
    command = [sys.executable, __file__]
    logs = [out / f"log-{i}" for i in (0, 1)]
    started = []
    for i, log in enumerate(logs):
        with log.open("wb") as file:
            started.append(subprocess.Popen([*command, str(i), str(out), *names], stderr=file))
    try:
        ended = [process.wait(120) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert ended == [0, 0], "".join(log.read_text() for log in logs)
    for name in names:
        alone, history = trained(name)
        first, second = (torch.load(out / f"{name}-{i}.pt") for i in (0, 1))
        assert len(history) == len(first["history"]) == len(second["history"])
        for mine, other in zip(first["history"], history, strict=True):
            for key in other.keys() - {"seconds"}:
                assert mine[key] == pytest.approx(other[key], abs=1e-4), (name, key)
        assert close(first["model"], alone.state_dict()), name
        assert close(first["model"], second["model"], 0.0), name


def test_two_processes_train_as_one_and_refuse_two_things(tmp_path):
    compare(tmp_path, NAMES)
    for i in (0, 1):
        said = (tmp_path / f"error-{i}").read_text()
        assert said.startswith("Process 1 has another data and another validation data")


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])

"""The paper's experiments: what a cell trains, measures and writes."""

import dataclasses
import json

import pytest

from cpvae import data
from cpvae.models import MODELS
from cpvae.paper import accuracy, table1

SMALL = {"max_epochs": 2, "anneal_epochs": 1, "patience": 5}


def test_the_table_has_the_cells_of_the_paper():
    assert len(table1.CELLS) == len({cell[:3] for cell in table1.CELLS}) == 24
    assert sum(cell.dataset == "mnist" for cell in table1.CELLS) == 14
    assert {cell.model for cell in table1.CELLS} == set(MODELS)
    assert all(cell.components == 1 for cell in table1.CELLS if cell.model in ("vae", "hvae"))


@pytest.mark.parametrize(("model", "components"), [("cpvae", 3), ("hvae", 1), ("vamp", 4)])
def test_a_cell_lands_as_one_file_a_seed_and_is_not_run_again(
    tmp_path, monkeypatch, model, components
):
    monkeypatch.setattr(table1, "RECIPE", dataclasses.replace(table1.RECIPE, **SMALL))
    monkeypatch.setattr(table1, "IMPORTANCE_SAMPLES", 3)
    splits = data.load("digits")
    cell = table1.Cell("digits", model, components, 30.0)
    written = table1.run(cell, [0, 1], splits, tmp_path, accelerator="cpu")
    assert [file.name for file in written] == [
        f"digits-{model}-k{components}-s{seed}.json" for seed in (0, 1)
    ]
    result = json.loads(written[1].read_text())
    assert result["seed"] == result["recipe"]["seed"] == 1
    assert result["epochs"] == 2 == len(result["curve"]["valid_elbo_exact_nats"])
    assert {"elbo_nats", "elbo_relaxed_nats", "log_likelihood_nats", "minutes"} <= set(result)
    assert result["log_likelihood_nats"] > result["elbo_nats"] - 1
    assert result["n_components"] == components
    before = written[0].stat().st_mtime_ns
    (again,) = table1.run(cell, [0, 1, 2], splits, tmp_path, accelerator="cpu")
    assert again.name.endswith("-s2.json")
    assert written[0].stat().st_mtime_ns == before


def test_accuracy_is_measured_for_every_seed(tmp_path):
    files = accuracy.run(
        "digits", "affine", 10, [3], data.load("digits"), tmp_path, "cpu", max_epochs=2
    )
    result = json.loads(files[0].read_text())
    assert result["objective"] == "affine"
    assert result["recipe"]["invariance"] == accuracy.OBJECTIVES["affine"]["invariance"]
    assert {"accuracy", "purity", "nmi", "ari", "elbo_nats"} <= set(result)

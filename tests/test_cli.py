"""The command line as a person meets it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas
import pyarrow as pa
import pytest
import typer
from PIL import Image
from pyarrow import csv, parquet
from safetensors.torch import load_file

from cpvae import CPVAE, data
from cpvae.cli import main as cli
from cpvae.models.build import MODELS

pytestmark = pytest.mark.usefixtures("without_shape_checks")

FIT = ["fit", "digits", "--max-epochs", "3", "--components", "10", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "digits"
    command = [sys.executable, "-c", "from cpvae.cli.main import main; main()", *FIT, "--out", run]
    subprocess.run(command, check=True, capture_output=True)
    return run


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=200)
    columns = {f"f{i}": rng.normal(size=200) * 10**i + 5 * 10**i * kind for i in range(4)}
    path = tmp_path / "table.csv"
    csv.write_csv(pa.table({**columns, "kind": [f"k{i}" for i in kind]}), path)
    return path


def test_help_names_every_command(cpvae):
    code, out, _ = cpvae("--help")
    assert code == 0
    for command in typer.main.get_command(cli.app).commands:
        assert command in out
        assert cpvae(command, "--help")[0] == 0
    assert cpvae("--version")[1].startswith("cpvae 0.")


def test_fit_writes_exactly_these_files(digits_run):
    names = {p.relative_to(digits_run).as_posix() for p in digits_run.rglob("*") if p.is_file()}
    figures = {
        f"figures/{n}.png" for n in ("codes", "components", "curves", "reconstructions", "usage")
    }
    assert (
        names
        == {"run.json", "history.jsonl", "model.safetensors", "training.safetensors"} | figures
    )
    info = json.loads((digits_run / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["epochs"] == 3
    history = [json.loads(line) for line in (digits_run / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2, 3]


@pytest.fixture
def wide(few_and_wide, tmp_path):
    path = tmp_path / "wide.csv"
    csv.write_csv(pa.table({f"f{i}": column for i, column in enumerate(few_and_wide.T)}), path)
    return path


EAGER = ("--set", "learning_rate=0.005", "--set", "batch_size=24")


def test_fit_says_where_the_model_overfitted(cpvae, wide, tmp_path):
    asked = ["--components", 3, "--max-epochs", 100, "--out", tmp_path / "run"]
    code, _, err = cpvae("fit", wide, *asked, *EAGER)
    assert code == 0
    text = " ".join(err.split())
    assert "while components were still forming" in text
    assert "Fit again with --max-epochs" in text
    assert "not clearly in one component" not in text
    assert "it is fitted again" not in text  # a hundred epochs were asked for


@pytest.mark.parametrize("restarts", [1, 2])
def test_fit_begins_again_where_the_model_overfitted(cpvae, wide, tmp_path, monkeypatch, restarts):
    monkeypatch.setattr("cpvae.training.defaults.STEPS", 0)  # a hundred epochs
    run = tmp_path / "run"
    fit = ("fit", wide, "-k", 3, "--restarts", restarts, "--out", run, *EAGER)
    code, _, err = cpvae(*fit, "--logger", "csv")
    assert code == 0
    text = " ".join(err.split())
    assert text.count("it is fitted again in that many epochs") == 1
    epochs = int(re.search(r"overfitted after epoch (\d+)", text)[1])
    info = json.loads((run / "run.json").read_text())
    assert (info["recipe"]["max_epochs"], info["shortened_from"]) == (epochs, 100)
    assert max(restart["epochs"] for restart in info["restarts"]) <= epochs
    assert len((run / "history.jsonl").read_text().splitlines()) == info["epochs"] <= epochs
    assert max(csv.read_csv(run / "logs/csv/metrics.csv")["step"].to_pylist()) <= epochs
    code, _, err = cpvae(*fit, "--resume")
    assert code == 0
    assert "it is fitted again" not in err
    again = json.loads((run / "run.json").read_text())
    assert (again["recipe"], again["shortened_from"]) == (info["recipe"], 100)


def test_evaluate_prints_one_flat_object(cpvae, digits_run):
    code, out, _ = cpvae("evaluate", digits_run, "--json", "--samples", 20)
    result = json.loads(out)
    assert code == 0
    wanted = "elbo_exact_nats elbo_relaxed_nats log_likelihood_nats kl_c_nats kl_z_nats"
    wanted += " mutual_information_nats components_used accuracy purity nmi ari"
    assert set(wanted.split()) <= set(result)
    assert all(isinstance(value, (int, float)) for value in result.values())
    _, named, _ = cpvae("evaluate", digits_run, "digits", "--json", "--samples", 20)
    assert json.loads(named) == result
    code, out, _ = cpvae("evaluate", digits_run, "--samples", 2)
    assert code == 0
    assert "elbo_exact_nats" in out


def test_generate_images(cpvae, digits_run, tmp_path):
    code, out, _ = cpvae(
        "generate", digits_run, "--component", 3, "-n", 9, "--out", tmp_path / "g.png"
    )
    assert code == 0
    assert "component 3" in out
    with Image.open(tmp_path / "g.png") as sheet:
        assert sheet.size[0] > 100
    cpvae("generate", digits_run, "-n", 9, "--from", "uniform", "--out", tmp_path / "g.npz")
    with np.load(tmp_path / "g.npz") as made:
        assert made["x"].shape == (9, 1, 8, 8)
        assert made["component"].shape == (9,)


def test_the_main_job_on_a_table(cpvae, table, tmp_path):
    run = tmp_path / "run"
    code, _, err = cpvae("fit", table, "-k", 2, "--label", "kind", "--max-epochs", 80, "--out", run)
    assert code == 0
    assert "mixed likelihood" in err
    result = json.loads(cpvae("evaluate", run, "--json", "--samples", 10)[1])
    assert result["accuracy"] > 0.95
    code, out, _ = cpvae("generate", run, "-c", 1, "-n", 50, "--out", tmp_path / "made.parquet")
    made = parquet.read_table(tmp_path / "made.parquet")
    assert made.column_names == ["f0", "f1", "f2", "f3", "component"]
    assert set(made["component"].to_pylist()) == {1}
    code, out, _ = cpvae("assign", run, table, "--out", tmp_path / "assigned.csv")
    assert code == 0
    assigned = csv.read_csv(tmp_path / "assigned.csv")
    told = ["component", "probability", "log_density", "place", "outlier"]
    assert assigned.column_names == [*told, "p_0", "p_1"]
    kinds = csv.read_csv(table)["kind"].to_numpy() == "k1"
    agreement = (assigned["component"].to_numpy() == 1) == kinds
    assert max(agreement.mean(), 1 - agreement.mean()) > 0.95
    code, out, _ = cpvae("report", run)
    assert code == 0
    page = (run / "report.html").read_text()
    assert "nats" in page
    assert re.search(r"<th>component</th>\s*<th class=\"number\">k0</th>", page)
    assert not re.search(r"\w  +\w", re.sub(r"\s*\n\s*", " ", page.split("<main>")[1]))
    text, images = re.subn(r"data:image/png;base64,[\w+/=]+", "", page)
    assert "http" not in text
    assert images == 5
    assert text.count("<svg") == 8  # a panel for each column of each component
    assert text.index("What each component is") < text.index("Measured on the test data")


@pytest.mark.parametrize("model", sorted(set(MODELS) - {"cpvae", "residual"}))
@pytest.mark.parametrize("data", ["digits", "table"])
def test_every_system_does_the_whole_job(cpvae, table, tmp_path, model, data):
    run, several = tmp_path / "run", model not in ("vae", "hvae")
    source = ["digits"] if data == "digits" else [table, "--label", "kind"]
    fit = ["fit", *source, "--model", model, "--out", run, *(["-k", 3] if several else [])]
    assert cpvae(*fit, "--max-epochs", 2)[0] == 0
    code, _, err = cpvae(*fit, "--max-epochs", 4, "--resume")
    assert code == 0
    assert f"Model {model}" in err
    assert "not clearly in one component" not in err  # it has none to tell apart
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["epochs"]) == ("finished", 4)
    assert info["model"]["n_components"] == (3 if several else 1)
    result = json.loads(cpvae("evaluate", run, "--json", "--samples", 10)[1])
    assert {"elbo_exact_nats", "log_likelihood_nats", "kl_z_nats"} <= set(result)
    assert ("accuracy" in result) == several
    assert not {"elbo_relaxed_nats", "kl_c_nats"} & set(result)
    last = info["model"]["n_components"] - 1
    assert cpvae("generate", run, "--component", last, "--out", tmp_path / "g.npz")[0] == 0
    with np.load(tmp_path / "g.npz") as made:
        assert set(made["component"]) == {last}
    assert "There is no component" in cpvae("generate", run, "--component", last + 1)[2]
    assert cpvae("assign", run, source[0], "--out", tmp_path / "a.csv")[0] == 0
    assert cpvae("report", run)[0] == 0
    page = (run / "report.html").read_text()
    of_components = 2 * info["model"]["n_components"] if data == "digits" else 0
    assert page.count("data:image/png;base64") == (4 if several else 3) + of_components
    assert "Relaxed" not in page


def test_a_table_of_numbers_starts_as_a_mixture_and_says_what_it_gained(cpvae, table, tmp_path):
    run = tmp_path / "run"
    fit = ("fit", table, "-k", 2, "--label", "kind", "--out", run)
    code, _, err = cpvae(*fit, "--max-epochs", 30)
    assert code == 0
    assert "Model residual" in err
    assert "A Gaussian mixture describes this table as well" in err  # it is one
    info = json.loads((run / "run.json").read_text())
    assert (info["status"], info["best_epoch"]) == ("finished", 0)
    assert 0 < info["epochs"] <= 30
    weights = (run / "model.safetensors").read_bytes()
    code, _, err = cpvae("fit", table, "--out", run, "--resume")
    assert code == 0
    assert (run / "model.safetensors").read_bytes() == weights  # a run of seconds begins again
    result = json.loads(cpvae("evaluate", run, "--json", "--samples", 10)[1])
    assert {"elbo_exact_nats", "log_likelihood_nats", "kl_c_nats", "accuracy"} <= set(result)
    assert cpvae("report", run)[0] == 0
    assert "A Gaussian mixture describes this table" in (run / "report.html").read_text()
    assert cpvae("compact", run, "--out", tmp_path / "small")[0] == 0
    code, _, err = cpvae("fit", "digits", "--model", "residual", "--out", tmp_path / "images")
    assert code != 0
    assert "The model 'residual' is for tables" in err


def test_restarts_keep_the_best_and_go_on(cpvae, table, tmp_path):
    run = tmp_path / "run"
    fit = ("fit", table, "-k", 2, "--label", "kind", "--max-epochs", 5, "--out", run, "--restarts")
    code, _, err = cpvae(*fit, 2)
    assert code == 0
    assert "validation bound" in err
    info = json.loads((run / "run.json").read_text())
    bounds = [restart["best_valid_elbo_nats"] for restart in info["restarts"]]
    assert len(bounds) == 2
    assert info["best_valid_elbo_nats"] == max(bounds)
    assert cpvae(*fit, 3, "--resume")[0] == 0
    more = json.loads((run / "run.json").read_text())["restarts"]
    assert [r["best_valid_elbo_nats"] for r in more[:2]] == bounds
    code, _, err = cpvae(*fit, 1, "--resume")
    assert code == 2
    assert "was started with --restarts 3" in err
    assert json.loads(cpvae("evaluate", run, "--json", "--samples", 2)[1])["n_components"] == 2
    assert cpvae("report", run)[0] == 0
    assert "in the same component in 2 other fits" in (run / "report.html").read_text()
    assert cpvae(*fit, 1, "--overwrite")[0] == 0
    assert not list(run.glob("restarts/*"))


def test_assign_names_the_files_of_a_folder(cpvae, digits_run, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(pictures / f"{i}.png")
    assert cpvae("assign", digits_run, pictures, "--out", tmp_path / "a.csv")[0] == 0
    assert csv.read_csv(tmp_path / "a.csv")["file"].to_pylist() == ["0.png", "1.png", "2.png"]


def test_killed_and_resumed_ends_bitwise_equal(tmp_path):
    def command(run, *more):
        main = [sys.executable, "-c", "from cpvae.cli.main import main; main()"]
        return [*main, *FIT, "--max-epochs", "12", "--out", str(tmp_path / run), *more]

    subprocess.run(command("whole"), check=True, capture_output=True)
    process = subprocess.Popen(
        command("killed"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    history = tmp_path / "killed" / "history.jsonl"
    while not history.exists() or history.read_text().count("\n") < 5:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["status"] == "running"
    subprocess.run(command("killed", "--resume"), check=True, capture_output=True)
    whole, resumed = (
        load_file(tmp_path / run / "model.safetensors") for run in ("whole", "killed")
    )
    assert whole.keys() == resumed.keys()
    assert all(whole[key].numpy().tobytes() == resumed[key].numpy().tobytes() for key in whole)


def test_runs_are_not_lost(cpvae, digits_run, tmp_path, monkeypatch):
    before = (digits_run / "model.safetensors").read_bytes()
    code, _, err = cpvae(*FIT, "--out", digits_run)
    assert code == 2
    assert "--resume" in err
    code, _, err = cpvae(*FIT, "--out", digits_run, "--resume", "--set", "learning_rate=0.5")
    assert code == 2
    assert "learning_rate=0.001" in err
    code, _, err = cpvae(*FIT, "--out", digits_run, "--resume", "--overwrite")
    assert code == 2
    assert (digits_run / "model.safetensors").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cpvae(*FIT)[0] == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["digits", "digits-2"]


def bad_inputs(tmp_path):
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{a},{b}" for a, b in rng.normal(size=(50, 2)))
    contents = {
        "bare.csv": "a,b\n" + rows + "\nnan,\n",
        "inf.csv": "a,b\n" + rows + "\ninf,1\n",
        "header.csv": "a,b\n",
        "one.csv": "a,b\n1,2\n",
        "constant.csv": "a,b\n" + "\n".join(f"{v},3" for v in rng.normal(size=50)),
        "text.csv": "a,b\n" + "\n".join(f"{v},x{v}" for v in rng.normal(size=50)),
        "good.csv": "a,b\n" + rows,
        "empty.csv": "",
    }
    for name, content in contents.items():
        (tmp_path / name).write_text(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bare.csv"], "1 rows have no values, row 50 first"),
        (["inf.csv"], "1 infinite values in column a"),
        (["empty.csv"], "empty"),
        (["header.csv"], "empty"),
        (["one.csv"], "one row"),
        (["constant.csv"], "Column b is constant"),
        (["text.csv", "--kind", "b=categorical"], "column b is text with 50 different values in"),
        (["good.csv", "--size", "28"], "not a folder of images"),
        (["good.csv", "--size", "big"], "write HEIGHTxWIDTH"),
        (["good.csv", "--kind", "a"], "write COLUMN=KIND"),
        (["good.csv", "--kind", "a=count"], "Column 'a' cannot be count"),
        (["good.csv", "--kind", "c=count"], "There is no column 'c': there are a, b"),
        (["good.csv", "--kind", "count", "--kind", "a=count"], "write COLUMN=KIND"),
        (["nowhere.csv"], "neither a file"),
        (["good.csv", "-k", "0"], "n_components=0"),
        (["good.csv", "-k", "41"], "from 1 to 40"),
        (["good.csv", "-k", "many"], "valid integer"),
        (["good.csv", "--nonsense"], "--nonsense"),
        (["good.csv", "--likelihood", "bernoulli"], "needs data in [0, 1]"),
        (["good.csv", "--likelihood", "poisson"], "poisson"),
        (["good.csv", "--max-epochs", "0"], "max_epochs=0"),
        (["good.csv", "--set", "batch_size=0"], "batch_size=0"),
        (["good.csv", "--invariance", "affine"], "invariance term off"),
        (["good.csv", "--seed", "-1"], "--seed"),
        (["good.csv", "--set", "network=conv"], "needs images"),
        (["good.csv", "--restarts", "0"], "--restarts"),
        (["good.csv", "--model", "gmm"], "gmm"),
        (["good.csv", "--model", "vae", "-k", "3"], "which is one component"),
        (
            ["good.csv", "--model", "vamp", "--set", "gate=category"],
            "gate is no setting",
        ),
        (["good.csv", "--model", "mog", "--set", "pseudo_inputs=data"], "one of vamp, hvamp"),
        (["good.csv", "--model", "hvae", "--set", "expectation=exact"], "has none"),
        (["good.csv", "--set", "expectation"], "write NAME=VALUE"),
        (["good.csv", "--set", "speed=3"], "no setting 'speed': choose from anneal_epochs"),
        (["good.csv", "--set", "learning_rate=fast"], "use a number"),
        (["good.csv", "--learning-rate", "0.1"], "it is --set learning_rate=VALUE now"),
        (["good.csv", "--estimator", "exact"], "it is --set expectation=VALUE now"),
        (["good.csv", "--weights", "uniform"], "it is --mixing-weights now"),
        ([], "DATA"),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(
    cpvae, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    bad_inputs(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cpvae("fit", *arguments)
    assert code == 2, err
    assert message in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not out
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_use_of_a_run(cpvae, digits_run, tmp_path):
    np.save(tmp_path / "wide.npy", np.zeros((3, 9)))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"format": 1, "mod')
    newer = tmp_path / "newer"
    newer.mkdir()
    (newer / "run.json").write_text('{"format": 99}')
    for arguments, message in [
        (["generate", digits_run, "--component", 10], "no component '10': there are 0, 1, 2"),
        (["generate", digits_run, "--component", -1], "no component '-1'"),
        (["generate", digits_run, "--out", tmp_path / "x.jpg"], "must end in one of .png, .npz"),
        (["generate", tmp_path], "is not a run folder"),
        (["evaluate", broken], "damaged"),
        (["report", newer], "upgrade cpvae"),
        (["assign", digits_run, tmp_path / "wide.npy"], "fitted to shape (1, 8, 8)"),
        (["evaluate", digits_run, tmp_path / "wide.npy"], "fitted to shape (1, 8, 8)"),
        (["frobnicate"], "frobnicate"),
    ]:
        code, out, err = cpvae(*arguments)
        assert (code, out) == (2, ""), err
        assert message in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("asked", [("--set", "precision=bfloat16"), ("--accelerator", "none")])
def test_what_cannot_be_trained_is_refused_before_a_run_is_replaced(cpvae, table, tmp_path, asked):
    run = tmp_path / "run"
    fit = ("fit", table, "--components", 2, "--label", "kind", "--max-epochs", 1, "--out", run)
    assert cpvae(*fit)[0] == 0
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    code, out, err = cpvae(*fit, "--overwrite", *asked)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_compact_writes_a_smaller_run_that_all_commands_read(cpvae, tmp_path):
    rng = np.random.default_rng(0)
    kind = rng.integers(2, size=300)
    columns = {f"f{i}": 8 * kind + rng.normal(size=300) for i in range(3)}
    csv.write_csv(pa.table(columns), tmp_path / "two.csv")
    run, small = tmp_path / "run", tmp_path / "small"
    fit = ("fit", tmp_path / "two.csv", "-k", 6, "--max-epochs", 40, "--accelerator", "cpu")
    assert cpvae(*fit, "--out", run)[0] == 0
    code, out, _ = cpvae("compact", run, "--out", small)
    assert code == 0
    info = json.loads((small / "run.json").read_text())
    assert info["model"]["n_components"] == 2
    assert info["compacted"]["from"] == 6
    assert "6 components" in out
    assert "2 components" in out
    assert cpvae("generate", small, "--component", 1, "--out", tmp_path / "x.csv")[0] == 0
    assert cpvae("generate", small, "--component", 2)[0] == 2
    assert json.loads(cpvae("evaluate", small, "--json")[1])["n_components"] == 2
    assert cpvae("report", small)[0] == 0
    assert "How many components" in (small / "report.html").read_text()
    assert (small / "figures/components.png").is_file()
    assert "components.png" in out
    assert "strongly connected" not in (small / "report.html").read_text()
    assert "already holds a run" in cpvae("compact", run, "--out", small)[2]
    code, out, _ = cpvae("compact", run, "--out", small, "--overwrite", "--merge-connected")
    assert code == 0
    assert "2 components" in out  # clusters that stand apart stay apart
    assert json.loads((small / "run.json").read_text())["compacted"]["merge_connected"] is True
    assert cpvae("report", small)[0] == 0
    assert "strongly connected" in (small / "report.html").read_text()


def test_a_table_with_missing_values_goes_all_the_way(cpvae, blobs, tmp_path):
    rng = np.random.default_rng(0)
    x = blobs[0] / 1000 + 0.4  # within [0, 1], where whole data would be taken for probabilities
    cells = [[f"{v:.5f}" if rng.random() > 0.2 else "" for v in row] for row in x[:, :4]]
    cells = [row if any(row) else ["0.4"] * 4 for row in cells]
    table, run = tmp_path / "holes.csv", tmp_path / "run"
    table.write_text("a,b,c,d\n" + "\n".join(map(",".join, cells)) + "\n")
    assert cpvae("fit", str(table), "-k", "3", "--max-epochs", "4", "--out", str(run))[0] == 0
    assert json.loads((run / "run.json").read_text())["model"]["likelihood"] == "mixed"
    for command in (
        ["evaluate", str(run)],
        ["assign", str(run), str(table), "--out", str(tmp_path / "assigned.csv")],
        ["generate", str(run), "-n", "5", "--out", str(tmp_path / "new.csv")],
        ["report", str(run)],
    ):
        code, out, err = cpvae(*command)
        assert code == 0, err
        assert "nan" not in out
    assert "nan" not in (tmp_path / "assigned.csv").read_text()
    assert "nan" not in (tmp_path / "new.csv").read_text()


def test_a_table_of_several_kinds_of_columns(cpvae, tmp_path):
    """Fitted, told how it was read, generated, assigned, resumed, reported, exported."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=300)
    columns = {
        "height": 160 + 25 * group + rng.normal(0, 4, 300),
        "visits": rng.poisson(np.where(group, 1, 12)),
        "pet": np.where(group ^ (rng.random(300) < 0.1), "dog", "cat").tolist(),
        "floor": 3 + group,
    }
    file, run = tmp_path / "people.csv", tmp_path / "run"
    csv.write_csv(pa.table(columns), file)
    kinds = ("--kind", "floor=categorical", "--kind", "visits=count")
    command = ("fit", file, "-k", 2, "--max-epochs", 3, "--out", run, *kinds)
    code, _, err = cpvae(*command)
    assert code == 0, err
    assert "categorical  pet, floor" in err
    info = json.loads((run / "run.json").read_text())
    assert info["schema"]["kinds"] == ["number", "count", "categorical", "categorical"]
    assert info["schema"]["levels"] == {"pet": ["cat", "dog"], "floor": ["3", "4"]}
    assert cpvae(*command, "--resume", "--max-epochs", 5)[0] == 0
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == 5
    new = tmp_path / "new.csv"
    assert cpvae("generate", run, "-n", 40, "--out", new)[0] == 0
    drawn = csv.read_csv(new).to_pydict()
    assert list(drawn) == [*columns, "component"]
    assert set(drawn["pet"]) == {"cat", "dog"}
    assert set(drawn["floor"]) == {3, 4}
    assert cpvae("assign", run, new, "--out", tmp_path / "assigned.csv")[0] == 0
    new.write_text("height,visits,pet,floor\n170,-3,cat,3\n")
    assert "'visits' cannot be count" in cpvae("assign", run, new)[2]
    new.write_text("height,visits,pet,floor\n170,3,cow,3\n")
    code, _, err = cpvae("assign", run, new, "--out", tmp_path / "cow.csv")
    assert code == 0
    assert "cpvae: note: " in err
    assert "1 cell with a level that the model has not seen, such as 'cow' in column pet" in err
    assert "Warning" not in err
    assert cpvae("report", run)[0] == 0
    assert cpvae("evaluate", run, "--json", "--samples", 5)[0] == 0
    assert CPVAE.load(run).predict(pandas.read_csv(file)).shape == (300,)


def test_an_interrupt_stops_the_explorer(cpvae, table, tmp_path):
    """Of a run that was fitted to a table, whose reader answers interrupts as well."""
    run = tmp_path / "run"
    assert cpvae("fit", table, "--out", run, "-k", 2, "--max-epochs", 2, "--label", "kind")[0] == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python = [sys.executable, "-c", "from cpvae.cli.main import main; main()"]
    command = [*python, "app", str(run), "--port", str(port), "--no-browser"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert any("Ctrl-C stops it" in line for line in served.stdout)
        served.send_signal(signal.SIGINT)
        assert served.wait(60) == 0
    finally:
        served.kill()
        served.stdout.close()


def test_images_of_several_sizes(cpvae, tmp_path):
    """Fitted at one size; one image of another size is assigned."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        shape = (10 + i % 3, 8, 3)
        Image.fromarray(rng.integers(256, size=shape, dtype=np.uint8)).save(folder / f"{i}.png")
    command = ("fit", folder, "-k", 2, "--max-epochs", 2, "--out", tmp_path / "run")
    assert "--size" in cpvae(*command)[2]
    code, _, err = cpvae(*command, "--size", "8x6")
    assert code == 0, err
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["schema"]["shape"] == [3, 8, 6]
    assert info["data"]["size"] == [8, 6]
    assigned = tmp_path / "assigned.csv"
    assert cpvae("assign", tmp_path / "run", folder / "1.png", "--out", assigned)[0] == 0
    assert cpvae("evaluate", tmp_path / "run", "--json", "--samples", 2)[0] == 0


def test_the_estimator_and_the_command_line_fit_the_same_model(cpvae, tmp_path):
    """Of the same data, options and seed, bit for bit: numbers alone, and columns of all kinds."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=200)
    frame = pandas.DataFrame(
        {
            "height": 160 + 25 * group + rng.normal(0, 4, 200),
            "visits": rng.poisson(np.where(group, 1, 12)),
            "pet": np.where(group ^ (rng.random(200) < 0.1), "dog", "cat"),
            "member": group ^ (rng.random(200) < 0.1) == 1,
        }
    )
    for name, columns, more in [
        ("numbers", ["height", "visits"], {}),
        ("mixed", list(frame), {"invariance": "masking"}),
    ]:
        file, run = tmp_path / f"{name}.csv", tmp_path / name
        frame[columns].to_csv(file, index=False)
        options = ["--invariance", "masking"] if more else []
        fit = ("fit", file, "-k", 2, "--max-epochs", 3, "--seed", 5, "--set", "batch_size=30")
        assert cpvae(*fit, "--out", run, *options)[0] == 0
        estimator = CPVAE(2, max_epochs=3, random_state=5, recipe={"batch_size": 30}, **more)
        estimator.fit(data.load(file, seed=5))
        stored = load_file(run / "model.safetensors")
        ours = estimator.model_.state_dict()
        assert stored.keys() == ours.keys()
        for key, value in ours.items():
            assert value.numpy().tobytes() == stored[key].numpy().tobytes(), key
        assert CPVAE.load(run).schema_ == estimator.schema_
        assert CPVAE.load(run).recipe_ == estimator.recipe_


def test_python_m_is_the_command_line():
    told = subprocess.run(
        [sys.executable, "-m", "cpvae", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("cpvae 0.")

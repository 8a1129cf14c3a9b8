"""Run folders: whatever writes one, whatever reads it, and those of the version before."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from pyarrow import csv

from cpvae import CPVAE, from_pretrained, hub
from cpvae.checkpoint import FORMAT, RunFolder
from cpvae.cli import main as cli
from cpvae.cli.use import explore
from cpvae.report import app

pytestmark = pytest.mark.usefixtures("without_shape_checks")

OLD = Path(__file__).parent / "folders" / "format-1"
QUICK = {"max_epochs": 2, "random_state": 0}


def people(n: int = 120) -> pandas.DataFrame:
    """Columns of every kind, with gaps."""
    rng = np.random.default_rng(0)
    group = rng.integers(2, size=n)
    frame = pandas.DataFrame(
        {
            "height": (160 + 25 * group + rng.normal(0, 4, n)).round(2),
            "visits": rng.poisson(np.where(group, 1, 12)),
            "pet": np.where(group ^ (rng.random(n) < 0.1), "dog", "cat"),
            "member": group ^ (rng.random(n) < 0.1) == 1,
        }
    )
    frame.loc[::7, "height"] = np.nan
    return frame


def command(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["cpvae", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


# --- every way to write a run ---------------------------------------------------------------------


def by_estimator(frame, folder, monkeypatch):
    CPVAE(2, **QUICK).fit(frame).save(folder)


def by_command_line(frame, folder, monkeypatch):
    file = folder.parent / "people.csv"
    frame.to_csv(file, index=False)
    command(monkeypatch, "fit", file, "-k", 2, "--max-epochs", 2, "--out", folder)


def by_compact(frame, folder, monkeypatch):
    by_command_line(frame, folder.parent / "whole", monkeypatch)
    command(monkeypatch, "compact", folder.parent / "whole", "--out", folder)


def by_sharing(frame, folder, monkeypatch):
    by_estimator(frame, folder.parent / "private", monkeypatch)
    hub.save_pretrained(folder.parent / "private", folder)


def by_load_and_save(frame, folder, monkeypatch):
    by_estimator(frame, folder.parent / "first", monkeypatch)
    CPVAE.load(folder.parent / "first").save(folder)


WRITERS = [by_estimator, by_command_line, by_compact, by_sharing, by_load_and_save]


# --- every way to read one: each gives five generated rows as a frame -----------------------------


def load(folder, monkeypatch):
    model = CPVAE.load(folder)
    frame = people()
    assert model.predict(frame).shape == (120,)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list(frame)[::-1]])
    filled = model.impute(frame)
    assert not filled.isna().any().any()
    return model.sample(5)[0]


def generate(folder, monkeypatch):
    out = folder.parent / "new.csv"
    command(monkeypatch, "generate", folder, "-n", 5, "--out", out)
    return csv.read_csv(out).to_pandas().drop(columns="component")


def assign(folder, monkeypatch):
    new, out = folder.parent / "other.csv", folder.parent / "assigned.csv"
    people()[["member", "pet", "visits", "height"]].to_csv(new, index=False)  # by name
    command(monkeypatch, "assign", folder, new, "--out", out)
    assigned = csv.read_csv(out).to_pandas()
    np.testing.assert_array_equal(assigned["component"], CPVAE.load(folder).predict(people()))
    return None


def page(folder, monkeypatch):
    shown = []
    monkeypatch.setattr(app, "page", lambda explorer, title, read: shown.append((explorer, read)))
    monkeypatch.setattr(app, "serve", lambda *_: None)
    explore(folder, None, False)
    explorer, read = shown[0]
    file = folder.parent / "mine.csv"
    people().to_csv(file, index=False)
    assert len(read(str(file))[0]) == 120
    return explorer.sheet(explorer.draw(0, 5, seed=0))


def pretrained(folder, monkeypatch):
    x = from_pretrained(folder).sample(5)[0].numpy()
    return RunFolder(folder).read_schema().to_frame(x)


def exported(folder, monkeypatch):
    command(monkeypatch, "export", folder, "--out", folder.parent / "onnx")
    stored = json.loads((folder.parent / "onnx" / "schema.json").read_text())
    assert stored == RunFolder(folder).read_schema().as_json()
    return None


READERS = [load, generate, assign, page, pretrained, exported]


@pytest.mark.filterwarnings("default")  # of gradio and of the exporter
@pytest.mark.parametrize("write", WRITERS)
def test_what_anything_writes_anything_reads(write, tmp_path, monkeypatch):
    frame = people()
    write(frame, tmp_path / "run", monkeypatch)
    schema = RunFolder(tmp_path / "run").read_schema()
    assert schema.columns == tuple(frame)
    assert schema.kinds == ("number", "number", "categorical", "binary")
    assert schema.levels == {"pet": ["cat", "dog"], "member": ["false", "true"]}
    assert schema.missing
    for read in READERS:
        new = read(tmp_path / "run", monkeypatch)
        if new is not None:
            assert list(new) == list(frame), read
            assert set(new["pet"]) <= {"cat", "dog"}, read
            assert set(new["member"]) <= {True, False}, read
            assert (new["visits"] == new["visits"].round()).all(), read


@pytest.mark.parametrize("write", [by_estimator, by_command_line])
def test_a_table_of_numbers_keeps_its_names(write, tmp_path, monkeypatch):
    frame = people()[["height", "visits"]]
    write(frame, tmp_path / "run", monkeypatch)
    assert list(generate(tmp_path / "run", monkeypatch)) == ["height", "visits"]
    loaded = CPVAE.load(tmp_path / "run")
    assert list(loaded.feature_names_in_) == ["height", "visits"]
    assert loaded.model_.soft_bounds
    with pytest.raises(ValueError, match="feature names should match"):
        loaded.predict(frame[["visits", "height"]])


# --- folders of format 1, written by the version before -------------------------------------------


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    file = tmp_path / "old" / "fitted" / "run.json"
    where = str(tmp_path / "old" / "people.csv")
    file.write_text(file.read_text().replace('"people.csv"', json.dumps(where)))
    return tmp_path / "old"


@pytest.mark.parametrize("name", ["fitted", "saved", "numbers", "images"])
def test_runs_of_the_version_before_give_what_they_gave(old, name):
    frame = pandas.read_csv(old / "people.csv")
    x = {
        "numbers": frame[["height", "visits"]].to_numpy(float),
        "images": np.load(old / "images.npy"),
    }
    x = x.get(name, frame)
    expected = json.loads((old / "expected.json").read_text())[name]
    model = CPVAE.load(old / name)
    np.testing.assert_allclose(model.predict_proba(x)[:3], expected["probabilities"], rtol=1e-5)
    assert model.score(x) == pytest.approx(expected["score"], abs=1e-4)
    assert RunFolder(old / name).read_info()["model"]["mixing_weights"] == (
        "uniform" if name == "images" else "learned"
    )
    if name in ("fitted", "saved"):
        assert model.schema_.levels["floor"] == ["3", "4"]
        assert set(model.sample(20)[0]["pet"]) == {"cat", "dog"}
    if name == "numbers":
        assert model.schema_.columns is None
    model.save(old / "again")  # in the present format
    np.testing.assert_array_equal(
        CPVAE.load(old / "again").predict_proba(x), model.predict_proba(x)
    )
    assert json.loads((old / "again" / "run.json").read_text())["format"] == FORMAT


def test_a_run_of_the_version_before_is_used_and_resumed(old, monkeypatch, capsys):
    run = old / "fitted"
    command(monkeypatch, "generate", run, "-n", 5, "--out", old / "new.csv")
    drawn = csv.read_csv(old / "new.csv")
    assert drawn.column_names[:-1] == ["height", "visits", "pet", "member", "floor"]
    command(monkeypatch, "fit", old / "people.csv", "--out", run, "--resume", "--max-epochs", 6)
    assert "Goes on after epoch 4" in capsys.readouterr().err
    info = json.loads((run / "run.json").read_text())
    assert (info["format"], info["epochs"]) == (FORMAT, 6)
    assert info["model"].get("soft_bounds") is False  # as it was begun
    history = [r["valid_elbo_nats"] for r in RunFolder(run).read_history()]
    assert history[:4] == [r["valid_elbo_nats"] for r in RunFolder(OLD / "fitted").read_history()]
    command(monkeypatch, "report", run)

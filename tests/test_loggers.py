import sys
import time

import pytest

from cpvae.checkpoint import RunFolder
from cpvae.cli import main as cli
from cpvae.report.loggers import RunLogger

# These packages' ways with one another are theirs
pytestmark = pytest.mark.filterwarnings("default")


def fit(monkeypatch, *arguments):
    command = ["cpvae", "fit", "digits", "--max-epochs", "2", "-k", "3", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 0


def test_tensorboard_has_every_epoch_the_settings_and_pictures_by_component(monkeypatch, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    fit(monkeypatch, "--out", run, "--logger", "tensorboard")
    events = EventAccumulator(str(run / "logs" / "tensorboard")).Reload()
    told = [(e.step, e.value) for e in events.Scalars("valid_elbo_nats")]
    history = RunFolder(run).read_history()
    assert told == [(r["epoch"], pytest.approx(r["valid_elbo_nats"])) for r in history]
    images = events.Tags()["images"]
    assert {"components/0", "components/1", "components/2", "figures/components"} <= set(images)
    fit(monkeypatch, "--out", run, "--logger", "tensorboard", "--resume", "--max-epochs", "3")
    events = EventAccumulator(str(run / "logs" / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("valid_elbo_nats")] == [1, 2, 3]
    fit(monkeypatch, "--out", run, "--overwrite")
    assert not (run / "logs").exists()


def test_csv_has_every_epoch_of_every_restart(monkeypatch, tmp_path):
    from pyarrow import csv

    run = tmp_path / "run"
    fit(monkeypatch, "--out", run, "--logger", "csv", "--restarts", "2")
    table = csv.read_csv(run / "logs" / "csv" / "metrics.csv").to_pydict()
    for place, key in enumerate(("valid_elbo_nats", "restart_1/valid_elbo_nats")):
        told = [value for value in table[key] if value is not None]
        history = RunFolder(run / "restarts" / f"seed-{place}").read_history()
        assert told == pytest.approx([r["valid_elbo_nats"] for r in history])


def test_wandb_is_given_the_run_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    fit(monkeypatch, "--out", tmp_path / "run", "--logger", "wandb")
    place = tmp_path / "run" / "logs" / "wandb"
    (stored,) = place.glob("offline-run-*/run-*.wandb")
    patience = time.monotonic() + 60  # wandb's own process writes the file, after it has answered
    while b"valid_elbo_nats" not in stored.read_bytes():
        assert time.monotonic() < patience
        time.sleep(0.1)
    assert len(list(place.glob("offline-run-*/files/media/images/components/*.png"))) == 3


def test_an_unknown_logger_and_one_that_is_not_installed(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="logger='paper' is unknown: choose from csv, tensorboard"):
        RunLogger("paper", RunFolder(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cpvae\[loggers\]'"):
        RunLogger("wandb", RunFolder(tmp_path))

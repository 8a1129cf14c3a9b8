"""How a fit ends that cannot go on: what its folder says, what a person reads, and what resumes."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file

from cpvae import output
from cpvae.checkpoint import RunFolder
from cpvae.training import loop, state

pytestmark = pytest.mark.usefixtures("without_shape_checks", "without_pictures")

FIT = ("fit", "t.csv", "-k", 2, "--model", "cpvae", "--max-epochs", 4, "--out", "run")


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A table in the current folder; a fit saves its state each epoch."""
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).normal(size=(60, 2))
    pandas.DataFrame(x, columns=["a", "b"]).to_csv("t.csv", index=False)
    monkeypatch.setattr(state, "SAVE_EVERY", -1.0)
    return tmp_path


def weights():
    return {
        key: value.numpy().tobytes() for key, value in load_file("run/model.safetensors").items()
    }


def at_epoch(monkeypatch, number, what):
    """Has something happen after so many epochs were recorded."""
    validate = loop.validate
    calls = iter(range(1, 1000))

    def validated(*given):
        found = validate(*given)
        if next(calls) == number:
            what()
        return found

    monkeypatch.setattr(loop, "validate", validated)


def raising(error):
    def do(*_, **__):
        raise error

    return do


def full(after):
    """A disk that is full after so many files were written, but for what is small."""
    left, write = iter(range(after)), output.write

    def written(file, make, overwrite=True):
        if file.name.endswith(".safetensors") and next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        write(file, make, overwrite)

    return written


@pytest.mark.parametrize("after", [0, 2, 3])  # state and weights are two files
def test_a_full_disk_fails_in_one_line_and_is_resumed_exactly(cpvae, monkeypatch, after):
    assert cpvae(*FIT)[0] == 0
    whole = weights()
    shutil.rmtree("run")
    with monkeypatch.context() as disk:
        disk.setattr(output, "write", full(after))
        code, out, err = cpvae(*FIT)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert "No space left on device. What was saved before is whole. Free some space" in last
    assert "then go on with: cpvae fit" in last
    info = json.loads(RunFolder("run").path.joinpath("run.json").read_text())
    assert info["status"] == "failed"
    assert "No space left on device" in info["reason"]
    if after:
        RunFolder("run").read_model()
    code, _, err = cpvae("fit", "t.csv", "--out", "run", "--resume")
    assert code == 0, err
    assert weights() == whole
    assert RunFolder("run").read_info()["status"] == "finished"
    assert "reason" not in RunFolder("run").read_info()


def test_a_folder_that_was_removed_is_not_made_again(cpvae, monkeypatch, place):
    at_epoch(monkeypatch, 2, lambda: shutil.rmtree("run"))
    code, _, err = cpvae(*FIT)
    assert code == 2
    assert "The folder was removed or replaced" in err.splitlines()[-1]
    assert "Fit again" in err.splitlines()[-1]
    assert [f.name for f in place.iterdir()] == ["t.csv"]


def test_a_folder_that_another_run_took_is_left_to_it(cpvae, monkeypatch, place):
    def replace():
        os.rename("run", "moved")
        shutil.copytree("moved", "run")

    at_epoch(monkeypatch, 2, replace)
    code, _, err = cpvae(*FIT)
    assert code == 2
    assert "The folder was removed or replaced" in err
    assert len(RunFolder("run").read_history()) == 1
    assert RunFolder("run").read_info()["status"] == "running"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "The memory does not suffice: a lower --set batch_size"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "The memory does not suffice: a lower --set batch_size",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB"),
            "The memory does not suffice: a lower --set batch_size",
        ),
        (OSError(errno.EROFS, "Read-only file system", "run/x"), "Make the folder writable"),
    ],
)
def test_what_runs_out_is_said_in_one_line_and_the_run_goes_on(cpvae, monkeypatch, error, words):
    with monkeypatch.context() as once:
        at_epoch(once, 2, raising(error))
        code, out, err = cpvae(*FIT)
    assert (code, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert "--resume" in err.splitlines()[-1]
    assert "Traceback" not in err
    info = RunFolder("run").read_info()
    assert (info["status"], info["epochs"]) == ("failed", 1)
    assert info["reason"]
    assert not list(RunFolder("run").path.glob(".cpvae-*"))  # and the lock is free
    assert cpvae("fit", "t.csv", "--out", "run", "--resume")[0] == 0
    assert len(RunFolder("run").read_history()) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_fit_that_is_interrupted_says_so_and_goes_on(cpvae, monkeypatch, number):
    if number == signal.SIGINT:  # a shell may have it ignored by what it runs in the background
        signal.signal(number, signal.default_int_handler)
    with monkeypatch.context() as once:
        at_epoch(once, 2, lambda: os.kill(os.getpid(), number))
        code, _, err = cpvae(*FIT)
    assert code == 128 + number
    assert "goes on with the same command and --resume" in err.splitlines()[-1]
    info = RunFolder("run").read_info()
    assert (info["status"], info["epochs"]) == ("interrupted", 1)
    assert cpvae(*FIT, "--resume")[0] == 0
    assert RunFolder("run").read_info()["epochs"] == 4


def test_a_fit_that_diverges_says_so_and_keeps_what_was_best(cpvae, monkeypatch):
    validate = loop.validate

    def never(*given):
        found = validate(*given)
        return (
            found
            if len(RunFolder("run").read_history()) < 2
            else {**found, "valid_elbo_nats": np.nan}
        )

    monkeypatch.setattr(loop, "validate", never)
    code, _, err = cpvae(*FIT)
    assert code == 1
    assert "stopped being finite in epoch 3" in err.splitlines()[-1]
    info = RunFolder("run").read_info()
    assert (info["status"], info["epochs"]) == ("diverged", 2)
    assert "stopped being finite" in info["reason"]
    RunFolder("run").read_model()


def test_an_error_that_should_not_happen_is_one_line_and_debug_shows_where(cpvae, monkeypatch):
    at_epoch(monkeypatch, 2, raising(KeyError("nothing")))
    code, _, err = cpvae(*FIT)
    assert code == 1
    assert "an error that should not happen, KeyError: 'nothing' (cpvae --debug" in err
    assert "Traceback" not in err
    assert RunFolder("run").read_info()["status"] == "failed"
    os.unlink("t.csv")
    for where in (("--debug", "fit", "t.csv"), ("fit", "t.csv", "--debug")):
        code, _, err = cpvae(*where)
        assert code == 2
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("cpvae: ")
        assert "t.csv is neither a file" in err.splitlines()[-1]

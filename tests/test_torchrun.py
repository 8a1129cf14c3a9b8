"""`cpvae fit` under torchrun: killed at any moment, it ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cpvae.checkpoint import RunFolder

LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FIT = ("--max-epochs", "12", "--set", "anneal_epochs=6", "--set", "pretraining_epochs=2")
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
SAVING = "import cpvae.training.state as s; s.SAVE_EVERY = 0.0"


def launch(out, site, *more, after=()):
    """Starts two processes that fit scikit-learn's digits, and save after each epoch."""
    command = [sys.executable, *LAUNCH, *more, "-m", "cpvae", "fit", "digits", "--out", str(out)]
    paths = [str(site), *sys.path[:1], os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen([*command, *FIT, *after], env=environment, **PIPES)


def workers(parent: int) -> list[int]:
    """The processes that torchrun started, by rank."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as file:
                if int(file.read().rsplit(")", 1)[1].split()[1]) == parent:
                    found.append(int(entry))
        except (OSError, IndexError):
            continue
    return sorted(found)


def epochs(out) -> int:
    file = out / "history.jsonl"
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The run of two processes of which none was lost."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "sitecustomize.py").write_text(SAVING)
    process = launch(folder / "run", folder)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return RunFolder(folder / "run")


@pytest.mark.parametrize("how", ["--max-restarts", "--resume"])
@pytest.mark.parametrize(("rank", "epoch"), [(0, 1), (1, 3), (0, 5), (1, 8), (0, 10)])
def test_a_lost_worker_changes_nothing(tmp_path, undisturbed, rank, epoch, how):
    (tmp_path / "sitecustomize.py").write_text(SAVING)
    started_again = ("--max-restarts", "2") if how == "--max-restarts" else ()
    lost = launch(tmp_path / "run", tmp_path, *started_again)
    while epochs(tmp_path / "run") < epoch and lost.poll() is None:
        time.sleep(0.02)
    os.kill(workers(lost.pid)[rank], signal.SIGKILL)
    _, said = lost.communicate(timeout=900)
    if how == "--resume":
        assert lost.returncode
        assert epochs(tmp_path / "run") < 12
        lost = launch(tmp_path / "run", tmp_path, after=("--resume",))
        _, said = lost.communicate(timeout=900)
    assert lost.returncode == 0, said
    assert "is taken over" in said or "Goes on after epoch" in said
    run = RunFolder(tmp_path / "run")
    histories = [[{**r, "seconds": 0} for r in each.read_history()] for each in (run, undisturbed)]
    assert histories[0] == histories[1]
    weights = [each.read_weights() for each in (run, undisturbed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


def test_no_folder_no_several_processes(tmp_path):
    command = [sys.executable, *LAUNCH, "-m", "cpvae", "fit", "digits", "--max-epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode
    assert "Several processes need --out" in done.stderr

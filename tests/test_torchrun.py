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
SAVING = "import cpvae.training.state as s; s.SAVE_EVERY = 0.0"


def launch(out, site, *more):
    """Starts two processes that fit scikit-learn's digits, and save after each epoch."""
    command = [sys.executable, *LAUNCH, *more, "-m", "cpvae", "fit", "digits", "--out", str(out)]
    paths = [str(site), *sys.path[:1], os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    return subprocess.Popen(
        [*command, *FIT], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


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


@pytest.mark.parametrize(("rank", "epoch"), [(0, 1), (1, 3), (0, 5), (1, 8), (0, 10)])
def test_a_lost_worker_is_started_again_and_nothing_changes(tmp_path, rank, epoch):
    (tmp_path / "sitecustomize.py").write_text(SAVING)
    undisturbed = launch(tmp_path / "a", tmp_path)
    _, said = undisturbed.communicate(timeout=600)
    assert undisturbed.returncode == 0, said
    lost = launch(tmp_path / "b", tmp_path, "--max-restarts", "2")
    while epochs(tmp_path / "b") < epoch and lost.poll() is None:
        time.sleep(0.02)
    os.kill(workers(lost.pid)[rank], signal.SIGKILL)
    out, said = lost.communicate(timeout=600)
    assert lost.returncode == 0, said
    assert "is taken over" in said or "Goes on after epoch" in said
    mine, other = (RunFolder(tmp_path / name) for name in "ab")
    histories = [[{**r, "seconds": 0} for r in run.read_history()] for run in (mine, other)]
    assert histories[0] == histories[1]
    weights = [run.read_weights() for run in (mine, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert json.loads((tmp_path / "b" / "run.json").read_text())["status"] == "finished"


def test_no_folder_no_several_processes(tmp_path):
    command = [sys.executable, *LAUNCH, "-m", "cpvae", "fit", "digits", "--max-epochs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode
    assert "Several processes need --out" in done.stderr

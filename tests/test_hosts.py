"""`cpvae fit` under torchrun on two hosts: network namespaces that a veth pair joins."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cpvae
from cpvae.checkpoint import RunFolder

HOSTS = [f"cpvae-{os.getpid()}-{i}" for i in (0, 1)]
ADDRESSES = ("10.231.77.1", "10.231.77.2")
FIT = ("fit", "digits", "--max-epochs", "4", "--set", "anneal_epochs=2")
FIT += ("--set", "pretraining_epochs=1")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Two namespaces, each with an end of the pair, called veth, and no other way out."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("network namespaces need root, and ip of the package iproute2")
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        there = ("peer", "name", "veth", "netns", HOSTS[1])
        ip("link", "add", "veth", "netns", HOSTS[0], "type", "veth", *there)
        for host, address in zip(HOSTS, ADDRESSES, strict=True):
            ip("-n", host, "address", "add", f"{address}/24", "dev", "veth")
            for device in ("lo", "veth"):
                ip("-n", host, "link", "set", device, "up")
        yield HOSTS
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], capture_output=True)


def start(host: str, number: int, out: Path) -> subprocess.Popen:
    """One rank of two in a namespace, whose only network is the pair."""
    launch = ("-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(number))
    launch += ("--nproc-per-node", "1", "--master-addr", ADDRESSES[0], "--master-port", "29517")
    paths = [str(Path(cpvae.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"GLOO_SOCKET_IFNAME": "veth", "OMP_NUM_THREADS": "1"}
    command = ["ip", "netns", "exec", host, sys.executable, *launch, "-m", "cpvae", *FIT]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, "--out", str(out)], env=environment, **how)


def test_two_hosts_train_as_one_process(tmp_path, hosts):
    ranks = [start(host, number, tmp_path / "two") for number, host in enumerate(hosts)]
    try:
        said = [rank.communicate(timeout=900) for rank in ranks]
    finally:
        for rank in ranks:
            rank.terminate()  # torchrun ends its process, too
            rank.wait()
    assert [rank.returncode for rank in ranks] == [0, 0], said
    command = [sys.executable, "-m", "cpvae", *FIT, "--out", tmp_path / "one"]
    subprocess.run(command, check=True, capture_output=True, timeout=900)
    two, one = (RunFolder(tmp_path / name) for name in ("two", "one"))
    histories = two.read_history(), one.read_history()
    assert len(histories[0]) == len(histories[1]) == 4
    for mine, other in zip(*histories, strict=True):
        for key in ("valid_elbo_nats", "train_loss_nats"):
            assert mine[key] == pytest.approx(other[key], abs=1e-3), (mine["epoch"], key)
    weights = two.read_weights(), one.read_weights()
    off = max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[1])
    bounds = [history[-1]["valid_elbo_nats"] for history in histories]
    print(f"bounds {bounds}, weights differ by {off:.1e} at most")
    assert off < 1e-3

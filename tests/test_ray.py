"""Shards made on a Ray cluster, of two nodes on this machine, some of which are lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from cpvae import CPVAE, extras, on_ray

pytestmark = pytest.mark.usefixtures("without_shape_checks")
SHARDS = 10


def test_what_is_refused(cpvae, tmp_path, uneven, monkeypatch):
    CPVAE(3, max_epochs=1).fit(uneven(300).drop(columns="kind")).save(tmp_path / "run")
    data, out = tmp_path / "data.parquet", tmp_path / "out"
    parquet.write_table(pa.Table.from_pandas(uneven(300)), data)
    given = ("assign", tmp_path / "run", data)
    for where, options, expected in (
        (tmp_path / "out.csv", ("--ray", "auto"), "--ray is for a folder"),
        (out, ("--ray", "auto", "--worker", "0/2"), "leave out --worker"),
    ):
        code, _, error = cpvae(*given, "--out", where, *options)
        assert (code, error.count("\n")) == (2, 1)
        assert expected in error
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(extras, "importable", lambda package: package != "ray")
    code, _, error = cpvae(*given, "--out", out, "--ray", "auto")
    assert code == 2
    assert error.splitlines()[-1].endswith("ray is not installed: pip install 'cpvae[ray]'.")
    monkeypatch.setattr(on_ray, "need", lambda *_: None)
    monkeypatch.setitem(sys.modules, "ray", object())
    for address, expected in (("127.0.0.1:1", "nothing answers"), ("here", "write HOST:PORT")):
        code, _, error = cpvae(*given, "--out", out, "--ray", address)
        assert code == 2
        assert expected in error.splitlines()[-1]


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes on this machine with a worker each, which import this checkout."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    paths = [str(Path(on_ray.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    found.second = found.add_node(**node)
    yield found
    found.shutdown()


def of_ray() -> list[int]:
    """The processes that are making a shard."""
    titles = {pid: Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()}
    return [int(pid) for pid, file in titles.items() if _read(file).startswith(b"ray::_make")]


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


@pytest.mark.filterwarnings("ignore")
def test_a_worker_and_a_node_are_lost_and_nothing_changes(tmp_path, uneven, cluster):
    CPVAE(3, max_epochs=1).fit(uneven(1000).drop(columns="kind")).save(tmp_path / "run")
    (tmp_path / "big").mkdir()
    table = pa.Table.from_pandas(uneven(SHARDS * 20_000), preserve_index=False)
    for i in range(SHARDS):
        part = table.slice(i * 20_000, 20_000)
        parquet.write_table(part, tmp_path / "big" / f"{i:02}.parquet")
    command = [sys.executable, "-m", "cpvae", "assign", "run", "big", "--out"]
    how = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    subprocess.run([*command, "alone"], check=True, **how)
    job = subprocess.Popen([*command, "labels", "--ray", cluster.address], **how)

    def wait_for(shards: int) -> None:
        while len(list((tmp_path / "labels").glob("*.parquet"))) < shards or not of_ray():
            assert job.poll() is None, job.communicate()
            time.sleep(0.01)

    wait_for(1)
    os.kill(of_ray()[0], signal.SIGKILL)
    wait_for(3)
    cluster.remove_node(cluster.second, allow_graceful=False)
    assert len(list((tmp_path / "labels").glob("*.parquet"))) < SHARDS
    out, error = job.communicate(timeout=300)
    assert job.returncode == 0, error
    assert f"{SHARDS * 20_000} rows assigned in {SHARDS} shards" in out
    labels, alone = (dataset.dataset(tmp_path / name) for name in ("labels", "alone"))
    assert labels.to_table().equals(alone.to_table())
    assert not list((tmp_path / "labels").glob(".cpvae-part-*")), "left by the worker"
    # what Ray began goes on without it, and the other way round
    (tmp_path / "labels" / "03.parquet").unlink()
    again = subprocess.run([*command, "labels"], check=True, **how)
    assert "20000 rows assigned in 1 shard -> labels" in again.stdout
    assert dataset.dataset(tmp_path / "labels").to_table().equals(alone.to_table())
    command = [*command[:3], "generate", "run", "-n", "200001", "--out"]
    subprocess.run([*command, "drawn"], check=True, **how)
    subprocess.run([*command, "rows", "--ray", cluster.address], check=True, **how)
    rows, drawn = (dataset.dataset(tmp_path / name) for name in ("rows", "drawn"))
    assert len(rows.files) == 3
    assert rows.to_table().equals(drawn.to_table())

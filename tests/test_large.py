"""Tables larger than memory: what is measured takes minutes."""

import subprocess
import sys
import time

import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

from cpvae import CPVAE

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def test_memory_does_not_grow_with_rows(tmp_path, uneven):
    """Eight times the rows take hardly more anonymous memory, by the system's own count."""
    CPVAE(3, max_epochs=1).fit(uneven(1000).drop(columns="kind")).save(tmp_path / "run")
    frame = pa.Table.from_pandas(uneven(100_000), preserve_index=False)
    peaks = []
    for times in (1, 8):
        folder = tmp_path / str(times)
        folder.mkdir()
        for i in range(times):
            parquet.write_table(frame, folder / f"{i}.parquet")
        code = (
            "import sys, resource; sys.argv = ['cpvae', *sys.argv[1:]]\n"
            "from cpvae.cli.main import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        given = ("assign", tmp_path / "run", folder, "--out", tmp_path / f"labels-{times}")
        command = [sys.executable, "-c", code, *map(str, given)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 60, peaks  # MB; the rows alone are 80 of text and numbers more


def test_assign_that_is_killed_three_times_writes_the_same(tmp_path, uneven):
    CPVAE(3, max_epochs=1).fit(uneven(1000).drop(columns="kind")).save(tmp_path / "run")
    frame = pa.Table.from_pandas(uneven(160_000), preserve_index=False)
    (tmp_path / "big").mkdir()
    for i in range(8):
        parquet.write_table(frame.slice(i * 20_000, 20_000), tmp_path / "big" / f"{i}.parquet")
    command = [sys.executable, "-m", "cpvae", "assign", "run", "big", "--out"]
    how = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    subprocess.run([*command, "undisturbed"], check=True, **how)
    out = tmp_path / "labels"
    for shards in (1, 3, 5):
        job = subprocess.Popen([*command, "labels"], **how)
        while len(list(out.glob("[0-9].parquet"))) < shards or not list(out.glob(".cpvae-part-*")):
            assert job.poll() is None, job.communicate()
            time.sleep(0.002)
        job.kill()
        job.communicate()
    left = len(list(out.glob("[0-9].parquet")))
    assert left < 8
    ended = subprocess.run([*command, "labels"], check=True, **how)
    assert f"{left} shards were there" in ended.stdout
    labels, undisturbed = (dataset.dataset(tmp_path / name) for name in ("labels", "undisturbed"))
    assert labels.to_table().equals(undisturbed.to_table())
    assert not list(out.glob(".cpvae-part-*"))

"""Tables larger than memory: what is measured takes minutes."""

import subprocess
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

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

"""One writer a folder, and who died does not keep it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cpvae import lock
from cpvae.lock import NAME, Lock, Locked, Owner

HOLD = """
import sys, time
from pathlib import Path
from cpvae.lock import Lock
with Lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder's lock."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_writer_is_refused_and_takes_over_when_the_first_was_killed(
    tmp_path, holder, capsys
):
    with pytest.raises(Locked, match=rf"being written by process {holder.pid} on .* since 2"):
        Lock(tmp_path).__enter__()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with Lock(tmp_path):
        assert f"taken over from process {holder.pid} on" in capsys.readouterr().err
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(Locked):  # nor twice by one process
            Lock(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())
    with Lock(tmp_path):
        assert not capsys.readouterr().err


def test_who_waits_gets_it(tmp_path):
    first = Lock(tmp_path).__enter__()
    timer = threading.Timer(0.1, first.__exit__)
    timer.start()
    with Lock(tmp_path, wait=10.0) as second:
        second.check()
    timer.join()


def note(folder, **of):
    known = Owner(os.getpid(), lock.socket.gethostname(), "2026-01-01 00:00:00")
    (folder / NAME).write_text(json.dumps({**known._asdict(), **of}))


def test_of_another_machine_nobody_can_tell(tmp_path):
    note(tmp_path, host="elsewhere")
    with pytest.raises(Locked, match=r"on elsewhere since .* if it has ended, delete .*lock"):
        Lock(tmp_path).__enter__()
    assert "elsewhere" in (tmp_path / NAME).read_text()


def test_without_locks_of_the_system_the_note_decides(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOTSUP, "no locks")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    note(tmp_path)
    with pytest.raises(Locked, match="is being written"):
        Lock(tmp_path).__enter__()
    note(tmp_path, pid=2**22 + 1)  # more than there are
    with Lock(tmp_path):
        assert "taken over" in capsys.readouterr().err
    (tmp_path / NAME).write_text("{")  # a note that was not finished
    with Lock(tmp_path):
        pass


def test_a_folder_that_was_replaced_is_noticed_and_left_alone(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with Lock(folder) as held:
        held.check()
        folder.rename(tmp_path / "moved")
        folder.mkdir()
        (folder / NAME).write_text("of another one")
        with pytest.raises(FileNotFoundError, match="removed or replaced"):
            held.check()
    assert (folder / NAME).read_text() == "of another one"


WORKERS = """
import os, sys, time
import joblib
def work(parent, path):
    from cpvae.lock import end_with
    end_with(parent)
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(60)
joblib.Parallel(n_jobs=2)(
    joblib.delayed(work)(os.getpid(), sys.argv[1] + f"/{i}") for i in range(2)
)
"""


def test_workers_end_when_their_parent_is_killed_by_anything(tmp_path):
    """Those that train restarts are started in this way."""
    parent = subprocess.Popen([sys.executable, "-c", WORKERS, tmp_path], stderr=subprocess.DEVNULL)
    files, patience = [tmp_path / "0", tmp_path / "1"], time.monotonic() + 60
    while not all(file.is_file() and file.read_text() for file in files):
        assert time.monotonic() < patience
        time.sleep(0.01)
    workers = [int(file.read_text()) for file in files]
    assert all(map(lock.is_alive, workers))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    while any(map(lock.is_alive, workers)):
        assert time.monotonic() < patience
        time.sleep(0.01)

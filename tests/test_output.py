"""Files appear whole or not at all, and never over another by mistake."""

import errno
import os
import subprocess
import sys

import pytest

from cpvae import output


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_flushed_and_with_its_mode(tmp_path, monkeypatch):
    file, told = tmp_path / "table.csv", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (told.append("flushed"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (told.append("renamed"), replace(*names)))

    def make(aside):
        assert aside.suffix == ".csv"
        assert aside.parent == tmp_path
        aside.write_text("half")
        assert not file.exists()
        aside.write_text("whole")

    output.write(file, make)
    assert (file.read_text(), names(tmp_path)) == ("whole", ["table.csv"])
    assert told[:2] == ["flushed", "renamed"]
    file.chmod(0o640)
    output.write_text(file, "again")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("again", 0o640)


def test_what_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "figures.json"
    output.write_json(file, {"a": 1})

    def half(aside):
        aside.write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device", str(aside))

    with pytest.raises(OSError, match=r"No space left on device: '.*figures.json'"):
        output.write(file, half)
    assert (file.read_text(), names(tmp_path)) == ('{\n  "a": 1\n}\n', ["figures.json"])


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path, monkeypatch, links):
    file = tmp_path / "new.csv"

    def make(aside):
        aside.write_text("mine")
        file.write_text("another's")

    def none(*_):
        raise OSError(errno.ENOTSUP, "no links here")

    if not links:
        monkeypatch.setattr(os, "link", none)
    with pytest.raises(FileExistsError):
        output.write(file, make, overwrite=False)
    assert (file.read_text(), names(tmp_path)) == ("another's", ["new.csv"])
    file.unlink()
    output.write_text(file, "mine", overwrite=False)
    assert file.read_text() == "mine"


def test_a_link_stays_one_and_a_device_is_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    output.write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"
    output.write_text(tmp_path / "link", "other")
    assert (tmp_path / "file").read_text() == "other"
    output.write_text(type(tmp_path)(os.devnull), "text")


def test_what_a_killed_process_left_aside_is_removed_and_what_others_write_is_not(tmp_path):
    killed = """
import os, signal, sys
from pathlib import Path
from cpvae import output
def make(aside):
    aside.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
output.write(Path(sys.argv[1]), make)
"""
    subprocess.run([sys.executable, "-c", killed, tmp_path / "new.csv"], check=False)
    (left,) = tmp_path.iterdir()
    beside = output.aside_of(tmp_path / "new.csv")  # of this process, which lives
    beside.write_text("half")
    (tmp_path / ".cpvae-part-of-the-user").write_text("kept")
    output.write_text(tmp_path / "other.csv", "of another name")
    assert left.exists()
    output.write_text(tmp_path / "new.csv", "whole")
    assert names(tmp_path) == sorted(
        [".cpvae-part-of-the-user", beside.name, "new.csv", "other.csv"]
    )
    os.utime(beside, (0, 0))  # nothing is written for days
    output.clean(tmp_path)
    assert beside.name not in names(tmp_path)

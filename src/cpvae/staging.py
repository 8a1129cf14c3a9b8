"""A run that takes the place of another all at once: built in a folder beside it, then renamed.

Of the folder whose place it takes only the files of its run are removed; what else lay there is
moved over. Whenever the process is killed, the old run or the new one is whole, and where that was
between the two renames the next one that looks for it puts it back, see `RunFolder.recover`.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from cpvae import output
from cpvae.checkpoint import RUN, RunFolder, remove_empty
from cpvae.lock import NAME as LOCK
from cpvae.lock import Lock


@contextlib.contextmanager
def staged(
    target: str | Path,
    overwrite: bool = False,
    how: str = "choose another folder",
    clear_more: Callable[[Path], None] = lambda folder: None,
) -> Iterator[RunFolder]:
    """A folder to write a run to, which becomes ``target`` when all is written.

    Arguments:
        target: where the run is to be
        overwrite: whether a run that is there may be replaced
        how: says what to do if there is one, see `RunFolder.check_free`
        clear_more: removes what else was written by us into the folder of a run that is replaced

    Raises:
        ValueError: as `RunFolder.check_free`.
        Locked: another one writes to the run that is there.
    """
    there = RunFolder(os.path.realpath(target))
    there.check_free(overwrite, how)
    there.path.parent.mkdir(parents=True, exist_ok=True)
    output.clean(there.path.parent, there.path.name)
    new = RunFolder(output.aside_of(there.path))
    with contextlib.ExitStack() as stack:
        if there.exists():
            stack.callback(remove_empty, there.before)  # when no lock is in it any more
            _finish(there, clear_more)  # what an earlier process has not
            stack.enter_context(there.writing())
        try:
            lock = stack.enter_context(new.writing())
            yield new
            if there.lock:
                _replace(there, new, lock, clear_more)
            else:
                _fill(there, new, lock, how)
        except BaseException:
            shutil.rmtree(new.path, ignore_errors=True)
            raise


def _replace(
    there: RunFolder, new: RunFolder, lock: Lock, clear_more: Callable[[Path], None]
) -> None:
    """Puts the new folder in the place of one that holds a run."""
    assert there.lock
    there.lock.check()
    os.rename(there.path, there.before)
    there.lock.folder = there.before
    os.rename(new.path, there.path)
    lock.folder = there.path
    _bring_over(there, clear_more)


def _fill(there: RunFolder, new: RunFolder, lock: Lock, how: str) -> None:
    """Puts the new folder where none is, or its files into one that is empty, ``run.json`` last."""
    if not there.path.exists():
        os.rename(new.path, there.path)
        lock.folder = there.path
        return
    with there.writing():
        there.check_free(how=how)
        for entry in sorted(new.path.iterdir(), key=lambda entry: entry.name == RUN):
            if entry.name != LOCK:
                os.rename(entry, there.path / entry.name)
    lock.file.unlink()
    remove_empty(new.path)


def _finish(there: RunFolder, clear_more: Callable[[Path], None]) -> None:
    """Brings over what a process that was killed has left of a run that it had replaced."""
    if there.before.is_dir():
        with Lock(there.before):
            _bring_over(there, clear_more)


def _bring_over(there: RunFolder, clear_more: Callable[[Path], None]) -> None:
    """Removes the files of the run that was replaced, and moves over what else lay beside them."""
    before = RunFolder(there.before)
    if before.exists():
        clear_more(before.path)
        before.clear(whole=True)
    for entry in before.path.iterdir():
        if entry.name != LOCK:
            _move(entry, there.path / entry.name)


def _move(entry: Path, to: Path) -> None:
    """Moves a file or folder; into a folder that is there, and never over a file."""
    if not os.path.lexists(to):
        os.rename(entry, to)
    elif entry.is_dir() and to.is_dir():
        for inner in entry.iterdir():
            _move(inner, to / inner.name)
        remove_empty(entry)

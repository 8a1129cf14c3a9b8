"""One writer a folder: a lock that the system holds for a process, and a note of who that is.

The system lets go of the lock when its process ends, however it ends. The note is left behind then,
and says to the next writer from whom it takes over. Where the system has no locks, as on some
network drives, the note alone decides.
"""

import errno
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from cpvae.text import printable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".cpvae-lock"
PAUSE = 0.05  # seconds between two tries
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Locked(ValueError):
    """Another one writes to the folder."""


class Owner(NamedTuple):
    """Who writes, or wrote: a process, its machine, and since when."""

    pid: int
    host: str
    started: str

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine."""
        return self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.started}"


class Lock:
    """The right to write to a folder, held within ``with``.

    Where its owner died with it, a line on standard error says from whom it was taken over.

    Arguments:
        folder: which is there
        wait: seconds to wait for another writer

    Raises:
        Locked: another one writes to it, or may do so from another machine.
        OSError: the folder is not there or cannot be written to.
    """

    def __init__(self, folder: Path, wait: float = 0.0):
        self.folder, self.wait = folder, wait
        self._descriptor = -1

    @property
    def file(self) -> Path:
        """The file that is locked, with the note in it."""
        return self.folder / NAME

    def __enter__(self) -> "Lock":
        until = time.monotonic() + self.wait
        while not self._acquire():
            if time.monotonic() >= until:
                raise Locked(
                    f"{self.folder} is being written by {owner(self.file) or 'another process'}: "
                    f"wait until that has ended, or stop it."
                )
            time.sleep(PAUSE)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.check()
            self.file.unlink()
        except OSError:  # the folder is gone, or can no longer be written to
            pass
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    def check(self) -> None:
        """Refuses to go on where the folder is no longer the one that was locked.

        Raises:
            FileNotFoundError: it was removed, moved, or replaced by another.
        """
        if not _is_at(self._descriptor, self.file):
            text = "The folder was removed or replaced while it was written to"
            raise FileNotFoundError(errno.ENOENT, text, str(self.folder))

    def _acquire(self) -> bool:
        """One try; where it fails the file is left as it is."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644)
        mine = False
        try:
            # not at its place: the one who had it has just removed it
            if _lock(descriptor, self.file) and _is_at(descriptor, self.file):
                before = owner(self.file)
                _refuse_elsewhere(before, self.file)
                note = Owner(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps(note._asdict()).encode())
                self._descriptor, mine = descriptor, True
                if before:
                    told = f"{self.folder} is taken over from {before}, which has ended"
                    print(f"cpvae: note: {printable(told)}", file=sys.stderr)
        finally:
            if not mine:
                os.close(descriptor)
        return mine


def owner(file: Path) -> Owner | None:
    """Who wrote the note in a lock's file; None where there is none."""
    try:
        note = json.loads(file.read_text(encoding="utf-8"))
        return Owner(int(note["pid"]), str(note["host"]), str(note["started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number on this machine; where nobody can tell, yes."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def end_with(parent: int) -> None:
    """Ends this process as soon as that one has ended, its parent, which may be killed by anything.

    Else it would go on to write to a run that is resumed beside it. Does nothing in ``parent``.
    """

    def watch() -> None:
        while os.getppid() == parent:  # which becomes another one
            time.sleep(PAUSE)
        os._exit(1)

    if os.getpid() != parent:
        threading.Thread(target=watch, daemon=True).start()


def _lock(descriptor: int, file: Path) -> bool:
    """Locks an open file for this process; where there are no locks, asks the note."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                raise
    before = owner(file)
    return before is None or not before.is_here or not is_alive(before.pid)


def _refuse_elsewhere(before: Owner | None, file: Path) -> None:
    if before and not before.is_here:
        raise Locked(
            f"{file.parent} was last written by {before}, and it cannot be told from here whether "
            f"that goes on: if it has ended, delete {file}."
        )


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except OSError:
        return False

"""Files that appear whole or not at all: written aside in the same folder, flushed, and renamed.

All that this package writes goes through here, but a run's history, locks, what loggers write, and
rows that are kept on disk (`data.store`). What a process that was killed has left aside is removed
by the next one that writes there.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cpvae.lock import is_alive

ASIDE = ".cpvae-part-"  # beginning of the names of files that are not whole yet
PARTS = re.compile(rf"{re.escape(ASIDE)}(?P<host>\w{{8}})-(?P<of>\w{{8}})-(?P<pid>\d+)-\d+(\..*)?")
A_DAY = 24 * 60 * 60
_NUMBERS = itertools.count()


def write(file: Path, make: Callable[[Path], Any], overwrite: bool = True) -> None:
    """Writes a file; a link stays one, and a device or pipe is written to as it is.

    Arguments:
        file: where to, in a folder that is there
        make: writes the content to the path that it is given, which has the same ending
        overwrite: whether a file that is there is replaced

    Raises:
        FileExistsError: there is a file, and it is not to be replaced.
        OSError: it could not be written; what was there before is still there.
    """
    file = Path(os.path.realpath(file))
    if file.exists() and not file.is_file() and not file.is_dir():
        make(file)
        return
    clean(file.parent, file.name)
    aside = aside_of(file)
    try:
        with open(aside, "xb") as empty:
            mode = os.stat(file if file.is_file() else empty.fileno()).st_mode
        make(aside)
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        aside.chmod(mode & 0o777)  # some libraries make files that only their owner can read
        _put(aside, file, overwrite)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(file)) from error
    finally:
        remove(aside)
    _flush_folder(file.parent)


def write_text(file: Path, text: str, overwrite: bool = True) -> None:
    """Writes a text file, see `write`."""
    write(file, lambda aside: aside.write_text(text, encoding="utf-8"), overwrite)


def write_json(file: Path, content: Any, overwrite: bool = True) -> None:
    """Writes plain values as JSON, see `write`."""
    write_text(file, json.dumps(content, indent=2) + "\n", overwrite)


def flush(file: Path) -> None:
    """Has the system bring to disk what was written to a file, if it is there."""
    if file.is_file():
        with open(file, "rb") as written:
            os.fsync(written.fileno())


def aside_of(path: Path) -> Path:
    """A name beside a file or folder for what will become it, with the same ending."""
    parts = (_code(socket.gethostname()), _code(path.name), str(os.getpid()), str(next(_NUMBERS)))
    return path.with_name(f"{ASIDE}{'-'.join(parts)}{path.suffix}")


def clean(folder: Path, name: str | None = None) -> None:
    """Removes what processes have left aside that are dead, or that began more than a day ago.

    Arguments:
        folder: that it is in
        name: of what it was to become; by default anything
    """
    for left in folder.glob(f"{ASIDE}*"):
        found = PARTS.fullmatch(left.name)
        if found and (not name or found["of"] == _code(name)):
            dead = found["host"] == _code(socket.gethostname()) and not is_alive(int(found["pid"]))
            if dead or _age(left) > A_DAY:
                remove(left)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, as far as that can be done."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


def _code(text: str) -> str:
    """A short name for a name, which may be as long as a name can be."""
    return f"{zlib.crc32(text.encode(errors='replace')):08x}"


def _age(path: Path) -> float:
    """Seconds since something was changed, 0 where that is gone."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return 0.0


def _put(aside: Path, file: Path, overwrite: bool) -> None:
    """Renames; without ``overwrite`` never over a file that has come to be there meanwhile."""
    if overwrite:
        os.replace(aside, file)
        return
    try:
        os.link(aside, file)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if file.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(file)) from None
        os.replace(aside, file)


def _flush_folder(folder: Path) -> None:
    """The same for the name of a file; not every system has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    with contextlib.suppress(OSError):
        os.fsync(descriptor)
    os.close(descriptor)

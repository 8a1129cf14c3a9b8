"""Where named data sets are looked for: the folder in ``CPVAE_DATA``, a cache, then mirrors."""

import hashlib
import os
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from cpvae import output

MOST = 2**28  # bytes of a data set


def cache_folder() -> Path:
    """The folder that downloads are kept in: ``cpvae`` in the user's cache folder.

    A user without a home, as in a container, has one among the temporary files.
    """
    if given := os.environ.get("XDG_CACHE_HOME"):
        return Path(given) / "cpvae"
    try:
        return Path.home() / ".cache" / "cpvae"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "cpvae"


def find(name: str) -> Path | None:
    """A file of this name in the folder ``CPVAE_DATA``, else in the cache, else None.

    Raises:
        ValueError: ``CPVAE_DATA`` is set and is not a folder.
    """
    given = os.environ.get("CPVAE_DATA")
    if given and not Path(given).is_dir():
        raise ValueError(f"CPVAE_DATA={given} is not a folder: set it to the folder with {name}.")
    for folder in (*([Path(given)] if given else []), cache_folder()):
        if (folder / name).is_file():
            return folder / name
    return None


def download(
    urls: Sequence[str], algorithm: str, digest: str, timeout: float = 20.0, total: float = 300.0
) -> bytes | None:
    """The first mirror's bytes whose checksum is right, or None when none answers with them.

    Arguments:
        urls: of the mirrors
        algorithm: of the checksum
        digest: the checksum
        timeout: seconds to wait for a mirror that says nothing
        total: seconds that one mirror may take in all
    """
    for url in urls:
        try:
            content = _fetched(url, timeout, total)
        except Exception:  # whatever is wrong with a mirror, the next one may be good
            continue
        if hashlib.new(algorithm, content).hexdigest() == digest:
            return content
    return None


def _fetched(url: str, timeout: float, total: float) -> bytes:
    """What an address gives.

    Raises:
        TimeoutError: it takes longer than ``total`` seconds.
        ValueError: it is more than `MOST` bytes.
        others, of the network.
    """
    until, parts, size = time.monotonic() + total, [], 0
    with urllib.request.urlopen(url, timeout=timeout) as response:
        while part := response.read1(2**16):
            parts.append(part)
            size += len(part)
            if time.monotonic() > until:
                raise TimeoutError(f"{url} took more than {total:g} seconds")
            if size > MOST:
                raise ValueError(f"{url} is more than {MOST:,} bytes")
    return b"".join(parts)


def keep(name: str, write) -> Path:
    """Writes a file into the cache, see `output.write`; ``write`` takes an open file."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)

    def make(aside: Path) -> None:
        with open(aside, "wb") as file:
            write(file)

    output.write(folder / name, make)
    return folder / name

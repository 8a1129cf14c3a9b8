"""What is packed in files: arrays, tables and pictures whose unpacked size is checked first.

A file of a few kilobytes may unpack to more than any memory holds. What is refused is large, and
very much larger than its file.
"""

import bz2
import gzip
import io
import lzma
import math
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MOST = 2**28  # bytes that a file may always unpack to
MOST_TIMES = 1000  # and beyond that so many times its size, about what zeros are packed to
# whatever unpacking may raise
ERRORS = (
    *(ValueError, OSError, EOFError, LookupError, TypeError, AttributeError, OverflowError),
    *(RuntimeError, NotImplementedError, SyntaxError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def check_is_file(path: Path) -> None:
    """Refuses what can be read once or never ends: a pipe, a device.

    Raises:
        ValueError: see above.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"{path} is a pipe or a device: save what it gives as a file first.")


def check_unpacked(size: int, packed: int) -> None:
    """Refuses to unpack what would fill the memory.

    Arguments:
        size: in bytes once it is unpacked, as far as is known
        packed: bytes of the file

    Raises:
        ValueError: see above.
    """
    if size > MOST and size > MOST_TIMES * packed:
        raise ValueError(
            f"its {packed:,} bytes would unpack to {size:,}; if that is meant, unpack it first"
        )


def unpacked(content: bytes, ending: str) -> bytes:
    """The bytes of a packed file, by its ending; of another one as they are.

    Raises:
        ValueError: they would fill the memory.
        OSError, EOFError, LZMAError, ArrowException: they are damaged.
    """
    opened: dict[str, Callable[[io.BytesIO], Any]] = {
        ".gz": lambda file: gzip.GzipFile(fileobj=file),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": _of_zstandard,
    }
    if ending not in opened:
        return content
    most = max(MOST, MOST_TIMES * len(content))
    with opened[ending](io.BytesIO(content)) as stream:
        plain: bytes = stream.read(most)
        if len(plain) == most:
            check_unpacked(most + 1, len(content))
        return plain


def _of_zstandard(file: io.BytesIO) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, "r"), "zstd")


def check_archive(path: Path) -> None:
    """Refuses a zip file whose members would fill the memory, see `check_unpacked`."""
    with zipfile.ZipFile(path) as archive:
        check_unpacked(sum(one.file_size for one in archive.infolist()), path.stat().st_size)


def read_npy(path: Path) -> np.ndarray:
    """An array from a .npy file.

    Raises:
        ValueError: see `check_unpacked`.
        others of `ERRORS`: it is damaged.
    """
    with open(path, "rb") as file:
        _check_head(file, path.stat().st_size)
        file.seek(0)
        array = np.load(file, allow_pickle=False)
    return _as_array(array)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a .npz file by name, no other files; errors as of `read_npy`."""
    check_archive(path)
    with open(path, "rb") as file:
        with zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if one.filename.endswith(".npy")]
            for member in members:
                with archive.open(member) as inside:
                    _check_head(inside, member.file_size)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            names = [one.filename.removesuffix(".npy") for one in members]
            return {name: _as_array(arrays[name]) for name in dict.fromkeys(names)}


def _check_head(file: Any, size: int) -> None:
    """Refuses an array whose shape asks for more bytes than there are, before it is made."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize > size:
        raise ValueError(f"its shape {shape} needs more than its {size:,} bytes")


def _as_array(found: Any) -> np.ndarray:
    if not isinstance(found, np.ndarray):
        raise ValueError("it holds no array")
    return found

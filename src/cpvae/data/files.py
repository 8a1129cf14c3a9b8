"""Files: .npz and .npy arrays, .csv and .parquet tables, images and folders of them."""

import contextlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cpvae.data.checks import single
from cpvae.data.labels import read_labels
from cpvae.data.schema import encode_table, looks_like_number
from cpvae.data.splits import Selection, Source

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
X_KEYS, Y_KEYS = ("x", "X", "data", "images", "features"), ("y", "Y", "labels", "target", "label")


def readable() -> str:
    """The kinds of file, for error texts."""
    return f"{', '.join((*ARRAYS, *TABLES))}, an image, or a folder of images"


def read_file(path: Path, what: Selection) -> Source:
    """Reads a file, an image or a folder of images; the ending says how.

    Raises:
        ValueError: an unknown ending, a file that is empty, truncated or not what its ending says,
            text that is no category, images of different sizes, a column that is not there.
    """
    ending = path.suffix.lower()
    nameless = path.is_dir() or ending in (*IMAGES, *ARRAYS)
    if nameless and (what.label or what.drop or what.categorical):
        raise ValueError(
            f"{path} is not a table with named columns: leave out --label, --drop and --kind."
        )
    if path.is_dir():
        return _read_images(path, size=what.size)
    if ending in IMAGES:
        return _read_images(path.parent, [path], what.size)
    if what.size:
        raise ValueError(f"{path} is not a folder of images: leave out --size.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is an empty file.")
    if ending in ARRAYS:
        return ARRAYS[ending](path)
    if ending in TABLES:
        return from_table(path, TABLES[ending](path), what)
    raise ValueError(f"{path} ends in {ending or 'nothing'!r}: use {readable()}.")


def _unreadable(path: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    kind = path.suffix.lower()
    cause = "a row has too many or too few cells" if kind == ".csv" else "it may be truncated"
    return ValueError(f"{path} cannot be read as a {kind} file ({reason}): {cause}.")


def _read_npy(path: Path) -> Source:
    try:
        with open(path, "rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise _unreadable(path, error) from error
    return Source(path.stem, as_examples(array, str(path)))


def _read_npz(path: Path) -> Source:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise _unreadable(path, error) from error

    def first(keys: Sequence[str]) -> np.ndarray | None:
        return next((arrays[key] for key in keys if key in arrays), None)

    x_train, x_test = first([f"{k}_train" for k in X_KEYS]), first([f"{k}_test" for k in X_KEYS])
    if x_train is None:
        x = first(X_KEYS) if len(arrays) > 1 else next(iter(arrays.values()), None)
        if x is None:
            raise ValueError(
                f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: name the examples 'x', or "
                f"'x_train' and 'x_test' (and labels 'y', or 'y_train' and 'y_test')."
            )
        labels, test = first(Y_KEYS), None
    else:
        y_train, y_test = (
            first([f"{k}_train" for k in Y_KEYS]),
            first([f"{k}_test" for k in Y_KEYS]),
        )
        parts = [x_train] if x_test is None else [x_train, x_test]
        if any(part.shape[1:] != x_train.shape[1:] for part in parts):
            raise ValueError(f"{path}: its training and test examples differ in shape.")
        x, labels = np.concatenate(parts), y_train
        test = None
        if x_test is not None:
            test = np.arange(len(x)) >= len(x_train)
            labels = (
                None if y_train is None or y_test is None else np.concatenate([y_train, y_test])
            )
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"{path} has {len(x)} examples and labels of shape {labels.shape}.")
    return Source(path.stem, as_examples(x, str(path)), labels, test=test)


def as_examples(array: np.ndarray, name: str) -> np.ndarray:
    """An array as float32 examples (n, f) or (n, channels, height, width); bytes become [0, 1].

    Raises:
        ValueError: text or objects, or a number of axes that has no meaning here.
    """
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {array.dtype} values: numbers are needed.")
    if array.ndim == 1:
        array = array[:, np.newaxis]
    if array.ndim == 3:
        array = array[:, np.newaxis]
    elif array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = np.moveaxis(array, -1, 1)
    if array.ndim not in (2, 4):
        raise ValueError(
            f"{name} has shape {array.shape}: use (rows, columns) for a table, or "
            f"(n, height, width) or (n, channels, height, width) for images."
        )
    if array.dtype == np.uint8 and array.ndim == 4 and array.size and array.max() > 1:
        return array.astype(np.float32) / 255
    return single(array, name)


def _read_csv(path: Path):
    import pyarrow
    from pyarrow import csv

    with open(path, encoding="utf-8", errors="replace") as file:
        header = file.readline()
    delimiter = max(",;\t", key=header.count)  # the comma, unless another one is in the header more
    if all(map(looks_like_number, header.strip().split(delimiter))):
        raise ValueError(
            f"{path}: its first line is made of numbers, and a header with the names of the "
            f"columns belongs there. Add one."
        )
    try:
        return csv.read_csv(path, parse_options=csv.ParseOptions(delimiter=delimiter))
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        for row in _ragged(path, delimiter):
            raise ValueError(
                f"{path}: line {row.number} has not the {row.expected_columns} cells that the "
                f"header has: {row.text}"
            ) from error
        raise _unreadable(path, error) from error


def _ragged(path: Path, delimiter: str) -> list[Any]:
    """The rows of a file with too many or too few cells; read slowly, as threads do not count."""
    import pyarrow
    from pyarrow import csv

    found: list[Any] = []

    def keep(row: Any) -> str:
        found.append(row)
        return "skip"

    parse = csv.ParseOptions(delimiter=delimiter, invalid_row_handler=keep)
    with contextlib.suppress(pyarrow.ArrowException, OSError, UnicodeDecodeError):
        csv.read_csv(path, csv.ReadOptions(use_threads=False), parse)
    return found


def _read_parquet(path: Path):
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def from_table(path: Path, table, what: Selection) -> Source:
    """Examples from a table of pyarrow; ``path`` is what errors call it. As for `read_file`."""
    names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has several columns named {', '.join(twice)}: rename them.")
    aside = [*what.drop, *([what.label] if what.label else [])]
    for name in aside:
        if name not in names:
            raise ValueError(f"{path} has no column {name!r}: it has {', '.join(names)}.")
    labels = read_labels(table[what.label], path.suffix == ".csv") if what.label else None
    if what.schema:
        x, schema = what.schema.encode(table, str(path)), what.schema
    else:
        table = table.drop_columns(aside)
        if not table.num_columns or not table.num_rows:
            raise ValueError(
                f"{path} is empty: {table.num_rows} rows of {table.num_columns} features."
            )
        x, schema = encode_table(table, str(path), categorical=what.categorical)
    return Source(path.stem, x, labels, schema)


def _read_images(
    folder: Path, files: Sequence[Path] | None = None, size: tuple[int, int] | None = None
) -> Source:
    from PIL import Image

    files = files or sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{folder} has no images in it: {', '.join(IMAGES)} are looked for.")
    arrays = []
    for file in files:
        try:
            with Image.open(file) as image:
                arrays.append(pixels(image, size))
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"{file} cannot be read as an image ({error}): remove it.") from error
    if len({a.ndim for a in arrays}) > 1:  # some grey, some in colour
        arrays = [a if a.ndim == 3 else np.repeat(a[..., np.newaxis], 3, axis=2) for a in arrays]
    sizes = Counter(f"{a.shape[0]}x{a.shape[1]}" for a in arrays)
    if len(sizes) > 1:
        listed = ", ".join(f"{size} ({count})" for size, count in sizes.most_common(5))
        raise ValueError(
            f"{folder} has images of different sizes: {listed}. Bring them to one with --size, "
            f"as in --size {sizes.most_common(1)[0][0]} (height by width)."
        )
    stacked = np.stack(arrays)
    stacked = stacked[:, np.newaxis] if stacked.ndim == 3 else np.moveaxis(stacked, -1, 1)
    parents = [f.parent.relative_to(folder).as_posix() for f in files]
    labels = np.array(parents) if len(set(parents)) > 1 else None  # one folder a class
    names = tuple(f.relative_to(folder).as_posix() for f in files)
    return Source(folder.resolve().name, stacked.astype(np.float32) / 255, labels, rows=names)


def pixels(image, size: tuple[int, int] | None = None) -> np.ndarray:
    """Bytes of a PIL image, brought to a ``size``, see `read_file`.

    (height, width) for grey images, else (height, width, 3).
    """
    from PIL import Image, ImageOps

    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if size and (image.height, image.width) != size:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(image)


# endings of files, and what reads them: arrays as a `Source`, tables as a table of pyarrow
ARRAYS = {".npz": _read_npz, ".npy": _read_npy}
TABLES = {".csv": _read_csv, ".parquet": _read_parquet}

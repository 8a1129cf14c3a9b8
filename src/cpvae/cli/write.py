"""What commands write: where to, over what, and who may."""

import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae.choices import DATASETS, stem

if TYPE_CHECKING:
    from cpvae.checkpoint import RunFolder


def path_of(text: str | Path) -> Path:
    """Of ``--out``: a path; "" would be the current folder, which nobody means by it."""
    if not str(text).strip():  # a default comes as a path
        raise typer.BadParameter("it is empty: name a file or folder, . for the current folder.")
    return Path(text)


def out_option(kind: str, help_text: str, usual: str | None = None) -> Any:
    """The option ``--out`` of a command: a FILE or a FOLDER, and what it usually is."""
    return typer.Option(
        parser=path_of, metavar=kind, help=help_text, show_default=usual if usual else True
    )


Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file in --out if there is one.")
]
HOW = "add --overwrite, or choose another --out"


def check_output(out: Path, overwrite: bool, run: Path, *read: object) -> None:
    """Refuses to write to a file that is read, or to one that is there.

    Arguments:
        out: where to
        overwrite: whether a file that is there may be replaced
        run: whose own files stay, and the data that it was fitted to
        *read: files and folders that the command reads, or None

    Raises:
        ValueError: such a file, or a folder.
    """
    from cpvae.checkpoint import FILES, RUN, RunFolder

    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file.")
    if not out.exists():
        return
    source = (RunFolder(run).read_info().get("data") or {}).get("source")
    own = [run / name for name in (RUN, *FILES) if name != "report.html"]
    for given in (*read, source, *own):
        if given is not None and str(given) not in DATASETS and _is_in(out, Path(str(given))):
            raise ValueError(f"{out} is what is read ({given}): choose another --out.")
    if not overwrite:
        raise ValueError(f"{out} is there already: {HOW}.")


def check_ending(path: Path, endings: tuple[str, ...]) -> None:
    """Refuses a file whose ending says another format than these."""
    if path.suffix not in endings:
        raise ValueError(f"--out {path} must end in one of {', '.join(endings)} for this data.")


def save_table(columns: Any, out: Path) -> None:
    """Writes columns by name, or a table of pyarrow, as the ending says; for `output.write`."""
    import pyarrow
    from pyarrow import csv, parquet

    if not isinstance(columns, pyarrow.Table):
        columns = {
            name: pyarrow.array(values, from_pandas=True) if hasattr(values, "dtype") else values
            for name, values in columns.items()
        }
    table = columns if isinstance(columns, pyarrow.Table) else pyarrow.table(columns)
    (parquet.write_table if out.suffix == ".parquet" else csv.write_csv)(table, out)


def beside(run: Path, word: str) -> Path:
    """Where a folder goes that is made of a run, if nothing else is said."""
    if run.name in ("", ".."):  # it is named by where one stands
        run = run.resolve()
    return run.with_name(f"{run.name}-{word}")


def named_after(source: str | Path, word: str, ending: str = ".csv") -> Path:
    """Where a file goes that is made of data or of a run, if nothing else is said: here."""
    path = Path(source).resolve()  # . has a name, too
    name = path.name if path.is_dir() else stem(path)
    word = re.sub(r"[^\w.-]+", "_", word)  # may have a component's name in it
    return Path(f"{name}-{word}{ending}")


def _is_in(file: Path, given: Path) -> bool:
    """Whether a file is the given one, or an image in the given folder."""
    from cpvae.data.files import IMAGES

    if given.is_dir():
        return file.suffix.lower() in IMAGES and given.resolve() in file.resolve().parents
    return given.exists() and os.path.samefile(file, given)


@contextlib.contextmanager
def new_folder(
    wanted: Path | None, usual: Path, overwrite: bool, how: str
) -> Iterator["RunFolder"]:
    """A folder for a run, held as `RunFolder.writing` holds it.

    Arguments:
        wanted: which one; None for the first of ``usual``, ``usual``-2, ... that nobody has
        usual: see above
        overwrite: whether a run in the one that is wanted may be replaced
        how: says what to do if there is one
    """
    from cpvae.checkpoint import RunFolder, remove_empty

    folder = RunFolder(wanted or _first_free(usual))
    folder.check_free(overwrite, how)
    was_there = wanted is not None and folder.path.exists()
    try:
        with folder.writing():
            folder.check_free(overwrite, how)  # nobody can change that any more
            yield folder
    finally:
        if not was_there:
            remove_empty(folder.path)  # nothing came of it


def _first_free(usual: Path) -> Path:
    """Makes the folder, or the first of folder-2, folder-3, ... that is not there."""
    usual.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = usual.with_name(f"{usual.name}-{number}") if number > 1 else usual
        with contextlib.suppress(FileExistsError):
            path.mkdir()  # of two processes one succeeds
            return path
    raise AssertionError("there is no last number")

"""Many rows in, many rows out: a folder of Parquet shards, written one by one.

Each shard appears whole or not at all (`output`), under a name that follows from the input alone.
So a job that was killed goes on with the shards that are not there yet, and several workers share a
job without talking to one another. ``_cpvae.json`` says what the folder is made of, so that no
other job adds to it; programs that read a folder of Parquet skip names that begin so.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cpvae import output
from cpvae.checkpoint import MODEL, RunFolder, remove_empty
from cpvae.data.schema import Schema
from cpvae.data.shards import LargeTable, Shard
from cpvae.evaluation import densities
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.names import labelled
from cpvae.streams import torch_stream

MANIFEST = "_cpvae.json"
ROWS_DRAWN = 100_000  # of a generated shard, whose examples are in memory at once

Progress = Callable[[int, int | None], None]  # called with rows done, and rows in all


class Piece(NamedTuple):
    """A shard that is to be made: its name, its rows where they are known, and what writes it.

    ``make`` is given a path to write to and a function to call with rows done, and returns the
    rows in all.
    """

    name: str
    rows: int | None
    make: Callable[[Path, Callable[[int], None]], int]


class Job(NamedTuple):
    """Shards that one command makes: ``facts`` tell it from others, as plain values."""

    facts: dict[str, Any]
    pieces: Sequence[Piece]


class Made(NamedTuple):
    """What came of a job: shards and rows made now, and shards that were there already."""

    shards: int
    rows: int
    before: int


def worker_of(text: str | None) -> tuple[int, int]:
    """Of ``--worker``: which of how many, (0, 1) for the only one.

    Raises:
        ValueError: anything but I/N with I from 0 to N - 1.
    """
    mine, _, of = (text or "0/1").partition("/")
    if not (mine.isdigit() and of.isdigit() and int(mine) < int(of)):
        raise ValueError(
            f"--worker {text}: write I/N, the I-th of N workers, which count from 0: --worker 0/4 "
            f"to --worker 3/4."
        )
    return int(mine), int(of)


def begin(out: Path, job: Job, overwrite: bool = False) -> None:
    """Makes the folder the job's own, or finds that it is.

    Raises:
        ValueError: it has something else in it, or what another job makes.
    """
    manifest = {"made_by": "cpvae", **job.facts, "shards": [piece.name for piece in job.pieces]}
    manifest = json.loads(json.dumps(manifest))
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder, or a file that ends in .parquet.")
    file = out / MANIFEST
    if overwrite:
        _remove(out)
    out.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        others = [f.name for f in out.iterdir() if not f.name.startswith(output.ASIDE)]
        if others and MANIFEST not in others:
            raise ValueError(
                f"{out} is not empty and not made by this command, but has {min(others)}: name a "
                f"new or an empty folder."
            )
        with contextlib.suppress(FileExistsError):  # another worker was first
            output.write_json(file, manifest, overwrite=False)
    before = _manifest(file)
    if before != manifest:
        differ = [key for key in manifest if before.get(key) != manifest[key]]
        raise ValueError(
            f"{out} holds the shards of another job (another {', '.join(differ)}): name another "
            f"--out, or add --overwrite."
        )


def run(
    out: Path, job: Job, worker: tuple[int, int] = (0, 1), progress: Progress | None = None
) -> Made:
    """Makes the worker's share of the shards that are not there yet; `begin` comes before."""
    mine = job.pieces[worker[0] :: worker[1]]
    pieces = [mine[number] for number in missing(out, mine)]
    total, done = rows_of(pieces), 0

    def tell(rows: int) -> None:
        if progress:
            progress(done + rows, total)

    for piece in pieces:
        done += make(out / piece.name, piece, tell)
    return Made(len(pieces), done, len(mine) - len(pieces))


def missing(out: Path, pieces: Sequence[Piece]) -> list[int]:
    """The numbers of the shards that are not there yet."""
    return [number for number, piece in enumerate(pieces) if not (out / piece.name).is_file()]


def rows_of(pieces: Iterable[Piece]) -> int | None:
    """Rows in all, where they are known."""
    counts = [piece.rows for piece in pieces]
    return None if None in counts else sum(count or 0 for count in counts)


def make(file: Path, piece: Piece, tell: Callable[[int], None]) -> int:
    """Writes a shard, and returns its rows."""
    made: list[int] = []
    file.parent.mkdir(parents=True, exist_ok=True)
    output.write(file, lambda aside: made.append(piece.make(aside, tell)))
    return made[0] if made else 0


def counts_of(out: Path, job: Job) -> np.ndarray | None:
    """Rows of each component, (k), as the shards say; None where some are missing."""
    from pyarrow import parquet

    total = None
    for piece in job.pieces:
        if not (out / piece.name).is_file():
            return None
        stored = parquet.read_metadata(out / piece.name).metadata[b"cpvae_components"]
        counts = np.array(json.loads(stored))
        total = counts if total is None else total + counts
    return total


# --- what shards are made of ---------------------------------------------------------------------


def assigned(
    probs: np.ndarray, names: Sequence[str], more: dict[str, np.ndarray]
) -> dict[str, Any]:
    """What is written of examples with these probabilities (n, k): a table by columns."""
    return labelled(probs, names) | more | {f"p_{k}": probs[:, k] for k in range(probs.shape[1])}


def with_free_names(made: dict[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """Columns by name, with a ``_`` behind a name that the data has already."""

    def free(name: str) -> str:
        return free(f"{name}_") if name in taken else name

    return {free(name): values for name, values in made.items()}


def assign_job(
    folder: RunFolder,
    model: Model,
    names: Sequence[str],
    schema: Schema,
    table: LargeTable,
    keep: bool,
) -> Job:
    """One shard of components for each shard of a table; row i of one belongs to row i.

    The ids of the rows stand beside them, or with ``keep`` all their columns.
    """
    kept = [name for name in table.columns if keep or name in schema.ids]
    facts = {
        "command": "assign",
        "weights": _digest(folder.path / MODEL),
        "names": list(names),
        "kept": kept,
        "data": [[shard.name, *shard.stamp] for shard in table.shards],
    }
    info = folder.read_info()

    def made_of(x: torch.Tensor) -> dict[str, Any]:
        probs = cluster_probs(model, x).cpu().numpy()
        return assigned(probs, names, densities.columns(model, x, info))

    pieces = [
        Piece(shard.name, shard.rows, _assigner(shard, table.called, model, schema, made_of, kept))
        for shard in table.shards
    ]
    return Job(facts, pieces)


def encoded(
    shard: Shard, called: str, schema: Schema, model: Model, also: Sequence[str] = ()
) -> Iterator[tuple[torch.Tensor, Any]]:
    """Rows of a shard as the model takes them, (n, f), a chunk at a time, with the chunk itself.

    Raises:
        ValueError: as for `Schema.encode` and `Schema.check_values`.
    """
    of_likelihood = model.likelihood
    wanted = dict.fromkeys([*schema.names, *also])
    for chunk in shard.read(list(wanted) if schema.columns else None):
        x = schema.encode(chunk, f"{called}, {shard.name}")
        schema.check_values(x, of_likelihood.takes_missing, of_likelihood.binarised)
        yield torch.from_numpy(np.ascontiguousarray(x)), chunk


def _assigner(
    shard: Shard,
    called: str,
    model: Model,
    schema: Schema,
    made_of: Callable[[torch.Tensor], dict[str, Any]],
    kept: Sequence[str],
) -> Any:
    def written(made: dict[str, Any], chunk: Any) -> Any:
        import pyarrow

        beside = {name: chunk[name] for name in kept}
        return pyarrow.table(beside | with_free_names(made, beside))

    def make(file: Path, tell: Callable[[int], None]) -> int:
        import pyarrow

        rows, counts = 0, np.zeros(model.n_components, dtype=np.int64)

        def tables() -> Iterator[Any]:
            nonlocal rows, counts
            for x, chunk in encoded(shard, called, schema, model, kept):
                made = made_of(x)
                counts = counts + np.bincount(made["component"], minlength=len(counts))
                rows += len(x)
                tell(rows)
                yield written(made, chunk)

        none = pyarrow.table({name: pyarrow.nulls(0) for name in kept})
        chunk = next(shard.read(kept), none).slice(0, 0) if kept else none
        empty = written(made_of(torch.empty(0, *model.shape)), chunk)
        _write_tables(file, empty.schema, tables(), lambda: {"cpvae_components": counts.tolist()})
        return rows

    return make


def generate_job(
    run_path: Path,
    model: Model,
    n: int,
    how: Mapping[str, Any],
    save: Callable[[Any, Any, Path], None],
    ending: str,
) -> Job:
    """Generated examples, `ROWS_DRAWN` a shard, each from a stream of its own.

    The first shard has what one call of `Model.sample` gives.

    Arguments:
        run_path: folder of the run
        model: its model
        n: how many in all
        how: ``component``, ``from_``, ``mean`` and ``seed``
        save: writes examples and their components to a file
        ending: of the files
    """
    facts = {"command": "generate", "weights": _digest(run_path / MODEL), "n": n, **how}
    pieces = []
    for number, start in enumerate(range(0, n, ROWS_DRAWN)):
        count = min(ROWS_DRAWN, n - start)

        def make(
            file: Path, tell: Callable[[int], None], number: int = number, count: int = count
        ) -> int:
            generator = torch_stream(how["seed"], "sampling", number)
            given = how["component"], how["from_"], generator, how["mean"]
            x, drawn = (t.numpy() for t in model.sample(count, *given))
            save(x, drawn, file)
            tell(count)
            return count

        pieces.append(Piece(f"part-{number:05d}{ending}", count, make))
    return Job(facts, pieces)


def _write_tables(
    file: Path, schema: Any, tables: Iterator[Any], facts: Callable[[], dict[str, Any]]
) -> None:
    """Writes tables of one schema as a Parquet file, with what is known of them at their end."""
    from pyarrow import parquet

    with parquet.ParquetWriter(file, schema) as writer:
        for table in tables:
            writer.write_table(table)
        told = {key: json.dumps(value) for key, value in facts().items()}
        writer.add_key_value_metadata(told)


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _manifest(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if found["made_by"] == "cpvae" and isinstance(found["shards"], list):
            return found
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(f"{file} is damaged: delete the folder, or name another --out.")


def _remove(out: Path) -> None:
    """Removes the shards that a manifest names, and the manifest last; nothing else."""
    if (out / MANIFEST).is_file():
        for name in _manifest(out / MANIFEST)["shards"]:
            if (out / name).resolve().is_relative_to(out.resolve()):
                (out / name).unlink(missing_ok=True)
                for folder in (out / name).parents[: len(Path(name).parts) - 1]:
                    remove_empty(folder)
        (out / MANIFEST).unlink()

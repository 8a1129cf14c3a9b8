"""Commands on many rows: a folder of shards instead of one file, see `bulk`."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from cpvae.cli.read import counted
from cpvae.text import printable

if TYPE_CHECKING:
    import numpy as np

    from cpvae.bulk import Job
    from cpvae.checkpoint import RunFolder
    from cpvae.models.base import Model

Worker = Annotated[
    str | None,
    typer.Option(
        metavar="I/N",
        help="Make the I-th of N parts of the shards in a folder --out, with I from 0 to N - 1: "
        "for several processes or machines at once.",
        show_default="0/1: all",
    ),
]


Ray = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Make the files of a folder --out on a Ray cluster: HOST:PORT of its head, auto on a "
        "machine of it, or local (this machine). Needs the package ray.",
        show_default="no cluster",
    ),
]


class Sharing(NamedTuple):
    """Who makes the shards of a job: options of a command."""

    worker: str | None
    ray: str | None
    overwrite: bool


def is_folder(out: Path, how: Sharing) -> bool:
    """Whether ``--out`` names a folder of shards; ``--worker`` and ``--ray`` are for that alone."""
    folder = out.is_dir() or not out.suffix
    if (how.worker or how.ray) and not folder:
        option = "--worker" if how.worker else "--ray"
        raise ValueError(f"{option} is for a folder of many files: name one by --out, not {out}.")
    if how.worker and how.ray:
        raise ValueError("--ray shares all shards among the cluster: leave out --worker.")
    return folder


def assign_shards(
    folder: "RunFolder",
    model: "Model",
    names: Sequence[str],
    data: str,
    keep: bool,
    out: Path,
    sharing: Sharing,
) -> None:
    """Writes the components of the rows of each shard of a table to a shard of a folder."""
    from cpvae.bulk import assign_job, counts_of
    from cpvae.data.shards import large_table

    schema = folder.read_schema()
    # Ray's workers have folders of their own
    table = large_table(Path(data).resolve() if sharing.ray else data, levels=schema.levels)
    _refuse_input(out, Path(data))
    job = assign_job(folder, model, names, schema, table, keep)
    _make(out, job, sharing, "assigned")
    counts = counts_of(out, job)
    if counts is not None:
        print_counts(counts, names)


def evaluate_shards(
    folder: "RunFolder",
    model: "Model",
    data: str,
    label: str | None,
    samples: int,
    seed: int,
    progress: Callable[[int, int | None], None],
) -> dict[str, Any]:
    """Figures of a model on a table of any size, see `evaluation.pooled`."""
    from cpvae.bulk import encoded
    from cpvae.data.labels import read_labels
    from cpvae.data.shards import large_table
    from cpvae.evaluation.pooled import evaluate_chunks

    schema = folder.read_schema()
    table = large_table(data, levels=schema.levels)
    usual = (folder.read_info().get("data") or {}).get("label")
    label = label or (usual if usual in table.columns else None)
    if label and label not in table.columns:
        raise ValueError(f"{data} has no column {label!r}: it has {', '.join(table.columns)}.")
    also = [label] if label else []

    def chunks() -> Iterator[Any]:
        for shard in table.shards:
            for x, chunk in encoded(shard, table.called, schema, model, also):
                yield x, read_labels(chunk[label], is_csv=False) if label else None

    return evaluate_chunks(model, chunks(), samples, seed, lambda n: progress(n, table.rows))


def generate_shards(
    run: Path,
    model: "Model",
    n: int,
    how: dict[str, Any],
    save: Callable[[Any, Any, Path], None],
    out: Path,
    sharing: Sharing,
) -> None:
    """Writes generated examples, a shard for each part of them."""
    from cpvae.bulk import generate_job

    ending = ".npz" if len(model.shape) == 3 else ".parquet"
    job = generate_job(run, model, n, how, save, ending)
    _make(out, job, sharing, "generated")


def print_counts(counts: "np.ndarray", names: Sequence[str]) -> None:
    """How many examples each component has."""
    from cpvae.names import called

    told = [f"{called(k, names[k])}: {count}" for k, count in enumerate(counts) if count]
    print(printable("  ".join(told)))


def _make(out: Path, job: "Job", sharing: Sharing, done: str) -> None:
    """Makes this worker's share of a job, or has Ray make all of it, and says how fast."""
    from cpvae import bulk, on_ray
    from cpvae.report.progress import RowsBar

    if sharing.worker and sharing.overwrite:
        raise ValueError(
            f"--overwrite would remove what other workers make: delete {out} first, or leave out "
            f"--worker."
        )
    share = bulk.worker_of(sharing.worker)
    bulk.begin(out, job, sharing.overwrite)
    started = time.monotonic()
    with RowsBar(done) as bar:
        if sharing.ray:
            made = on_ray.run(out, job, sharing.ray, bar.update)
        else:
            made = bulk.run(out, job, share, bar.update)
    seconds = time.monotonic() - started
    before = f"; {counted(made.before, 'shard')} were there" if made.before else ""
    speed = f", {made.rows / seconds:,.0f} rows a second" if made.rows else ""
    print(
        f"{made.rows} rows {done} in {counted(made.shards, 'shard')} -> {printable(out)} "
        f"({seconds:.1f} s{speed}{before})"
    )


def _refuse_input(out: Path, data: Path) -> None:
    """Refuses to write into the folder that is read."""
    if data.is_dir() and (
        out.resolve() == data.resolve() or data.resolve() in out.resolve().parents
    ):
        raise ValueError(f"{out} is in the folder that is read ({data}): choose another --out.")

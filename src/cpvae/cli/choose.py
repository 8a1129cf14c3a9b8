"""``cpvae choose``: how many components a table has."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.read import Seed, kinds_of, load_source, note, source_of, tell
from cpvae.cli.write import out_option
from cpvae.text import in_markup, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cpvae.training.choose import Named, Study, Tried

commands = typer.Typer()
TABLE, FIGURE = "choose.json", "choose.png"


@commands.command()
def choose(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"A table ({', '.join(choices.TABLES)}).")
    ],
    components: Annotated[
        str,
        typer.Option("--components", "-k", metavar="FROM:TO", help="Numbers to try."),
    ] = "1:12",
    drop: Annotated[
        list[str] | None, typer.Option(help="Column to leave out; repeat for more.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column with known classes: left out, too.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=KIND", help="What a column is, as for fit; repeat for more."),
    ] = None,
    out: Annotated[
        Path | None,
        out_option("FOLDER", "Where a figure and the table go.", "runs/DATA-choose"),
    ] = None,
    seed: Seed = 0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Numbers tried at once, in processes of one core each.")
    ] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin again, whatever was measured before.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how many components to fit: tries a range, without labels, and names one or none.

    For each number a mixture is fitted five times, each time to other four fifths of the rows. It
    is named if these fits find the same components, and describe the rows that they have not seen
    as well as any such number does. The same command goes on where it was stopped.
    """
    from cpvae import output
    from cpvae.data.fingerprint import fingerprint
    from cpvae.report.progress import StepsBar
    from cpvae.training.choose import Study, check_table, name_one, table

    numbers = _range(components)
    source: dict[str, Any] = {"source": source_of(data), "label": label, "drop": drop or []}
    source |= {"kinds": kinds_of(kind or []), "size": None}
    splits = load_source(source, seed)
    tell(splits.notes)
    check_table(splits.schema)
    folder = out or Path("runs") / f"{choices.stem(Path(source['source']))}-choose"
    asked = {**source, "seed": seed, **fingerprint(splits)}
    kept = {} if overwrite else _kept(folder / TABLE, asked)
    folder.mkdir(parents=True, exist_ok=True)
    missing, study = [k for k in numbers if k not in kept], None
    if missing:
        study = Study(*_rows(splits), source["kinds"], seed)
        n = len(study.fold)
        if many := [k for k in missing if k > n // 10]:
            note(f"{many[0]} components and more are too many for {n} rows: they are not tried")
        missing = [k for k in missing if k <= n // 10]
    with StepsBar("numbers tried", len(missing), quiet=as_json or not missing) as bar:
        for done, tried in enumerate(_try(study, missing, jobs) if study else (), start=1):
            kept[tried.k] = tried
            said = f"{tried.mean:.3f} held out, agreement {tried.agree:.2f}"
            bar.update(done, f"{tried.k}: {said}")
            output.write_json(
                folder / TABLE, {"of": asked, "tried": [each._asdict() for each in kept.values()]}
            )
    measured = [kept[k] for k in sorted(kept) if k in numbers]
    if not measured:
        raise ValueError(f"--components {components}: no such number can be tried on this table.")
    named, rows = name_one(measured), table(measured)
    output.write(folder / FIGURE, partial(_draw, measured, named))
    if as_json:
        print(json.dumps({"components": named.k, "why": named.why, "tried": rows}))
        return
    _print(rows, named, data, folder)


def _try(study: "Study", numbers: list[int], jobs: int) -> "Iterator[Tried]":
    """What is measured of each number, as they end."""
    from cpvae.apart import in_processes

    if jobs == 1:
        return map(study.try_one, numbers)
    return in_processes(jobs, [partial(study.try_one, k) for k in numbers])


def _range(text: str) -> list[int]:
    first, _, last = text.partition(":")
    if not (first.isdigit() and (last or first).isdigit()) or not 1 <= int(first) <= int(
        last or first
    ):
        raise ValueError(f"--components {text!r}: write FROM:TO, as in --components 2:20.")
    return list(range(int(first), int(last or first) + 1))


def _rows(splits: Any) -> tuple[Any, Any]:
    """Rows that would be fitted and their schema; those for testing stay unseen."""
    import numpy as np

    return np.concatenate([splits.train.x, splits.valid.x]), splits.schema


def _kept(file: Path, asked: dict[str, Any]) -> "dict[int, Tried]":
    """What was measured before, of the same data in the same way.

    Raises:
        ValueError: a file of other data, or none of ours.
    """
    from cpvae.training.choose import Tried

    if not file.is_file():
        return {}
    how = "add --overwrite to begin again, or choose another --out"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        same = stored["of"] == json.loads(json.dumps(asked))
        tried = {each["k"]: Tried(**each) for each in stored["tried"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not what choose has written: {how}.") from error
    if not same:
        raise ValueError(f"{file} is of other data or other options: {how}.")
    return tried


def _draw(tried: "list[Tried]", named: "Named", out: Path) -> None:
    """Held-out log-likelihood and agreement against the number of components."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    ks = [each.k for each in tried]
    upper.plot(ks, [each.mean for each in tried], marker="o", color="#2563eb")
    upper.set_ylabel("held-out\nlog-likelihood (nats)")
    lower.plot(ks, [each.agree for each in tried], marker="o", color="#2563eb")
    lower.set_ylabel("agreement of fits\n(adjusted Rand)")
    lower.set_xlabel("components")
    lower.set_ylim(min(0, *(each.agree for each in tried)) - 0.05, 1.05)
    lower.xaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        if named.k:
            axes.axvline(named.k, color="#dc2626", linestyle="--")
    upper.set_title(f"{named.k} components" if named.k else "no clear number of components")
    figure.savefig(out, dpi=130)


def _print(rows: list[dict[str, Any]], named: "Named", data: str, folder: Path) -> None:
    from shlex import quote

    from rich.console import Console
    from rich.table import Table

    shown = Table(
        *("components", "held-out nats a row", "behind the best", "±", "agreement of fits"),
        title=in_markup(data),
    )
    for row in rows:
        cells = [f"{row[key]:.3f}" for key in list(row)[1:4]]
        style = "bold" if row["components"] == named.k else None
        shown.add_row(str(row["components"]), *cells, f"{row['agreement']:.2f}", style=style)
    Console(emoji=False).print(shown)
    if named.k:
        print(f"{named.k} components: {named.why}")
        print(f"  cpvae fit {printable(quote(data))} --components {named.k}")
    else:
        print(f"No clear number: {named.why}")
    print(f"figure -> {printable(folder / FIGURE)}")

"""What the components of a run are, and what they are called."""

import json
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from cpvae.cli.read import FILES, Run, counted, examples_of, model_of
from cpvae.text import in_markup, printable

if TYPE_CHECKING:
    import numpy as np

    from cpvae.evaluation.profiles import Profile

commands = typer.Typer()


@commands.command()
def describe(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help=f"Other data: a data set by name, {FILES}.",
            show_default="all rows of the data of the run",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object, with every column.")
    ] = False,
) -> None:
    """Print what each component (segment, cluster) is: its share and what sets it apart.

    Values stand beside those of all rows: medians of numbers, shares of categories. Columns that
    tell most come first. A row counts for its most probable component.
    """
    from cpvae.checkpoint import RunFolder
    from cpvae.data.described import with_described
    from cpvae.evaluation.profiles import profiles
    from cpvae.models.inference import cluster_probs
    from cpvae.names import read_names

    folder = RunFolder(run)
    info = folder.read_info()
    model, schema = model_of(folder, info), folder.read_schema()
    if data is None and not info.get("data"):
        raise ValueError(
            f"{run} was saved from Python and does not say what it was fitted on: add DATA, as in "
            f"`cpvae describe {quote(str(run))} table.csv`."
        )
    source = data or info["data"]["source"]
    x, _, rows, _ = examples_of(folder, source)
    names, probs = read_names(folder, model.n_components), cluster_probs(model, x).numpy()
    values = x.numpy()
    if data is None and info["data"].get("describe"):
        values, schema = with_described(values, schema, info["data"])
    found = profiles(values, probs, schema, names)
    if as_json:
        components = [profile.as_json() for profile in found]
        told = {"run": str(run), "n_rows": len(values), "components": components}
        print(json.dumps(told, ensure_ascii=False))
        return
    table = {} if schema.is_image else schema.decode(values, drawn=False)
    asked = info["data"].get("describe") or [] if data is None else []
    _print(found, table, rows, f"{run}, {counted(len(values), 'row')}", asked)


def _print(
    found: "list[Profile]",
    columns: "dict[str, np.ndarray]",
    rows: tuple[str, ...] | None,
    title: str,
    asked: list[str],
) -> None:
    from rich.console import Console
    from rich.table import Table

    from cpvae.names import called
    from cpvae.report.words import percent, profile_in_words, row_in_words, sure_in_words

    table = Table(
        "component", "share", "what sets it apart", title=in_markup(title), show_lines=True
    )
    for profile in found:
        told = profile_in_words(profile, always=asked) if columns or not profile.n_rows else []
        if columns and profile.typical:
            told.append(f"a typical row: {row_in_words(profile, columns, profile.typical[0])}")
        elif rows and profile.typical:
            told.append(f"the clearest: {', '.join(rows[row] for row in profile.typical)}")
        if profile.n_rows:
            told.append(sure_in_words(profile))
        table.add_row(
            in_markup(called(profile.component, profile.name)),
            f"{percent(profile.share)}\n{counted(profile.n_rows, 'row')}",
            "\n".join(map(in_markup, told)),
        )
    Console(emoji=False, highlight=False).print(table)


@commands.command()
def name(
    run: Run,
    pairs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NUMBER=NAME]...",
            help="Names by the numbers of components, as in 0=starter; an empty one takes a name "
            "away.",
            show_default="print the names",
        ),
    ] = None,
) -> None:
    """Name the components of a run, for all commands to know them by.

    `generate --component NAME` draws from it, `assign` writes it, `describe` and `report` show it.
    Components of one name count as one.
    """
    from cpvae.checkpoint import RunFolder
    from cpvae.names import called, pairs_of, read_names, renamed, write_names

    folder = RunFolder(run)
    names = read_names(folder, folder.read_info()["model"]["n_components"])
    if pairs:
        names = renamed(names, pairs_of(pairs))
        write_names(folder, names)
    for k, each in enumerate(names):
        same = [other for other, mine in enumerate(names) if mine == each and other != k]
        also = f"   one with component {', '.join(map(str, same))}" if same else ""
        print(printable(called(k, each) + also))

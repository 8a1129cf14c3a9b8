"""``cpvae impute``: a table with its missing cells filled in."""

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.read import Run, Seed, counted, model_of, tell
from cpvae.cli.write import (
    OverwriteFile,
    check_ending,
    check_output,
    named_after,
    out_option,
    save_table,
)
from cpvae.text import printable

if TYPE_CHECKING:
    from cpvae.data.schema import Schema

commands = typer.Typer()
ENDINGS = (".csv", ".parquet")


@commands.command()
def impute(
    run: Run,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help=f"A table ({', '.join(choices.TABLES)}) with gaps."),
    ],
    out: Annotated[
        Path | None,
        out_option("FILE", "Where to write: .csv or .parquet.", "DATA-imputed.csv"),
    ] = None,
    draw: Annotated[
        bool,
        typer.Option(
            "--draw",
            help="Draw each value given the others of its row, so that filled columns vary as much "
            "as the data do.",
            show_default="the expected value",
        ),
    ] = False,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Draw so many tables, one below the other with a column 'draw', for multiple "
            "imputation: what is computed from each differs by as much as the gaps leave open.",
            show_default="1 with --draw",
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: OverwriteFile = False,
) -> None:
    """Fill in the missing cells of a table, by the other cells of each row.

    All columns are written as they were read; those that were not fitted keep their gaps.
    """
    import numpy as np
    import pyarrow
    import torch

    from cpvae import output
    from cpvae.checkpoint import RunFolder
    from cpvae.data import order
    from cpvae.data.splits import Selection
    from cpvae.data.tables import ending_of, is_parquet, read_table
    from cpvae.models.imputation import draw_missing
    from cpvae.models.inference import reconstructed
    from cpvae.streams import torch_stream

    folder = RunFolder(run)
    info, schema = folder.read_info(), folder.read_schema()
    if schema.is_image or (ending_of(data) not in choices.TABLES and not is_parquet(data)):
        raise ValueError(
            f"{data}: impute fills in tables ({', '.join(choices.TABLES)}). Of an array, use "
            f"CPVAE.load({str(run)!r}).impute in Python."
        )
    out = out or named_after(data, "imputed")
    check_ending(out, ENDINGS)
    check_output(out, overwrite, run, data)
    model = model_of(folder, info)
    read = read_table(data, Selection(schema=schema))
    tell(read.notes)
    x = schema.encode(read.table, str(data))
    schema.check_values(x, missing=model.likelihood.takes_missing)
    examples = torch.from_numpy(x)
    if draw or draws:
        generator = torch_stream(seed, "sampling")
        made = [draw_missing(model, examples, generator).numpy() for _ in range(draws or 1)]
    else:
        made = [reconstructed(model, examples).numpy()]
    table = _with_dates(read.table)
    of_each = [order.kept(x, each, read.table, schema) for each in made]
    missing = of_each[0][0]
    tables = [_filled(table, schema, missing, each) for _, each in of_each]
    if draws:
        name = "draw"
        while name in read.table.column_names:  # it may be a name of the data's
            name += "_"
        numbers = [np.full(len(x), number) for number in range(1, draws + 1)]
        tables = [
            table.append_column(name, pyarrow.array(of))
            for table, of in zip(tables, numbers, strict=True)
        ]
    out.parent.mkdir(parents=True, exist_ok=True)
    output.write(out, partial(save_table, pyarrow.concat_tables(tables)), overwrite)
    times = f", {counted(draws, 'time')}" if draws else ""
    cells = counted(int(missing.sum()), "cell")
    print(f"{cells} of {len(x)} rows filled in{times} -> {printable(out)}")


def _with_dates(table: Any) -> Any:
    """The table with its times as dates, in columns where no time of a day is told."""
    from pyarrow import ArrowInvalid, date32, types

    for place, column in enumerate(table.columns):
        if types.is_timestamp(column.type):
            with contextlib.suppress(ArrowInvalid):  # it has such times
                days = column.cast(date32())
                table = table.set_column(place, table.column_names[place], days)
    return table


def _filled(table: Any, schema: "Schema", missing: Any, made: Any) -> Any:
    """A table of pyarrow with its missing cells (n, f) from other rows (n, f); the rest stays."""
    import pyarrow
    from pyarrow import compute

    names = schema.names if set(schema.names) <= set(table.column_names) else table.column_names
    columns = zip(names, missing.T, schema.decode(made).values(), strict=True)
    for name, gone, values in columns:
        if not gone.any():
            continue
        place = table.column_names.index(name)
        column, new = table.column(place), pyarrow.array(values)
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pyarrow.types.is_null(column.type):
            column = column.cast(new.type)
        try:
            new = new.cast(column.type)
        except pyarrow.ArrowInvalid:  # a fraction among whole numbers
            column = column.cast(new.type)
        table = table.set_column(place, name, compute.if_else(pyarrow.array(gone), new, column))
    return table

"""Commands that use a fitted run on this machine, from its figures to its explorer."""

import contextlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cpvae.cli.many import (
    evaluate_shards,
)
from cpvae.cli.quality import print_quality
from cpvae.cli.read import (
    FILES,
    Run,
    Seed,
    counted,
    examples_of,
    label_in,
    model_of,
    note,
    splits_given,
    splits_of,
)
from cpvae.cli.write import (
    HOW,
    Overwrite,
    OverwriteFile,
    beside,
    check_output,
    out_option,
)
from cpvae.text import in_markup, printable

commands = typer.Typer()
Other = Annotated[
    str | None,
    typer.Argument(
        metavar="[DATA]",
        help=f"Other data: a data set by name, {FILES}.",
        show_default="the data of the run",
    ),
]


@commands.command()
def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help=f"A data set by name (its test part), {FILES}.",
            show_default="the test part of the data of the run",
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option(
            min=1, help="Draws per example for the log-likelihood: more are nearer to it."
        ),
    ] = 500,
    label: Annotated[str | None, typer.Option(help="Column of DATA with known classes.")] = None,
    seed: Seed = 0,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality",
            help="Instead say how good and how private drawn rows of a table are, beside held-out "
            "ones.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object.")] = False,
) -> None:
    """Print how well a run fits data (higher is better) and, with labels, clustering scores.

    The figures are bounds on the log-likelihood and an estimate of it, in nats per example, the
    parts of the bound, and the information that components carry about an example.
    """
    from cpvae.checkpoint import RunFolder
    from cpvae.data.shards import is_large
    from cpvae.evaluation.metrics import evaluate as evaluate_model
    from cpvae.evaluation.metrics import figures_of
    from cpvae.lock import Locked
    from cpvae.report.page import evaluate_run
    from cpvae.report.progress import RowsBar

    folder = RunFolder(run)
    info = folder.read_info()
    if label and data is None:
        raise ValueError("--label names a column of other DATA: name DATA, or leave it out.")
    if quality:
        print_quality(folder, info, data, seed, as_json)
        return
    if data is None:
        splits = splits_of(info, run)
        with contextlib.ExitStack() as stack:
            try:
                keep = bool(stack.enter_context(folder.writing()))
            except (Locked, OSError) as error:  # a run in progress, or on a read-only disk
                note(f"these figures are printed and not kept: {error}")
                keep = False
            bar = stack.enter_context(RowsBar("importance samples", quiet=as_json))
            result = evaluate_run(folder, splits, samples, seed, bar.update, keep)
    elif is_large(data):
        with RowsBar("rows", quiet=as_json) as bar:
            model = model_of(folder, info)
            result = evaluate_shards(folder, model, data, label, samples, seed, bar.update)
    else:
        model = model_of(folder, info)
        found = examples_of(folder, data, label or label_in(folder, data), test_part=True)
        with RowsBar("importance samples", quiet=as_json) as bar:
            result = evaluate_model(
                model, found.x, found.labels, samples, seed, progress=bar.update
            )
    if as_json:
        print(json.dumps(result))
        return
    from rich.console import Console
    from rich.table import Column, Table

    labelled = f", {result['n_labelled']} of them labelled" if "n_labelled" in result else ""
    table = Table(
        *("quantity", Column("key", no_wrap=True), "value", "±", "± noise"),
        title=f"{in_markup(run)}, {result['n_examples']} examples{labelled}",
        caption="±: standard error over examples; ± noise: of the draws for these examples."
        + " Bounds count which cells are missing." * bool(folder.read_schema().gaps),
    )
    for row in figures_of(result):
        table.add_row(row.what, row.key, row.value, row.error, row.noise_error)
    Console(emoji=False).print(table)


@commands.command()
def compact(
    run: Run,
    data: Other = None,
    out: Annotated[
        Path | None,
        out_option("FOLDER", "Run folder to write: a new or an empty one.", "RUN-compact"),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Keep the fewest components whose bound on held-out data is so close to the "
            "best, in nats per example.",
        ),
    ] = 0.1,
    merge_connected: Annotated[
        bool,
        typer.Option(
            "--merge-connected",
            help="Also merge components that touch as parts of one long or large cluster do, even "
            "if the fit gets worse.",
        ),
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a smaller run: unused components dropped, redundant ones merged."""
    from cpvae.checkpoint import RunFolder, describe
    from cpvae.evaluation import densities
    from cpvae.models.compact import compact as compact_model
    from cpvae.names import merged_names, read_names, write_names
    from cpvae.report.page import write_figures
    from cpvae.staging import staged
    from cpvae.training.recipe import Recipe

    folder = RunFolder(run)
    info = folder.read_info()
    out = out or beside(run, "compact")
    RunFolder(out).check_free(overwrite, HOW)
    model, schema = model_of(folder, info), folder.read_schema()
    splits = splits_given(folder, data) if data else splits_of(info, run)
    found = compact_model(
        model,
        {**info["model"], **schema.features()},
        splits.valid.tensor(),
        tolerance,
        connected_in=splits.train.tensor() if merge_connected else None,
    )
    compacted = {
        "from": model.n_components,
        "groups": found.groups,
        "merge_connected": merge_connected,
        "valid_elbo_exact_nats_before": found.elbo_before_nats,
        "valid_elbo_exact_nats_after": found.elbo_after_nats,
        "curve": found.curve,
    }
    described = describe(schema, found.config, Recipe.from_json(info["recipe"]))
    with staged(out, overwrite, HOW) as small:
        of_fitted = densities.quantiles(found.model, splits.train.tensor(), info["recipe"]["seed"])
        changed = {"model": described["model"], "compacted": compacted, densities.KEY: of_fitted}
        small.write_info({**info, **changed})
        small.write_history(folder.read_history())
        small.write_model(found.model.state_dict())
        write_names(small, merged_names(read_names(folder, model.n_components), found.groups))
        picture = write_figures(small, splits)["components"].relative_to(small.path)
    _print_groups(found.groups, found.model.aggregated.tolist(), model.n_components)
    print(
        f"{counted(model.n_components, 'component')}, {found.elbo_before_nats:.3f} nats -> "
        f"{counted(found.model.n_components, 'component')}, {found.elbo_after_nats:.3f} nats "
        f"(one-hot bound on the validation data)\nrun -> {printable(out)}\n"
        f"by component -> {printable(out / picture)}"
    )


@commands.command()
def report(
    run: Run,
    data: Other = None,
    out: Annotated[
        Path | None,
        out_option("FILE", "Where to write the page.", "RUN/report.html"),
    ] = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Write one HTML page about a run: components, figures, curves."""
    from cpvae.checkpoint import REPORT, RunFolder
    from cpvae.report.page import write_report
    from cpvae.report.progress import RowsBar

    folder = RunFolder(run)
    info = folder.read_info()
    if out:
        check_output(out, overwrite, run)
    page = out or run / REPORT  # which is the run's own
    with folder.writing():
        splits = splits_given(folder, data) if data else splits_of(info, run)
        with RowsBar("importance samples") as bar:
            write_report(folder, splits, page, bar.update, overwrite or not out, keep=not data)
    print(f"report -> {printable(page)}")


@commands.command(name="app")
def explore(
    run: Run,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to serve on.", show_default="7860 or the next"),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Explore a run in the browser: generate, morph examples, name the components."""
    from cpvae.checkpoint import RunFolder
    from cpvae.extras import need
    from cpvae.report.app import page, serve
    from cpvae.report.explorer import Explorer
    from cpvae.report.guard import temporary

    need("gradio", "app")
    folder = RunFolder(run)
    info = folder.read_info()
    model, schema = model_of(folder, info), folder.read_schema()
    x = rows = None
    try:
        if info.get("data"):
            x = splits_of(info, run).test.tensor()
            whole = examples_of(folder, info["data"]["source"])
            if whole.rows:
                x, rows = whole.x, whole.rows
    except ValueError as error:
        note(str(error))

    def read(file: str | None) -> tuple[Any, Any]:
        if not file and not info.get("data"):
            raise ValueError("The run was saved from Python and does not say where its data is.")
        found = examples_of(folder, file or info["data"]["source"])
        return found.x, found.rows

    explorer = Explorer(model, x, schema, folder, rows)
    with temporary():
        serve(page(explorer, run.resolve().name, read), port, browser)


def _print_groups(groups: list[list[int]], shares: list[float], n_components: int) -> None:
    """Which former components each new one is made of, and which are gone."""
    from rich.console import Console
    from rich.table import Table

    table = Table("component", "share", "was")
    for k, group in enumerate(groups):
        table.add_row(str(k), f"{100 * shares[k]:.1f} %", ", ".join(map(str, group)))
    Console().print(table)
    gone = set(range(n_components)).difference(*groups)
    if gone:
        print(f"dropped, as hardly anything is in them: {', '.join(map(str, sorted(gone)))}")

"""Commands that use a fitted run on this machine, from its figures to its explorer."""

import contextlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.many import (
    Worker,
    assign_shards,
    evaluate_shards,
    generate_shards,
    is_folder,
    print_counts,
)
from cpvae.cli.quality import print_quality
from cpvae.cli.read import (
    FILES,
    Examples,
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
    check_ending,
    check_output,
    out_option,
    save_table,
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
def generate(
    run: Run,
    component: Annotated[
        str | None,
        typer.Option(
            *("--component", "-c"),
            metavar="K|NAME",
            help="Only this component: its number, from 0, or its name.",
            show_default="any",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many examples.")] = 64,
    out: Annotated[
        Path | None,
        out_option(
            "FILE",
            "Images: .png, .npz. Tables: .csv, .parquet, .npz. A name without an ending is a "
            "folder of many files, for any number of examples.",
            "generated.png or .csv",
        ),
    ] = None,
    from_: Annotated[
        choices.DrawFrom | None,
        typer.Option(
            "--from",
            help="How often each component is drawn: aggregated, as often as in the training data; "
            "uniform, equally often.",
            show_default="aggregated for cpvae, else uniform",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="What rows of a table are to have, as in --where plan=pro or --where 'age>=40' "
            "(also < <= > !=); repeat for more. The rest of a row is drawn to go with it.",
            show_default="none",
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: OverwriteFile = False,
    worker: Worker = None,
) -> None:
    """Generate examples, from one component or from all of them."""
    from cpvae import output
    from cpvae.checkpoint import RunFolder
    from cpvae.data.conditions import conditions
    from cpvae.models.resampling import sample_given
    from cpvae.names import called, components_of, read_names
    from cpvae.streams import torch_stream

    folder = RunFolder(run)
    info = folder.read_info()
    model, schema = model_of(folder, info), folder.read_schema()
    names = read_names(folder, model.n_components)
    wanted = None if component is None else components_of(component, names)
    is_image = schema.is_image
    out = out or Path("generated.png" if is_image else "generated.csv")
    mean = info["model"]["likelihood"] == "bernoulli" and schema.is_grey
    if is_folder(out, worker):
        if where:
            raise ValueError(f"--where writes one file: give {out} an ending, such as .parquet.")
        how = {"component": wanted, "from_": from_, "mean": mean, "seed": seed}
        generate_shards(
            run, model, n, how, partial(_save_drawn, schema, mean), out, worker, overwrite
        )
        return
    check_ending(out, (".png", ".npz") if is_image else (".csv", ".parquet", ".npz"))
    check_output(out, overwrite, run)
    generator = torch_stream(seed, "sampling")
    worth = ""
    if where:
        found = sample_given(model, n, conditions(schema, where), wanted, from_, generator)
        x, drawn, mean, worth = found.x.numpy(), found.component.numpy(), False, found.in_words(n)
    else:
        x, drawn = (t.numpy() for t in model.sample(n, wanted, from_, generator, mean))
    out.parent.mkdir(parents=True, exist_ok=True)
    output.write(out, partial(_save_drawn, schema, mean, x, drawn), overwrite)
    source = "all components"
    if wanted is not None:
        source = f"component {' and '.join(called(k, names[k]) for k in wanted)}"
    source += f" with {', '.join(where)}" if where else ""
    print(f"{n} examples from {printable(source)} -> {printable(out)}")
    if worth:
        print(worth)


@commands.command()
def assign(
    run: Run,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"A data set by name, {FILES}; or one image.")
    ],
    out: Annotated[
        Path,
        out_option(
            "FILE",
            "Where to write: .csv or .parquet. A name without an ending is a folder, with a file "
            "for each file of DATA: for tables of any size.",
        ),
    ] = Path("assigned.csv"),
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Write all columns of DATA too, not only its ids."),
    ] = False,
    overwrite: OverwriteFile = False,
    worker: Worker = None,
) -> None:
    """Write the most probable component of each example of DATA, and all probabilities.

    Of a table the ids come first: columns that were named by `cpvae fit --id`, or that
    differ in every row.

    Beside them stands how probable the example itself is: log_density (a bound, nats), its place
    among the fitted ones (the share of them that is less probable), and outlier, true where
    none of them is: such an example belongs to no component.
    """
    import numpy as np

    from cpvae import output
    from cpvae.bulk import assigned, with_free_names
    from cpvae.checkpoint import RunFolder
    from cpvae.evaluation import densities
    from cpvae.models.inference import cluster_probs
    from cpvae.names import read_names

    folder = RunFolder(run)
    info = folder.read_info()
    model = model_of(folder, info)
    names = read_names(folder, model.n_components)
    if is_folder(out, worker):
        assign_shards(folder, model, names, data, keep, out, worker, overwrite)
        return
    check_ending(out, (".csv", ".parquet"))
    check_output(out, overwrite, run, data)
    found = examples_of(folder, data)
    x, probs = found.x, cluster_probs(model, found.x).numpy()
    made = assigned(probs, names, densities.columns(model, x, info))
    table = _columns_of(found, folder.read_schema().ids, keep)
    table |= with_free_names(made, table)
    out.parent.mkdir(parents=True, exist_ok=True)
    output.write(out, partial(save_table, table), overwrite)
    print_counts(np.bincount(made["component"], minlength=probs.shape[1]), names)
    print(f"{len(x)} examples assigned -> {printable(out)}")
    if "outlier" not in made:
        note("this run is of an earlier version and has no places of densities: fit it again")
    elif n_outliers := int(made["outlier"].sum()):
        print(
            f"{counted(n_outliers, 'example')} less probable than all that were fitted: "
            f"see the column outlier"
        )


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
    """Write a smaller run: unused components dropped, redundant ones merged (cpvae only)."""
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


def _columns_of(found: Examples, ids: list[str], keep: bool) -> dict[str, Any]:
    """What is written of each example beside its component: all its cells, ids, or its file."""
    if found.table is None:
        if keep:
            raise ValueError("--keep is for tables with named columns: leave it out.")
        return {} if found.rows is None else {"file": found.rows}
    names = found.table.column_names
    return {name: found.table[name] for name in names if keep or name in ids}


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


def _save_drawn(schema: Any, mean: bool, x: Any, drawn: Any, out: Path) -> None:
    """Writes examples of a model (n, ...) with their components (n); the ending says how."""
    from cpvae.bulk import with_free_names

    if out.suffix == ".png":
        _save_sheet(x, out)
    elif out.suffix == ".npz":
        _save_arrays({"x": schema.as_given(x) if schema.is_image else x, "component": drawn}, out)
    else:
        table = schema.decode(x, drawn=not mean)
        save_table({**table, **with_free_names({"component": drawn}, table)}, out)


def _save_sheet(x: Any, out: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    from cpvae.data.images import OURS
    from cpvae.report.figures import displayable, enlarge, image_grid

    ours = PngInfo()
    ours.add_text("Software", OURS)  # so that it is no data where it lies among images
    sheet = enlarge(image_grid(displayable(x, x), math.ceil(math.sqrt(len(x))), gap=2))
    sheet.save(out, pnginfo=ours)


def _save_arrays(arrays: dict[str, Any], out: Path) -> None:
    import numpy as np

    np.savez_compressed(out, **arrays)

"""Commands that draw new examples and that say of which component given ones are."""

import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.many import (
    Ray,
    Sharing,
    Worker,
    assign_shards,
    generate_shards,
    is_folder,
    print_counts,
)
from cpvae.cli.read import FILES, Examples, Run, Seed, counted, examples_of, model_of, note
from cpvae.cli.write import (
    OverwriteFile,
    check_ending,
    check_output,
    named_after,
    out_option,
    save_table,
)
from cpvae.text import printable

commands = typer.Typer()


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
            "RUN-generated.png or .csv",
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
    ray: Ray = None,
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
    word = "generated" if component is None else f"{component}-generated"
    out = out or named_after(run, word, ".png" if is_image else ".csv")
    mean = info["model"]["likelihood"] == "bernoulli" and schema.is_grey
    sharing = Sharing(worker, ray, overwrite)
    if is_folder(out, sharing):
        if where:
            raise ValueError(f"--where writes one file: give {out} an ending, such as .parquet.")
        how = {"component": wanted, "from_": from_, "mean": mean, "seed": seed}
        generate_shards(run, model, n, how, partial(_save_drawn, schema, mean), out, sharing)
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
        Path | None,
        out_option(
            "FILE",
            "Where to write: .csv or .parquet. A name without an ending is a folder, with a file "
            "for each file of DATA: for tables of any size.",
            "DATA-assigned.csv",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Write all columns of DATA too, not only its ids."),
    ] = False,
    overwrite: OverwriteFile = False,
    worker: Worker = None,
    ray: Ray = None,
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
    out = out or named_after(data, "assigned")
    sharing = Sharing(worker, ray, overwrite)
    if is_folder(out, sharing):
        assign_shards(folder, model, names, data, keep, out, sharing)
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


def _columns_of(found: Examples, ids: list[str], keep: bool) -> dict[str, Any]:
    """What is written of each example beside its component: all its cells, ids, or its file."""
    if found.table is None:
        if keep:
            raise ValueError("--keep is for tables with named columns: leave it out.")
        return {} if found.rows is None else {"file": found.rows}
    names = found.table.column_names
    return {name: found.table[name] for name in names if keep or name in ids}


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

"""The command line, one function a command, in the order of a run's life.

Each command imports what it needs.
"""

import json
import math
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.exceptions import TyperException

from cpvae.experiments.commands import app as reproduce

if TYPE_CHECKING:
    from cpvae.checkpoint import RunFolder
    from cpvae.data import Splits
    from cpvae.models.base import Model

app = typer.Typer(
    name="cpvae",
    help="Learn a mixture from data, and generate from any one of its components.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STOPPED = "stopped; a run in progress goes on with the same command and --resume"
FILES = "a .npz, .npy, .csv or .parquet file, or a folder of images"
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder that `fit` wrote.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn at random.")]


class System(StrEnum):
    """The model, and what it is compared with."""

    cpvae = "cpvae"
    vae = "vae"
    mog = "mog"
    vamp = "vamp"
    hvae = "hvae"
    hvamp = "hvamp"


class Likelihood(StrEnum):
    """p(x | z, c)."""

    bernoulli = "bernoulli"
    gaussian = "gaussian"
    mixed = "mixed"


class Network(StrEnum):
    """Kind of trunk and decoder."""

    mlp = "mlp"
    conv = "conv"


class Covariance(StrEnum):
    """Covariance of p(z | c)."""

    diag = "diag"
    full = "full"


class Gate(StrEnum):
    """What q(z | x, .) reads."""

    probabilities = "probabilities"
    category = "category"


class PseudoInputs(StrEnum):
    """Where those of a VampPrior start."""

    data = "data"
    random = "random"


class Precision(StrEnum):
    """Of products in training."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Estimator(StrEnum):
    """Of the expectation over c."""

    relaxed = "relaxed"
    straight_through = "straight_through"
    exact = "exact"


class MixtureWeights(StrEnum):
    """What p(c) is."""

    uniform = "uniform"
    learned = "learned"


class Invariance(StrEnum):
    """Changes of x that must leave its category as it is."""

    affine = "affine"
    masking = "masking"


class Logger(StrEnum):
    """Where a run is logged, beside its folder."""

    csv = "csv"
    tensorboard = "tensorboard"
    wandb = "wandb"


class From(StrEnum):
    """Where components are drawn from."""

    aggregated = "aggregated"
    uniform = "uniform"


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from cpvae import __version__

        print(f"cpvae {__version__}")
        raise typer.Exit


@app.command()
def fit(
    data: Annotated[str, typer.Argument(metavar="DATA", help=f"digits, mnist, omniglot, {FILES}.")],
    components: Annotated[
        int | None,
        typer.Option("--components", "-k", help="Components to learn.", show_default="10"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write.", show_default="a new one in runs/")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data at most.", show_default="by data size")
    ] = None,
    invariance: Annotated[
        Invariance | None,
        typer.Option(
            help="Ask categories to stay: affine, under small changes of images; masking, where "
            "values of a table go missing."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Column of a table with labels: never seen by the fit.")
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column of a table to leave out; repeat.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=KIND",
            help="gaussian, binary, count or categorical; KIND alone is for all columns; repeat.",
            show_default="by the values",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Bring images to this size.",
            show_default="as they are",
        ),
    ] = None,
    model: Annotated[
        System | None,
        typer.Option(
            rich_help_panel="Model",
            help="VAE, mixture prior, VampPrior, two layers, two with VampPrior; or CP-VAE.",
            show_default="cpvae",
        ),
    ] = None,
    likelihood: Annotated[
        Likelihood | None,
        typer.Option(
            rich_help_panel="Model",
            help="Decoder; mixed takes columns of several kinds.",
            show_default="bernoulli for data in [0, 1]; mixed for text",
        ),
    ] = None,
    noise_scale: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Model",
            help="Fixed noise of a gaussian decoder.",
            show_default="learned",
        ),
    ] = None,
    latent_dim: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Model",
            help="Dimensions of z.",
            show_default="half the features, 40 at most",
        ),
    ] = None,
    network: Annotated[
        Network | None, typer.Option(rich_help_panel="Model", help="Layers.", show_default="mlp")
    ] = None,
    covariance: Annotated[
        Covariance | None,
        typer.Option(
            rich_help_panel="Model",
            help="Covariance of the components; cpvae and mog.",
            show_default="diag",
        ),
    ] = None,
    gate: Annotated[
        Gate | None,
        typer.Option(
            rich_help_panel="Model",
            help="What q(z | x, .) reads; cpvae.",
            show_default="probabilities",
        ),
    ] = None,
    weights: Annotated[
        MixtureWeights | None,
        typer.Option(
            rich_help_panel="Model",
            help="p(c); uniform, as in the paper, says categories are of one size; cpvae.",
            show_default="learned",
        ),
    ] = None,
    pseudo_inputs: Annotated[
        PseudoInputs | None,
        typer.Option(
            rich_help_panel="Model",
            help="Start of those of a VampPrior.",
            show_default="data",
        ),
    ] = None,
    estimator: Annotated[
        Estimator | None,
        typer.Option(
            rich_help_panel="Training",
            help="Expectation over c in training; cpvae.",
            show_default="straight_through; where categories start as pieces exact after 3/5",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Training",
            help="Examples a step.",
            show_default="100, fewer for small data",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(rich_help_panel="Training", help="Step size of Adam.", show_default="0.001"),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            rich_help_panel="Training",
            help="Of products; bfloat16 is for data in [0, 1].",
            show_default="bfloat16 where the processor has it and it pays",
        ),
    ] = None,
    start_epochs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Training",
            help="Epochs before categories start: communities of neighbours, or pieces of a table.",
            show_default="3/20 of all; 1 in tables under 1000 rows or 8 columns, or mixed ones",
        ),
    ] = None,
    kl_z_start: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Training",
            help="First weight of the KL of z; above 1 c has to say more.",
            show_default="1; 6 in such tables; 0 for models without c",
        ),
    ] = None,
    kl_c_start: Annotated[
        float | None,
        typer.Option(
            rich_help_panel="Training", help="First weight of the KL of c.", show_default="1"
        ),
    ] = None,
    anneal_epochs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Training", help="Epochs until both are 1.", show_default="3/8 of all"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            rich_help_panel="Training",
            help="Epochs without a better bound.",
            show_default="a fifth of all",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of everything, also of the split.", show_default="0"),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1, help="Fit one split from that many seeds; keep the best bound.", show_default="1"
        ),
    ] = None,
    accelerator: Annotated[
        str, typer.Option(rich_help_panel="Training", help="auto, cpu, cuda or mps.")
    ] = "auto",
    logger: Annotated[
        Logger | None,
        typer.Option(help="Log epochs and pictures for this, too.", show_default="none"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out (or runs/DATA).")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
) -> None:
    """Fit a model to DATA and write a run folder."""
    settings = {
        "model": model,
        "n_components": components,
        "likelihood": likelihood,
        "noise_scale": noise_scale,
        "latent_dim": latent_dim,
        "network": network,
        "covariance": covariance,
        "gate": gate,
        "weights": weights,
        "pseudo_inputs": pseudo_inputs,
        "estimator": estimator,
        "max_epochs": max_epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "start_epochs": start_epochs,
        "kl_z_start": kl_z_start,
        "kl_c_start": kl_c_start,
        "anneal_epochs": anneal_epochs,
        "patience": patience,
        "seed": seed,
    }
    given = {
        key: value.value if isinstance(value, StrEnum) else value
        for key, value in settings.items()
        if value is not None
    }
    source = {
        "source": data if _is_name(data) else str(Path(data).resolve()),
        "label": label,
        "drop": drop or [],
        "kinds": _kinds(kind or []),
        "size": _size(size) if size else None,
        "invariance": invariance.value if invariance else None,
    }
    from cpvae.cli.fit import fit_run

    where = logger.value if logger else None
    fit_run(source, given, restarts, out, resume, overwrite, accelerator, where)


@app.command()
def evaluate(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(metavar="[DATA]", help=f"A data set by name (its test part), {FILES}."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Importance samples of log p(x).")] = 500,
    label: Annotated[str | None, typer.Option(help="Column of a table with labels.")] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one flat JSON object.")] = False,
) -> None:
    """Print bounds, likelihood, the parts of the KL, and with labels the clustering scores."""
    from cpvae.checkpoint import RunFolder
    from cpvae.evaluation.metrics import evaluate as evaluate_model
    from cpvae.report.page import evaluate_run, meaning
    from cpvae.report.progress import RowsBar

    folder = RunFolder(run)
    info = folder.read_info()
    if data is None:
        splits = _splits(info, run)
        with RowsBar("importance samples", quiet=as_json) as bar:
            result = evaluate_run(folder, splits, samples, seed, bar.update)
    else:
        model = _model(folder, info)
        x, labels, _ = _examples(info, data, label or _label_in(info, data))
        with RowsBar("importance samples", quiet=as_json) as bar:
            result = evaluate_model(model, x, labels, samples, seed, progress=bar.update)
    if as_json:
        print(json.dumps(result))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "quantity", "key", "value", "unit", title=f"{run}, {result['n_examples']} examples"
    )
    for key, (what, _, unit) in meaning(result).items():
        if key in result:
            value = result[key]
            table.add_row(what, key, f"{value}" if isinstance(value, int) else f"{value:.3f}", unit)
    Console().print(table)


@app.command()
def generate(
    run: Run,
    component: Annotated[
        int | None,
        typer.Option("--component", "-c", help="Draw all from this one.", show_default="any"),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many examples.")] = 64,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Images: .png, .npz. Tables: .csv, .parquet, .npz.", show_default="generated.*"
        ),
    ] = None,
    from_: Annotated[
        From | None,
        typer.Option(
            "--from",
            help="Where components are drawn from.",
            show_default="aggregated for cpvae, else uniform",
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Generate examples, from one component or from all of them."""
    import torch

    from cpvae.checkpoint import RunFolder

    folder = RunFolder(run)
    info = folder.read_info()
    model = _model(folder, info)
    is_image = len(model.shape) == 3
    out = out or Path("generated.png" if is_image else "generated.csv")
    _check_ending(out, (".png", ".npz") if is_image else (".csv", ".parquet", ".npz"))
    generator = torch.Generator().manual_seed(seed)
    mean = info["model"]["likelihood"] == "bernoulli"
    x, drawn = (
        t.numpy() for t in model.sample(n, component, from_ and from_.value, generator, mean)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".png":
        _save_sheet(x, out)
    elif out.suffix == ".npz":
        import numpy as np

        np.savez_compressed(out, x=x, component=drawn)
    else:
        from cpvae.data.checks import column_names
        from cpvae.data.levels import decode

        stored = info.get("data") or {}
        names = column_names(stored.get("columns"), x.shape[1])
        table = decode(x, names, stored.get("levels") or {}, info["model"].get("kinds"))
        free = "component_" if "component" in table else "component"  # may be a name of the data's
        _save_table({**table, free: drawn}, out)
    source = "all components" if component is None else f"component {component}"
    print(f"{n} examples from {source} -> {out}")


@app.command()
def assign(
    run: Run,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"A data set by name, {FILES}; or one image.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write: .csv or .parquet.")] = Path(
        "assigned.csv"
    ),
) -> None:
    """Assign each example of DATA to a component, and write components with their probabilities."""
    import numpy as np

    from cpvae.checkpoint import RunFolder
    from cpvae.evaluation.metrics import cluster_probs

    folder = RunFolder(run)
    info = folder.read_info()
    model = _model(folder, info)
    _check_ending(out, (".csv", ".parquet"))
    x, _, rows = _examples(info, data, None, whole=True)
    probs = cluster_probs(model, x).numpy()
    component = probs.argmax(1)
    table: dict[str, Any] = {} if rows is None else {"file": rows}
    table |= {"component": component, "probability": probs.max(1)}
    table |= {f"p_{k}": probs[:, k] for k in range(probs.shape[1])}
    out.parent.mkdir(parents=True, exist_ok=True)
    _save_table(table, out)
    counts = np.bincount(component, minlength=probs.shape[1])
    print("  ".join(f"{k}: {count}" for k, count in enumerate(counts) if count))
    print(f"{len(x)} examples assigned -> {out}")


@app.command()
def compact(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write.", show_default="RUN-compact")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            min=0.0, help="Take the fewest components this close to the best bound, nats."
        ),
    ] = 0.1,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Then join the parts of a kind, at a cost to the bound: components with as many "
            "nearest neighbours in one another as two halves have.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out.")
    ] = False,
) -> None:
    """Drop components that are not used and merge those that say the same; writes a smaller run."""
    from rich.console import Console
    from rich.table import Table

    from cpvae.checkpoint import RunFolder
    from cpvae.cli.fit import counted
    from cpvae.models.compact import compact as compact_model
    from cpvae.report.page import write_figures

    folder = RunFolder(run)
    info = folder.read_info()
    small = RunFolder(out or run.with_name(f"{run.resolve().name}-compact"))
    if small.exists() and not overwrite:
        raise ValueError(
            f"{small.path} already holds a run: add --overwrite, or choose another --out."
        )
    model = _model(folder, info)
    splits = _splits(info, run)
    found = compact_model(
        model,
        info["model"],
        splits.valid.tensor(),
        tolerance,
        whole=splits.train.tensor() if whole else None,
    )
    history = folder.read_history()  # before the run itself is replaced, if it is
    small.clear()
    small.write_info(
        {
            **info,
            "model": found.config,
            "compacted": {
                "from": model.n_components,
                "groups": found.groups,
                "whole": whole,
                "valid_elbo_exact_nats_before": found.elbo_before_nats,
                "valid_elbo_exact_nats_after": found.elbo_after_nats,
                "curve": found.curve,
            },
        }
    )
    small.write_history(history)
    small.write_model(found.model.state_dict())
    table = Table("component", "share", "was")
    for k, group in enumerate(found.groups):
        share = f"{100 * found.model.aggregated[k]:.1f} %"
        table.add_row(str(k), share, ", ".join(map(str, group)))
    Console().print(table)
    gone = set(range(model.n_components)).difference(*found.groups)
    if gone:
        print(f"dropped, as hardly anything is in them: {', '.join(map(str, sorted(gone)))}")
    pictures = write_figures(small, splits)
    print(
        f"{counted(model.n_components, 'component')}, {found.elbo_before_nats:.3f} nats -> "
        f"{counted(found.model.n_components, 'component')}, {found.elbo_after_nats:.3f} nats "
        f"(one-hot bound on the validation data)\nrun -> {small.path}\n"
        f"by component -> {pictures['components']}"
    )


@app.command()
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page.", show_default="RUN/report.html")
    ] = None,
) -> None:
    """Write one HTML page about a run that opens anywhere."""
    from cpvae.checkpoint import RunFolder
    from cpvae.report.page import write_report
    from cpvae.report.progress import RowsBar

    folder = RunFolder(run)
    splits = _splits(folder.read_info(), run)
    with RowsBar("importance samples") as bar:
        path = write_report(folder, splits, out or run / "report.html", bar.update)
    print(f"report -> {path}")


@app.command()
def export(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="RUN/onnx")
    ] = None,
) -> None:
    """Export encoder, categories, decoder and prior as ONNX, to use them without torch."""
    from cpvae.checkpoint import RunFolder
    from cpvae.models.onnx import export_onnx

    folder = RunFolder(run)
    for file in export_onnx(_model(folder, folder.read_info()), out or run / "onnx"):
        print(f"{file.stem} -> {file}")


@app.command()
def share(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to.", show_default="RUN-shared")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="USER/NAME", help="Upload to this repository instead of writing."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
) -> None:
    """Write a run in the layout of the Hugging Face Hub, with a card, or upload it."""
    from cpvae import hub

    if push and out:
        raise ValueError("--push uploads and --out writes a folder: use one of them.")
    if push:
        address = hub.push_to_hub(run, push, private)
    else:
        address = str(
            hub.save_pretrained(run, out or run.with_name(f"{run.resolve().name}-shared"))
        )
    print(f"shared run -> {address}")


@app.command(name="app")
def explore(
    run: Run,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port to serve on.", show_default="7860 or the next"),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Explore a run in the browser: draw, walk, look around, name the categories."""
    from cpvae.checkpoint import NAMES, RunFolder
    from cpvae.extras import need
    from cpvae.report.app import page, serve
    from cpvae.report.explorer import Explorer

    need("gradio", "app")
    folder = RunFolder(run)
    info = folder.read_info()
    model = _model(folder, info)
    stored = info.get("data") or {}
    try:
        x = _splits(info, run).test.tensor()
    except ValueError as error:
        print(f"cpvae: note: {error}", file=sys.stderr)
        x = None

    def read(file: str | None) -> tuple[Any, Any]:
        examples, _, rows = _examples(info, file or stored["source"], None, whole=True)
        return examples, rows

    explorer = Explorer(model, x, stored.get("columns"), stored.get("levels"), run / NAMES)
    serve(page(explorer, run.resolve().name, read), port, browser)


app.add_typer(reproduce, name="reproduce")


def main() -> None:
    """Runs the command line; bad input ends with one line and exit code 2."""
    # libgomp's threads spin while they wait: for long, it costs a factor of five on a busy machine;
    # for too short a time, a quarter on an idle one (see docs/speed.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        code = app(standalone_mode=False)
    except TyperException as error:  # an unknown option, a missing argument
        _fail(f"{error.format_message()} (see `cpvae --help` and `cpvae COMMAND --help`)", 2)
    except ValueError as error:
        _fail(str(error), 2)
    except ModuleNotFoundError as error:
        if "cpvae[" not in str(error):  # not an optional package
            raise
        _fail(str(error), 2)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename}", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail(STOPPED, 130)
    except RuntimeError as error:
        if type(error).__name__ != "Diverged":
            raise
        _fail(str(error), 1)
    else:
        if code == 130:  # Ctrl-C, as typer reports it
            _fail(STOPPED, 130)
        sys.exit(code or 0)


def _fail(message: str, code: int) -> None:
    print("cpvae: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)


# --- reading and writing -------------------------------------------------------------------------


def _kinds(options: list[str]) -> dict[str, str] | str | None:
    """Of ``--kind``: one kind for all columns, or that of each column by name."""
    if not options:
        return None
    from cpvae.models.likelihoods import KINDS

    if len(options) == 1 and options[0] in KINDS:
        return options[0]
    for option in options:
        if "=" not in option:
            raise ValueError(f"--kind {option!r}: write COLUMN=KIND, as in --kind age=gaussian.")
    return dict(option.rsplit("=", 1) for option in options)


def _size(text: str) -> list[int]:
    """Of ``--size``: height and width; one number is both."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise ValueError(f"--size {text!r}: write HEIGHTxWIDTH in pixels, as in --size 28x28.")
    return [int(parts[0]), int(parts[-1])]


def _is_name(data: str) -> bool:
    from cpvae.data import NAMED

    return data in NAMED


def _splits(info: dict[str, Any], run: Path) -> "Splits":
    """The data that a run was fitted on, split as it was then."""
    stored = info.get("data")
    if not stored:
        raise ValueError(f"{run} does not say what it was fitted on: name the data.")
    from cpvae.cli.fit import load

    return load(stored, info["recipe"]["seed"])


def _examples(info: dict[str, Any], source: str, label: str | None, whole: bool = False):
    """Examples for a fitted model, their labels and names; of a named set its test part."""
    import numpy as np
    import torch

    from cpvae import data
    from cpvae.cli.fit import size_in
    from cpvae.data.checks import check_like

    stored = info.get("data") or {}
    if _is_name(source) and not whole:
        part = data.load(source, seed=info["recipe"]["seed"]).test
        x, labels, rows = part.x, part.labels, None
    else:
        columns = stored.get("columns")
        size = size_in(stored) if Path(source).suffix not in (".npy", ".npz") else None
        levels = (stored or info.get("table") or {}).get("levels") or {}
        read = data.read(source, label=label, columns=columns, levels=levels, size=size)
        x, labels, rows = read.x, read.labels, read.rows
    missing = info["model"]["likelihood"] != "bernoulli" and x.ndim == 2
    kinds = info["model"].get("kinds")
    check_like(x, info["model"]["shape"], stored.get("columns"), missing, kinds)
    return torch.from_numpy(np.ascontiguousarray(x)), labels, rows


def _model(folder: "RunFolder", info: dict[str, Any]) -> "Model":
    """The model of a run; says so when the run has not finished."""
    model = folder.read_model()
    if info["status"] != "finished":
        print(
            f"cpvae: note: {folder.path} has not finished (status: {info['status']}); these are "
            f"its best weights so far",
            file=sys.stderr,
        )
    return model


def _label_in(info: dict[str, Any], source: str) -> str | None:
    """The label column of the run, where a table has it too."""
    from cpvae import data

    stored = info.get("data") or {}
    if not stored.get("label"):
        return None
    try:
        data.read(
            source,
            label=stored["label"],
            columns=stored["columns"],
            levels=stored.get("levels") or {},
        )
    except ValueError:
        return None
    return stored["label"]


def _check_ending(path: Path, endings: tuple[str, ...]) -> None:
    if path.suffix not in endings:
        raise ValueError(f"--out {path} must end in one of {', '.join(endings)} for this data.")


def _save_sheet(x: Any, out: Path) -> None:
    from cpvae.report.figures import displayable, enlarge, image_grid

    enlarge(image_grid(displayable(x, x), math.ceil(math.sqrt(len(x))), gap=2)).save(out)


def _save_table(columns: dict[str, Any], out: Path) -> None:
    import pyarrow
    from pyarrow import csv, parquet

    table = pyarrow.table(columns)
    (parquet.write_table if out.suffix == ".parquet" else csv.write_csv)(table, out)

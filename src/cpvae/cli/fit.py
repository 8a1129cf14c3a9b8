"""``cpvae fit``: a run from data to its folder."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.read import (
    FILES,
    Overwrite,
    kinds_of,
    load_source,
    merged_settings,
    note,
    settings_of,
    size_of,
    source_of,
)

if TYPE_CHECKING:
    from cpvae.checkpoint import RunFolder
    from cpvae.data import Splits
    from cpvae.training.fit import Plan

commands = typer.Typer()
NAMES = ", ".join(choices.DATASETS)


@commands.command()
def fit(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help=f"{', '.join(choices.DATASETS)}, {FILES}.")
    ],
    components: Annotated[
        int | None,
        typer.Option(
            "--components", "-k", help="Number of components to learn.", show_default="10"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to write.", show_default="a new one in runs/")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(help="Column of a table with labels: never seen by the fit, only scored."),
    ] = None,
    drop: Annotated[
        list[str] | None, typer.Option(help="Column of a table to leave out; repeat.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=KIND",
            help="Type of a column: gaussian, binary, count or categorical; KIND alone is for all "
            "columns; repeat.",
            show_default="by the values",
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            help="Scale images to this size.",
            show_default="as they are",
        ),
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data at most.", show_default="by data size")
    ] = None,
    invariance: Annotated[
        choices.Invariance | None,
        typer.Option(
            help="Keep an example in its component under small changes: affine turns, stretches "
            "and shifts images; masking hides values of a table.",
            show_default="none",
        ),
    ] = None,
    mixing_weights: Annotated[
        choices.MixingWeights | None,
        typer.Option(
            help="Sizes of the components: learned, or uniform where all are about as large.",
            show_default="learned",
        ),
    ] = None,
    likelihood: Annotated[
        choices.Likelihood | None,
        typer.Option(
            help="How values are modelled: bernoulli for probabilities and grey values, gaussian "
            "for measurements, mixed for a table of several kinds of columns.",
            show_default="bernoulli for data in [0, 1]; mixed for text",
        ),
    ] = None,
    model: Annotated[
        choices.System | None,
        typer.Option(
            help="Another model to compare with: a plain VAE, with a mixture prior, a VampPrior, "
            "two layers, two layers with a VampPrior.",
            show_default="cpvae",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of everything, also of the split.", show_default="0"),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Fit from that many seeds and keep the best held-out bound.",
            show_default="1",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Expert setting of the model or the training, such as learning_rate=0.0003 or "
            "latent_dim=20; repeat.",
            show_default="chosen from the data",
        ),
    ] = None,
    accelerator: Annotated[choices.Accelerator, typer.Option(help="What to train on.")] = "auto",
    logger: Annotated[
        choices.Logger | None,
        typer.Option(help="Log epochs and pictures for this program, too.", show_default="none"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out (or runs/DATA).")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Fit a model to DATA and write a run folder."""
    from cpvae.checkpoint import RunFolder
    from cpvae.cli.run import FitRun

    if resume and overwrite:
        raise ValueError("--resume continues a run and --overwrite replaces it: use one of them.")
    given: dict[str, Any] = {
        "model": model,
        "n_components": components,
        "likelihood": likelihood,
        "mixing_weights": mixing_weights,
        "max_epochs": max_epochs,
        "seed": seed,
    }
    given = merged_settings(given, settings_of(set_ or []))
    source: dict[str, Any] = {
        "source": source_of(data),
        "label": label,
        "drop": drop or [],
        "kinds": kinds_of(kind or []),
        "size": size_of(size),
        "invariance": invariance,
    }
    place = Path("runs") / Path(source["source"]).stem
    folder = RunFolder(out or (place if resume else _free(place)))
    stored = _stored(folder, resume, overwrite)
    if stored:
        restarts = _check_same(stored, source, given, restarts, folder.path)
    splits = load_source(source, stored["recipe"]["seed"] if stored else given.get("seed", 0))
    planned = _plan(splits, source, given, stored, accelerator)
    recording = FitRun(folder, splits, source, restarts or 1, logger, stored)
    recording.run(planned, accelerator)


def _plan(
    splits: "Splits",
    source: dict[str, Any],
    given: dict[str, Any],
    stored: dict[str, Any] | None,
    accelerator: str,
) -> "Plan":
    """The plan of a new run, or that of a run that is resumed."""
    from cpvae.models.build import MODELS
    from cpvae.training import defaults
    from cpvae.training.fit import plan

    x, schema = splits.train.x, splits.schema
    if not stored:
        return plan(x, schema, given, source["kinds"], source["invariance"], accelerator)
    longer: dict[str, Any] = {
        name: given[name] for name in ("max_epochs", "patience") if name in given
    }
    of_recipe = {**stored["recipe"], **longer}
    settings = {**stored["model"], **of_recipe}
    if not MODELS[stored["model"]["model"]].model.has_categories:  # these are about c
        settings = {k: v for k, v in settings.items() if k not in defaults.OF_C}
    planned = plan(x, schema, settings, source["kinds"], source["invariance"], accelerator)
    usual = defaults.recipe(
        len(x), planned.config, accelerator, batch_size=of_recipe["batch_size"]
    ).max_epochs
    return dataclasses.replace(
        planned,
        given={**stored.get("given", {}), **longer},
        may_shorten="max_epochs" not in given and of_recipe["max_epochs"] == usual,
        shortened_from=stored.get("shortened_from"),
    )


def _stored(folder: "RunFolder", resume: bool, overwrite: bool) -> dict[str, Any] | None:
    """``run.json`` of the run that is to be resumed, if there is one."""
    stored = folder.read_info() if folder.exists() else None
    if resume and not stored:
        note(f"{folder.path} holds no run yet; this begins one")
    if stored and not (resume or overwrite):
        raise ValueError(
            f"{folder.path} already holds a run: continue it by --resume, replace it by "
            f"--overwrite, or choose another --out."
        )
    return stored if resume else None


def _check_same(
    stored: dict[str, Any],
    source: dict[str, Any],
    given: dict[str, Any],
    restarts: int | None,
    path: Path,
) -> int:
    """A resumed run may get more epochs, patience or restarts; all else stays as it was started.

    Fills in what the source does not say, and returns the number of restarts.
    """
    known = {**stored["model"], **stored["recipe"], **stored["data"]}
    asked = {**given, **{key: value for key, value in source.items() if value}}
    for key, value in asked.items():
        if key not in ("max_epochs", "patience") and known.get(key) != value:
            raise ValueError(
                f"{path} was started with {key}={known.get(key)}, and this asks for {value}: "
                f"leave it out to resume, or fit into another folder."
            )
    source |= {key: stored["data"].get(key) for key in source}
    begun = stored.get("n_restarts", 1)
    restarts = restarts or begun
    if restarts != begun and 1 in (restarts, begun):
        raise ValueError(
            f"{path} was started with --restarts {begun}, and this asks for {restarts}: "
            f"fit into another folder."
        )
    return restarts


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free

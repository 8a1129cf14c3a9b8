"""``cpvae fit``: a run from data to its folder."""

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cpvae import choices
from cpvae.cli.read import (
    Less,
    kinds_of,
    less_of,
    load_source,
    merged_settings,
    note,
    settings_of,
    size_of,
    source_of,
    tell,
)
from cpvae.cli.write import new_folder, out_option

if TYPE_CHECKING:
    from cpvae.checkpoint import RunFolder
    from cpvae.cli.carry import Earlier
    from cpvae.data import Splits
    from cpvae.training.fit import Plan

commands = typer.Typer()
HOW = "continue it by --resume, replace it by --overwrite, or choose another --out"
IN_CHUNKS = {"in_chunks"}  # how data was read, which no option says
DATA, MODEL, TRAINING = "Data", "Model", "Training"


@commands.command()
def fit(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help=f"A table with a header line ({', '.join(choices.TABLES)}), an array "
            f"({', '.join(choices.ARRAYS)}), a folder of images, or a data set by name "
            f"({', '.join(choices.DATASETS)}).",
        ),
    ],
    components: Annotated[
        int | None,
        typer.Option(
            "--components",
            "-k",
            help="Number of components (clusters, segments). If you do not know, take too many, "
            "then `cpvae compact`.",
            show_default="10",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        out_option(
            "FOLDER",
            "Run folder to write: a new or an empty one.",
            "runs/DATA; if taken, runs/DATA-2, ...",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a stopped run, or with a larger --max-epochs: the one in --out, or "
            "else in runs/DATA.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in --out, or else in runs/DATA.")
    ] = False,
    names_from: Annotated[
        Path | None,
        typer.Option(
            "--names-from",
            metavar="RUN",
            help="Give components the names of those of an earlier run that they are, by the rows "
            "that they share, and say what moved.",
            show_default="none",
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Column with known classes: never fitted, used by evaluate and report alone. "
            "(Of images: the names of subfolders.)",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Column to leave out; repeat for more.",
        ),
    ] = None,
    id_: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            rich_help_panel=DATA,
            help="Column that says which row is which: not fitted, and written by `cpvae assign`; "
            "repeat for more.",
            show_default="text or running numbers that differ in every row",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            rich_help_panel=DATA,
            help="Rows with the same value here, such as all of one customer, go together into the "
            "training, validation or test part. The column is not fitted.",
        ),
    ] = None,
    describe: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Column that `cpvae describe` tells of and that is not fitted: it does not shape "
            "the components; repeat for more.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=KIND",
            rich_help_panel=DATA,
            help="What a column is: number (rounded, limited, dates), gaussian (a measurement), "
            "binary (0 and 1), count (0, 1, 2, "
            "...) or categorical (text, codes); repeat for more. KIND alone is for all columns.",
            show_default="by the values where there is text, booleans or a --kind; else see "
            "--likelihood",
        ),
    ] = None,
    less: Less = None,
    missing: Annotated[
        choices.Missing,
        typer.Option(
            metavar="NAME",
            rich_help_panel=DATA,
            help="ignore: empty cells are left out of the bound. model: which cells are empty is "
            "learned too, so that drawn rows have gaps like the data; the bound counts that.",
        ),
    ] = "ignore",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HEIGHTxWIDTH",
            rich_help_panel=DATA,
            help="Scale images to cover this many pixels and crop the rest; needed if their sizes "
            "differ.",
            show_default="as they are",
        ),
    ] = None,
    likelihood: Annotated[
        choices.Likelihood | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=DATA,
            help="What the values are. bernoulli: grey values or shares from 0 to 1. gaussian: "
            "measurements. mixed: each column by its kind.",
            show_default="mixed with text, booleans or --kind, and in residual; bernoulli for "
            "images in 0 to 1, zeros and ones, and tables that look like pixels; else gaussian",
        ),
    ] = None,
    model: Annotated[
        choices.System | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=MODEL,
            help="cpvae: the paper's. residual: the same, started as a Gaussian mixture, for "
            "tables of numbers. Baselines: vae, hvae, without components; mog, vamp, hvamp, "
            "mixtures of other forms (docs/models.md).",
            show_default="residual for tables with numbers, else cpvae",
        ),
    ] = None,
    mixing_weights: Annotated[
        choices.MixingWeights | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=MODEL,
            help="learned: components may differ in size. uniform: where you know that all are "
            "about equally large.",
            show_default="learned",
        ),
    ] = None,
    invariance: Annotated[
        choices.Invariance | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=MODEL,
            help="Small changes shall not move an example to another component. affine: images "
            "rotated, stretched and shifted. masking: a fifth of the cells of a row hidden.",
            show_default="none",
        ),
    ] = None,
    max_epochs: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=TRAINING,
            help="Passes over the data at most; it stops earlier if held-out data gain nothing.",
            show_default="100 to 1000, by data size",
        ),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            min=1,
            rich_help_panel=TRAINING,
            help="Fit from this many seeds and keep the fit that is best on held-out data.",
            show_default="1",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            rich_help_panel=TRAINING,
            help="Seed of all that is random, also of the split into training, validation and test "
            "part.",
            show_default="0",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            rich_help_panel=TRAINING,
            help="Expert setting, such as learning_rate=0.0003 or latent_dim=20; repeat for more. "
            "An unknown name lists all.",
            show_default="by the data",
        ),
    ] = None,
    accelerator: Annotated[
        choices.Accelerator,
        typer.Option(
            metavar="NAME",
            rich_help_panel=TRAINING,
            help="Train on cpu, cuda, mps (Apple), or auto: cuda if there is one, else cpu.",
        ),
    ] = "auto",
    logger: Annotated[
        choices.Logger | None,
        typer.Option(
            metavar="NAME",
            rich_help_panel=TRAINING,
            help="Log every epoch into the run folder, too, for csv, tensorboard or wandb (which "
            "uploads).",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Find components (clusters, segments) in DATA without labels, and write a run folder.

    Of DATA 80 % are fitted, 10 % (validation) choose the best epoch, and
    10 % (test) are kept for `cpvae evaluate`, unless it has parts of its own.
    """
    from cpvae.checkpoint import RunFolder
    from cpvae.cli.carry import carry_names
    from cpvae.cli.run import FitRun
    from cpvae.training import processes
    from cpvae.training.fit import check_plan, fit_plan

    if processes.wanted():
        _check_several(out, restarts)
    if processes.is_restart():  # of all, because one was lost
        resume, overwrite = True, False
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
        "drop": [*(drop or []), *(describe or [])],
        **({"describe": describe} if describe else {}),
        "id": id_ or [],
        "group": group,
        "less": less_of(less or []),
        "missing": None if missing == "ignore" else missing,
        "kinds": kinds_of(kind or []),
        "size": size_of(size),
        "invariance": invariance,
    }
    place = Path("runs") / choices.stem(Path(source["source"]))
    wanted = out or (place if resume or overwrite else None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(processes.joined())
        first = processes.rank() == 0
        folder, stored = RunFolder(wanted or place), None
        if wanted and first:
            folder.check_free(resume or overwrite, HOW)
            if folder.exists():
                stack.enter_context(folder.writing())
            stored = _stored(folder) if resume else None
        stored = processes.from_first(lambda: stored)
        if stored:
            restarts = _check_same(stored, source, given, restarts, folder.path)
        earlier = _earlier(names_from, folder, stored, source["source"])
        with processes.first_one_first():  # it may have to write rows that all read
            seed = stored["recipe"]["seed"] if stored else given.get("seed", 0)
            splits = load_source(source, seed)
        tell(splits.notes if first else ())
        planned = _plan(splits, source, given, stored, accelerator)
        check_plan(planned, accelerator)
        if not first:
            parts = splits.training(), splits.valid.tensor()
            fit_plan(planned, *parts, accelerator=accelerator)
            return
        if not folder.lock:
            folder = stack.enter_context(new_folder(wanted, place, overwrite, HOW))
        recording = FitRun(folder, splits, source, restarts or 1, logger, stored)
        recording.run(planned, accelerator)
        if earlier:
            carry_names(earlier, folder, source["source"])


def _check_several(out: Path | None, restarts: int | None) -> None:
    """Refuses what several processes that train one model cannot do."""
    if out is None:
        raise ValueError(
            "Several processes need --out, so that they find the run again where one is lost."
        )
    if (restarts or 1) > 1:
        raise ValueError(
            "--restarts trains a model on each core, torchrun one model on all: use one of them."
        )


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
    from cpvae.training.fit import plan, usual_epochs

    x, schema = splits.for_plan(), splits.schema
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
    usual = usual_epochs(x, planned.config, of_recipe["batch_size"], accelerator)
    return dataclasses.replace(
        planned,
        given={**stored.get("given", {}), **longer},
        may_shorten="max_epochs" not in given and of_recipe["max_epochs"] == usual,
        shortened_from=stored.get("shortened_from"),
    )


def _earlier(
    names_from: Path | None, folder: "RunFolder", stored: dict[str, Any] | None, source: str
) -> "Earlier | None":
    """The run that components get their names from: an earlier one, or the one that is resumed."""
    from cpvae.checkpoint import MODEL, NAMES
    from cpvae.cli.carry import read_earlier

    named = stored and (folder.path / NAMES).is_file() and (folder.path / MODEL).is_file()
    run = names_from or (folder.path if named else None)
    return read_earlier(run, source) if run else None


def _stored(folder: "RunFolder") -> dict[str, Any] | None:
    """``run.json`` of the run that is to be resumed, if there is one.

    Raises:
        ValueError: it has weights and nothing to go on from, so that another fit would replace it.
    """
    if not folder.exists():
        note(f"{folder.path} holds no run yet; this begins one")
        return None
    stored = folder.read_info()
    folder.check_sizes()
    if not stored.get("data") or "compacted" in stored or _is_bare(folder, stored):
        raise ValueError(
            f"{folder.path} holds a finished model without the state of its training, which is not "
            f"kept by compact, share and CPVAE.save: fit into another folder."
        )
    return stored


def _is_bare(folder: "RunFolder", stored: dict[str, Any]) -> bool:
    """Whether a run has ended and has nothing to go on from; a residual one begins again."""
    from cpvae.checkpoint import MODEL, RESTARTS, TRAINING

    ended = stored.get("status") == "finished" and (folder.path / MODEL).is_file()
    places = (TRAINING, f"{RESTARTS}/{TRAINING}", f"{RESTARTS}/seed-*/{TRAINING}")
    kept = any(found for place in places for found in folder.path.glob(place))
    return ended and not kept and stored["model"]["model"] != "residual"


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
    source |= {key: stored["data"].get(key) for key in (*source, *IN_CHUNKS & {*stored["data"]})}
    begun = stored.get("n_restarts", 1)
    restarts = restarts or begun
    if restarts != begun and 1 in (restarts, begun):
        raise ValueError(
            f"{path} was started with --restarts {begun}, and this asks for {restarts}: "
            f"fit into another folder."
        )
    return restarts

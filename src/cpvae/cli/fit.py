"""A run: begun from data or gone on with, written to its folder, and told of on the way."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cpvae import data
from cpvae.checkpoint import RunFolder, best_of, describe
from cpvae.data import Splits, augment
from cpvae.data.checks import column_names
from cpvae.models.base import build
from cpvae.report.loggers import RunLogger
from cpvae.report.page import write_figures
from cpvae.report.progress import EpochsBar
from cpvae.training import defaults
from cpvae.training.fit import fit_best
from cpvae.training.loop import check, overfitted, still_rising
from cpvae.training.recipe import Recipe

INVARIANCE = 2.0  # weight of the term, when it is asked for
MODEL_KEYS = (
    "model",
    "n_components",
    "likelihood",
    "noise_scale",
    "latent_dim",
    "network",
    "covariance",
    "gate",
    "weights",
    "pseudo_inputs",
    "seed",
)


def fit_run(
    source: dict[str, Any],
    given: dict[str, Any],
    restarts: int | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    accelerator: str,
    logger: str | None,
) -> None:
    """Fits to a source and writes its run folder, as ``cpvae fit`` does; tells of it on stderr.

    Arguments:
        source: what `load` reads, and the name of the invariance
        given: settings of the model and the recipe that are not left to `defaults`
        restarts: number of seeds to fit from; those of the run before where it is None
        out: the run folder; by default one in ``runs``
        resume: go on with the run in it
        overwrite: replace the run in it
        accelerator: as for `train.fit`
        logger: where to log, see `loggers`, beside the folder

    Raises:
        ValueError: a folder that holds another run, or what `train.fit` and `data.load` refuse.
        Diverged: as for `train.fit`; the folder holds the weights before.
    """
    name = Path(source["source"]).stem
    if resume and overwrite:
        raise ValueError(
            "--resume goes on with a run and --overwrite replaces it: use one of them."
        )
    folder = RunFolder(out or (Path("runs") / name if resume else _free(Path("runs") / name)))
    stored = folder.read_info() if folder.exists() else None
    if resume and not stored:
        print(f"cpvae: note: {folder.path} holds no run yet; this begins one", file=sys.stderr)
    if stored and not (resume or overwrite):
        raise ValueError(
            f"{folder.path} already holds a run: go on with it by --resume, replace it by "
            f"--overwrite, or choose another --out."
        )
    seed = given.get("seed", 0)
    if stored and resume:
        _check_same(stored, source, given, folder.path)
        seed = stored["recipe"]["seed"]
        begun = stored.get("n_restarts", 1)
        restarts = restarts or begun
        if restarts != begun and 1 in (restarts, begun):
            raise ValueError(
                f"{folder.path} was started with --restarts {begun}, and this asks for {restarts}: "
                f"fit into another folder."
            )
    splits = load(source, seed)
    resumed = stored if resume else None
    _train(folder, resumed, source, given, restarts or 1, splits, accelerator, logger)


def _train(
    folder: RunFolder,
    stored: dict[str, Any] | None,
    source: dict[str, Any],
    given: dict[str, Any],
    restarts: int,
    splits: Splits,
    accelerator: str,
    logger: str | None,
) -> None:
    x = splits.train.x
    model_given = {k: v for k, v in given.items() if k in MODEL_KEYS}
    recipe_given = {k: v for k, v in given.items() if k not in MODEL_KEYS or k == "seed"}
    if stored:
        config = defaults.model_config(
            x, splits.columns, levels=splits.levels, kind_of=source["kinds"], **stored["model"]
        )
        recipe = Recipe(**{**stored["recipe"], **recipe_given})
    else:
        config = defaults.model_config(
            x, splits.columns, splits.missing, splits.levels, source["kinds"], **model_given
        )
        if source["invariance"]:
            recipe_given["invariance"] = INVARIANCE
        recipe = defaults.recipe(len(x), config, accelerator, **recipe_given)
    move = augment.named(source["invariance"], config["shape"])
    # what cannot be trained must be refused before anything is written
    check(build(**config), recipe, accelerator, move)
    digest = hashlib.sha256(x.tobytes()).hexdigest()
    if stored and stored["data"]["sha256"] != digest:
        raise ValueError(
            f"The training data is not what {folder.path} was started on: bring that data back, or "
            f"fit into another folder."
        )
    described = {
        **source,
        "columns": list(splits.columns) if splits.columns else None,
        "levels": splits.levels,
        "n_train": len(x),
        "n_valid": len(splits.valid.x),
        "n_test": len(splits.test.x),
        "sha256": digest,
    }
    info = {**describe(config, recipe), "n_restarts": restarts, "data": described}
    if stored and "shortened_from" in stored:
        info["shortened_from"] = stored["shortened_from"]
    if not stored:
        folder.clear()
    log = RunLogger(logger, folder) if logger else None
    folder.write_info({**info, "status": "running"})
    if log:
        log.settings(info)

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(
        f"[bold]{splits.name}[/]: {len(x)} training, {len(splits.valid.x)} validation and "
        f"{len(splits.test.x)} test examples of shape {'x'.join(map(str, splits.shape))}. "
        f"Model {config['model']}, {config['likelihood']} likelihood, "
        f"{counted(config['n_components'], 'component')}, "
        f"{config['latent_dim']} latent dimensions, at most {recipe.max_epochs} epochs."
    )
    if "kinds" in config:
        console.print(_told_kinds(config["kinds"], splits.columns))
    before = len(folder.read_history()) if stored and restarts == 1 else 0
    if before:
        console.print(f"Goes on after epoch {before}.")
    status = "diverged"
    try:
        with EpochsBar(recipe.max_epochs, restarts, console, config["n_components"] > 1) as bar:

            def tell(place: int, record: dict[str, Any]) -> None:
                bar.update(place, record)
                if log:
                    log.epoch(place, record)

            model, history, outcomes = fit_best(
                config,
                recipe,
                restarts,
                splits.train.tensor(),
                splits.valid.tensor(),
                augment=move,
                folder=folder,
                on_epoch=tell,
                accelerator=accelerator,
            )
        status, info["restarts"] = "finished", outcomes
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        records = folder.read_history()
        best = best_of(records, recipe.start_epochs)
        ended: dict[str, Any] = {"status": status, "epochs": len(records)}
        if best:
            ended["best_epoch"] = best["epoch"]
            ended["best_valid_elbo_nats"] = best["valid_elbo_nats"]
        folder.write_info({**info, **ended})
        if log and status != "finished":
            log.close(status)
    early = overfitted(history, recipe)
    usual = defaults.recipe(len(x), config, accelerator, batch_size=recipe.batch_size).max_epochs
    if early and "max_epochs" not in given and recipe.max_epochs == usual:
        console.print(
            f"[yellow]Examples are learned by heart after epoch {early}[/] (bound "
            f"{ended['best_valid_elbo_nats']:.2f} nats), before the components are formed: begins "
            f"again with that many epochs."
        )
        if log:
            log.close(status)
        begun = {**info, **describe(config, recipe.shortened(early)), "shortened_from": usual}
        folder.clear()
        folder.write_info({**begun, "status": "running"})
        _train(folder, begun, source, given, restarts, splits, accelerator, logger)
        return
    if restarts > 1:
        _print_restarts(outcomes, console)
    paths = write_figures(folder, splits)
    if log:
        log.pictures(model.cpu(), paths, len(history))
        log.close(status)
    entropy = torch.special.entr(model.aggregated).sum().item()
    _summary(folder, history, ended, config, recipe, paths, entropy, early, console)


def _told_kinds(kinds: list[str], columns: Sequence[str] | None) -> str:
    """How each column is read, a line a kind."""
    names = column_names(columns, len(kinds))
    lines = []
    for kind in dict.fromkeys(kinds):
        mine = [name for name, k in zip(names, kinds, strict=True) if k == kind]
        more = f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        lines.append(f"  {kind:12s} {', '.join(mine[:8])}{more}")
    return "Columns are read as (--kind COLUMN=KIND says otherwise):\n" + "\n".join(lines)


def _print_restarts(outcomes: list[dict[str, Any]], console: Any) -> None:
    table = Table("seed", "epochs", "best epoch", "validation bound (nats)")
    best = max(o["best_valid_elbo_nats"] for o in outcomes)
    for outcome in outcomes:
        bound = outcome["best_valid_elbo_nats"]
        style = "bold" if bound == best else None
        cells = (outcome["seed"], outcome["epochs"], outcome["best_epoch"], f"{bound:.2f}")
        table.add_row(*map(str, cells), style=style)
    console.print(table)


def _summary(
    folder: RunFolder,
    history: list[dict[str, Any]],
    ended: dict[str, Any],
    config: dict[str, Any],
    recipe: Recipe,
    figures: dict[str, Path],
    entropy: float,
    early: int,
    console: Any,
) -> None:
    model, n_components = config["model"], config["n_components"]
    best = history[ended["best_epoch"] - 1]
    console.print(
        f"\n[bold]Done[/] after {len(history)} epochs, {history[-1]['seconds']:.0f} s. Best "
        f"validation bound (one-hot) {best['valid_elbo_nats']:.2f} nats, in epoch "
        f"{best['epoch']}"
        + (f"; {best['components_used']} of {n_components} components in use" * (n_components > 1))
        + ".\n"
    )
    rise = still_rising(history, recipe)
    if rise:
        source = folder.read_info()["data"]["source"]
        console.print(
            f"[yellow]The bound still rose by {rise:.2f} nats in the last tenth of the run.[/] "
            f"To go on:\n  cpvae fit {source} --out {folder.path} --resume --max-epochs "
            f"{2 * recipe.max_epochs}\n"
        )
    if early:
        console.print(
            f"[yellow]The bound was best in epoch {early}, before the annealing had ended (after "
            f"epoch {recipe.anneal_epochs}):[/] the model learned its examples by heart before its "
            f"components were formed. Fit again with --max-epochs {early}, or with more data.\n"
        )
    told = best["valid_mutual_information_c_nats"]
    if not early and model == "cpvae" and n_components > 1 and told < max(0.05, 0.5 * entropy):
        also = ", or --invariance affine" * (len(config["shape"]) == 3)
        if config["likelihood"] == "bernoulli" and not also:
            also = ", or for measurements between 0 and 1 --likelihood gaussian"
        console.print(
            f"[yellow]Components tell {told:.2f} nats about an example, and {entropy:.2f} if all "
            f"were sure of theirs.[/] Where there are fewer kinds than components that is as it "
            f"should be, and cpvae compact {folder.path} joins what says the same. Else more "
            f"epochs, a larger --kl-z-start, fewer --components{also} may help.\n"
        )
    run = folder.path
    console.print(f"  run folder     {run}\n  by component   {figures['components']}\n\nNext:")
    for command in (f"evaluate {run}", f"generate {run} --component 0", f"report {run}"):
        console.print(f"  cpvae {command}")


def _check_same(
    stored: dict[str, Any], source: dict[str, Any], given: dict[str, Any], path: Path
) -> None:
    """A resumed run may get more epochs or patience; all else stays as it was started."""
    known = {**stored["model"], **stored["recipe"], **stored["data"]}
    asked = {**given, **{key: value for key, value in source.items() if value}}
    for key, value in asked.items():
        if key not in ("max_epochs", "patience") and known.get(key) != value:
            raise ValueError(
                f"{path} was started with {key}={known.get(key)}, and this asks for {value}: "
                f"leave it out to resume, or fit into another folder."
            )
    source |= {key: stored["data"].get(key) for key in source}


def counted(n: int, noun: str) -> str:
    """A number of things, in words."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not taken."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def load(source: dict[str, Any], seed: int) -> Splits:
    """What ``run.json`` or the command line names as data."""
    kinds = source.get("kinds")
    named = kinds if isinstance(kinds, dict) else {}
    categorical = [name for name, kind in named.items() if kind == "categorical"]
    return data.load(
        source["source"],
        seed,
        label=source["label"],
        drop=source["drop"],
        categorical=categorical,
        size=size_in(source),
    )


def size_in(source: dict[str, Any]) -> tuple[int, int] | None:
    """The size that images are brought to, if ``run.json`` or the command line names one."""
    return tuple(source["size"]) if source.get("size") else None

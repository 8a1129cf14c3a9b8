"""Runs a fit for ``cpvae fit``: writes its folder, logs, and prints."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.table import Table

from cpvae.checkpoint import RunFolder, best_of, describe
from cpvae.cli.read import counted
from cpvae.data import Schema, Splits
from cpvae.data.fingerprint import check_unchanged, fingerprint
from cpvae.evaluation import densities
from cpvae.report.loggers import RunLogger
from cpvae.report.page import write_figures
from cpvae.report.progress import EpochsBar
from cpvae.text import in_markup
from cpvae.training.diagnosis import Diverged, gain_in_words
from cpvae.training.fit import Fitted, Plan, fit_plan
from cpvae.training.restarts import OnEpoch
from cpvae.training.rows import sample_of

TO_DO = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space")
TO_DO |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make the folder writable")


class FitRun:
    """A fit that is written to its run folder, logged, and shown on the way.

    Arguments:
        folder: where the run goes
        splits: the data
        source: how to read the data again, for ``run.json``
        restarts: number of seeds
        logger: where to log too, see `report.loggers`
        stored: ``run.json`` of the run to resume, else None

    Raises:
        ValueError: a run that is resumed had other data.
    """

    def __init__(
        self,
        folder: RunFolder,
        splits: Splits,
        source: dict[str, Any],
        restarts: int,
        logger: str | None,
        stored: dict[str, Any] | None,
    ):
        self.folder, self.splits, self.restarts, self.stored = folder, splits, restarts, stored
        self.fitted_before = False  # in this call, by a plan that was then shortened
        self.logger = logger
        self.log: RunLogger | None = None
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
        if stored:
            check_unchanged(splits, stored, folder.path)
        self.data = {**source, **fingerprint(splits)}

    def run(self, planned: Plan, accelerator: str) -> None:
        """Fits, and writes and prints what came of it.

        Raises:
            ValueError: the folder cannot be written to any more; says what to do.
        """
        try:
            self._run(planned, accelerator)
        except OSError as error:
            raise ValueError(self._in_words(error)) from error

    def _run(self, planned: Plan, accelerator: str) -> None:
        if not self.stored:
            self.folder.clear()  # of a run that is overwritten
        parts = self.splits.training(), self.splits.valid.tensor()
        fitted = fit_plan(planned, *parts, self.restarts, self.folder, self.watch, accelerator)
        some, seed = sample_of(parts[0]), fitted.plan.recipe.seed
        of_fitted = densities.quantiles(fitted.model, some, seed)
        more = {"restarts": fitted.restarts, densities.KEY: of_fitted}
        ended = self._write("finished", fitted.plan, more)
        if self.restarts > 1:
            _print_restarts(fitted.restarts, self.console)
        pictures = write_figures(self.folder, self.splits)
        if self.log:
            self.log.pictures(fitted.model.cpu(), pictures, len(fitted.history))
            self.log.close("finished")
        self._print_outcome(fitted, ended["best_epoch"])
        self._print_next(pictures["components"])

    @contextmanager
    def watch(self, planned: Plan) -> Iterator[OnEpoch | None]:
        """Around each fit of a plan: its folder, its log and its bar."""
        several = planned.config["n_components"] > 1
        status, reason = "failed", ""
        try:
            info = self._write("running", planned)
            self.log = RunLogger(self.logger, self.folder) if self.logger else None
            if self.log:
                self.log.settings(info)
            self._print_begin(planned)
            with EpochsBar(planned.recipe.max_epochs, self.restarts, self.console, several) as bar:

                def on_epoch(index: int, record: dict[str, Any]) -> None:
                    bar.update(index, record)
                    if self.log:
                        self.log.epoch(index, record)

                yield on_epoch
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        except Diverged as error:
            status, reason = "diverged", str(error)
            raise
        except OSError as error:
            reason = self._in_words(error)
            raise
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise
        finally:
            self._end(status, reason, planned)

    def _end(self, status: str, reason: str, planned: Plan) -> None:
        """Writes how a fit of a plan ended; one that failed may not be able to."""
        missed = () if status == "finished" else (OSError, ValueError)
        with suppress(*missed):
            self._write(status, planned, {"reason": reason} if reason else None)
        again = status == "finished" and planned.better_epochs(self.folder.read_history())
        if self.log and (again or status != "finished"):  # else pictures are still to come
            with suppress(*missed):
                self.log.close(status)

    def _in_words(self, error: OSError) -> str:
        """What went wrong with the folder, and what to do."""
        what = f"{error.filename or self.folder.path}: {error.strerror or error}."
        if error.errno == errno.ENOENT and not self.folder.exists():
            return f"{what} Fit again, into a folder that stays."
        todo = TO_DO.get(error.errno or 0, "See to that")
        data, run = quote(self.data["source"]), quote(str(self.folder.path))
        return (
            f"{what} What was saved before is whole. {todo}, then go on with: "
            f"cpvae fit {data} --out {run} --resume"
        )

    def _write(
        self, status: str, planned: Plan, more: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Writes ``run.json`` as things stand, and returns it."""
        info = describe(planned.schema, planned.config, planned.recipe, planned.given)
        info |= {"n_restarts": self.restarts, "data": self.data}
        if planned.shortened_from:
            info["shortened_from"] = planned.shortened_from
        info |= {**(more or {}), "status": status}
        if status != "running":
            records = self.folder.read_history()
            info["epochs"] = records[-1]["epoch"] if records else 0
            if best := best_of(records, planned.recipe.pretraining_epochs):
                info["best_epoch"] = best["epoch"]
                info["best_valid_elbo_nats"] = best["valid_elbo_nats"]
        self.folder.write_info(info)
        return info

    def _print_begin(self, planned: Plan) -> None:
        if planned.shortened_from and self.fitted_before:
            self.console.print(
                f"[yellow]The model overfitted after epoch {planned.recipe.max_epochs}[/], before "
                f"its components were formed: it is fitted again in that many epochs."
            )
            return
        self.fitted_before = True
        splits, config, name = self.splits, planned.config, in_markup(self.splits.name)
        self.console.print(
            f"[bold]{name}[/]: {splits.n_train} training, {len(splits.valid.x)} "
            f"validation and {len(splits.test.x)} test examples of shape "
            f"{'x'.join(map(str, splits.shape))}. "
            f"Model {config['model']}, {config['likelihood']} likelihood, "
            f"{counted(config['n_components'], 'component')}, "
            f"{config['latent_dim']} latent dimensions, at most {planned.recipe.max_epochs} epochs."
        )
        if not planned.schema.is_image:
            self.console.print(_kinds_in_words(planned.schema, config["likelihood"]))
        if gaps := planned.schema.gaps:
            self.console.print(
                f"Which cells are missing is learned too, for {counted(len(gaps), 'column')}, and "
                f"the bound counts it."
            )
        before = len(self.folder.read_history()) if self.stored and self.restarts == 1 else 0
        if before:
            self.console.print(f"Goes on after epoch {before}.")

    def _print_outcome(self, fitted: Fitted, best_epoch: int) -> None:
        history, planned = fitted.history, fitted.plan
        best = next(record for record in history if record["epoch"] == best_epoch)
        k = planned.config["n_components"]
        used = f"; {best['components_used']} of {k} components in use" * (k > 1)
        self.console.print(
            f"\n[bold]Done[/] after {history[-1]['epoch']} epochs, {history[-1]['seconds']:.0f} s. "
            f"Best validation bound {best['valid_elbo_nats']:.2f} nats, in epoch "
            f"{best['epoch']}{used}.\n"
        )
        if gain := gain_in_words(best):
            self.console.print(f"{gain}\n")
        found, recipe = fitted.diagnosis, planned.recipe
        run, data = (in_markup(quote(str(p))) for p in (self.folder.path, self.data["source"]))
        if found.rise:
            self.console.print(
                f"[yellow]The bound still rose by {found.rise:.2f} nats in the last tenth of the "
                f"run.[/] To go on:\n  cpvae fit {data} --out {run} --resume "
                f"--max-epochs {2 * recipe.max_epochs}\n"
            )
        if found.overfitted_epoch:
            self.console.print(
                f"[yellow]The bound was best in epoch {found.overfitted_epoch}, while "
                f"components were still forming (until epoch {recipe.anneal_epochs}):[/] the model "
                f"overfitted, too many epochs for so little data. Fit again with --max-epochs "
                f"{found.overfitted_epoch}, or with more data.\n"
            )
        elif found.components_overlap:
            also = ""
            if planned.schema.is_image and not planned.augment:
                also = ", or --invariance affine"
            elif planned.config["likelihood"] == "bernoulli" and not planned.schema.is_image:
                also = ", or for measurements between 0 and 1 --likelihood gaussian"
            self.console.print(
                f"[yellow]Many examples are not clearly in one component:[/] components carry "
                f"{found.information:.2f} nats of information about an example, of "
                f"{found.entropy:.2f} if all were certain. Where the data has fewer clusters than "
                f"components that is as it should be, and cpvae compact {run} merges redundant "
                f"ones. Else more epochs, "
                f"--set kl_z_start={2 * max(1, recipe.kl_z_start):g}, fewer --components{also} may "
                f"help.\n"
            )

    def _print_next(self, picture: Path) -> None:
        run, shown = in_markup(quote(str(self.folder.path))), in_markup(quote(str(picture)))
        self.console.print(f"  run folder     {run}\n  picture        {shown}\n\nNext:")
        for command in ("describe", "evaluate", "report"):
            self.console.print(f"  cpvae {command} {run}")
        self.console.print(f"  cpvae generate {run} --component 0")


def _kinds_in_words(schema: Schema, likelihood: str) -> str:
    """How each column is read, one line per kind, as rich reads it."""
    lines, kinds = [], schema.kinds or (likelihood,) * len(schema.names)
    for kind in dict.fromkeys(kinds):
        named = zip(schema.names, kinds, strict=True)
        mine = [in_markup(schema.in_words(name)) for name, k in named if k == kind]
        more = f" and {len(mine) - 8} more" if len(mine) > 8 else ""
        lines.append(f"  {kind:12s} {', '.join(mine[:8])}{more}")
    return "Columns are read as (change with --kind COLUMN=KIND):\n" + "\n".join(lines)


def _print_restarts(outcomes: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table("seed", "epochs", "best epoch", "validation bound (nats)")
    best = max(o["best_valid_elbo_nats"] for o in outcomes)
    for outcome in outcomes:
        bound = outcome["best_valid_elbo_nats"]
        style = "bold" if bound == best else None
        cells = (outcome["seed"], outcome["epochs"], outcome["best_epoch"], f"{bound:.2f}")
        table.add_row(*map(str, cells), style=style)
    console.print(table)

"""What changes of models while they are trained, and its way to the run folder and back."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cpvae.checkpoint import RunFolder
from cpvae.models.base import Model
from cpvae.models.reorder import reorder
from cpvae.stored import check_finite, check_shapes
from cpvae.training.diagnosis import Record
from cpvae.training.engine import Engine
from cpvae.training.initialise import initial_clusters
from cpvae.training.processes import digest, from_first
from cpvae.training.rows import Rows, shares

SAVE_EVERY = 5.0  # seconds between two saves of the training state, at least


class Run:
    """What changes of one model during its training: history, average and best weights."""

    def __init__(self, model: Model, seed: int, folder: RunFolder | None):
        self.model, self.seed, self.folder = model, seed, folder
        self.history: list[Record] = []
        self.best_epoch, self.best_elbo = 0, -math.inf
        self.best = self.weights()
        self.average = {key: p.detach().clone() for key, p in model.named_parameters()}
        self.stopped = self.diverged = False

    @property
    def epoch(self) -> int:
        """Epochs so far."""
        return len(self.history)

    @property
    def seconds(self) -> float:
        """Time so far, over all sittings."""
        return self.history[-1]["seconds"] if self.history else 0.0

    @contextlib.contextmanager
    def averaged(self, window: int) -> Iterator[None]:
        """The model with the average of its weights, these ones counted in as one of ``window``."""
        for key, parameter in self.model.named_parameters():
            self.average[key].lerp_(parameter.detach(), 1 / window)
        with self._with_weights(self.average):
            yield

    @contextlib.contextmanager
    def pretrained(self) -> Iterator[Model]:
        """The model as averaged so far; what was best before it has categories does not count."""
        self.best_epoch, self.best_elbo = 0, -math.inf
        with self._with_weights(self.average):
            self.model.eval()
            yield self.model

    def add(self, record: Record) -> None:
        """Takes an epoch's record, and the weights if they are the best so far."""
        self.history.append(record)
        if record["valid_elbo_nats"] > self.best_elbo and record.get("counts", True):
            self.best_epoch, self.best_elbo = record["epoch"], record["valid_elbo_nats"]
            self.best = self.weights()
        if self.folder:
            self.folder.append_history(record)

    def keep_best(self) -> None:
        """Puts the best weights into the model and into the folder."""
        self.model.load_state_dict(self.best)
        self.model.eval()
        if self.folder:
            self.folder.write_model(self.best)

    def finish(
        self,
        rows: Rows,
        device: torch.device,
        anew: bool,
        row_weights: Float[Tensor, " n"] | None = None,
    ) -> None:
        """Takes the best weights, and stores the aggregated posterior of all rows (eq. 14).

        Components are numbered by their size where the fit was ``anew``, the largest first. The
        state of the training keeps their numbers, for a run that goes on from it.
        """
        self.model.load_state_dict(self.best)
        self.model.eval()
        self.model.aggregated.copy_(shares(self.model, rows, device, row_weights))
        if anew:
            order = self.model.aggregated.argsort(descending=True, stable=True)
            reorder(self.model, order.tolist())
        self.best = self.weights()
        self.keep_best()

    def weights(self) -> dict[str, Tensor]:
        """A copy of all parameters and buffers."""
        return {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    @contextlib.contextmanager
    def _with_weights(self, parameters: dict[str, Tensor]) -> Iterator[None]:
        """The model with these for its own parameters."""
        own = {key: p.detach().clone() for key, p in self.model.named_parameters()}
        self._put(parameters)
        try:
            yield
        finally:
            self._put(own)

    def _put(self, parameters: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for key, parameter in self.model.named_parameters():
                parameter.copy_(parameters[key])


class Group:
    """The runs that are trained together, and their way to the run folder and back.

    The state of all is one file, so that a kill at any moment leaves all at the same epoch.
    """

    def __init__(self, runs: Sequence[Run], engine: Engine, home: RunFolder | None):
        self.runs, self.engine, self.home = list(runs), engine, home
        self.saved_at = -math.inf
        self.took = 0.0

    def initialise(self, x_train: Tensor) -> None:
        """Finds the initial clusters of every run that goes on."""
        # The codes of one that diverged are no numbers
        going = [index for index, run in enumerate(self.runs) if not run.stopped]
        with contextlib.ExitStack() as stack:
            models = [stack.enter_context(self.runs[index].pretrained()) for index in going]
            seeds = [self.runs[index].seed for index in going]
            found = from_first(lambda: initial_clusters(models, x_train, seeds))
        for index, ranges in zip(going, found, strict=True):
            self.engine.set_initial(index, ranges)

    def save_sometimes(self) -> None:
        """Saves when the last save is some seconds old, and ten times what it took."""
        if time.monotonic() - self.saved_at > max(SAVE_EVERY, 10 * self.took):
            self.save()

    def save(self) -> None:
        """Writes the training state, then the best weights; the history is on disk before both."""
        if not self.home:
            return
        started = time.monotonic()
        tensors: dict[str, Tensor] = {}
        progress = []
        for index, run in enumerate(self.runs):
            state = {f"last.{key}": value for key, value in run.model.state_dict().items()}
            state |= {f"best.{key}": value for key, value in run.best.items()}
            state |= {f"average.{key}": value for key, value in run.average.items()}
            state |= {f"engine.{key}": value for key, value in self.engine.state(index).items()}
            tensors |= {f"{index}.{key}": value for key, value in state.items()}
            fields = ("epoch", "best_epoch", "best_elbo", "diverged")
            progress.append({key: getattr(run, key) for key in fields})
        for run in self.runs:
            if run.folder:
                run.folder.flush_history()
        self.home.write_training(tensors, {"runs": progress})
        for run in self.runs:
            if run.folder:
                run.folder.write_model(run.best)
        self.saved_at = time.monotonic()
        self.took = self.saved_at - started

    def digests(self) -> dict[str, str]:
        """What several processes must have in common, as `processes.check_same` takes it."""
        weights = [t for run in self.runs for t in run.model.state_dict().values()]
        state = [t for i in range(len(self.runs)) for t in self.engine.state(i).values()]
        return {"model": digest(*weights), "state of the training": digest(*state)}

    def restore(self) -> None:
        """Goes back to the training state in the folder, if there is one."""
        stored = from_first(lambda: self.home.read_training() if self.home else None)
        if not stored:
            for run in self.runs:
                if run.folder:
                    run.folder.write_history([])
            return
        tensors, progress = stored
        if len(progress.get("runs", [])) != len(self.runs):
            raise ValueError(
                "The run folder holds the training of another number of models: fit again into "
                "another folder."
            )
        for index, (run, kept) in enumerate(zip(self.runs, progress["runs"], strict=True)):
            mine = under(f"{index}.", tensors)
            home = self.home.path if self.home else Path()  # only the first process has one
            _check_state(home, run, self.engine.state(index), mine)
            _restore_history(run, kept)
            run.history = from_first(lambda run=run: run.history)  # type: ignore[misc]
            run.model.load_state_dict(under("last.", mine))
            device = self.engine.device
            run.best = {k: v.to(device) for k, v in under("best.", mine).items()}
            averages = under("average.", mine)
            for key, average in run.average.items():  # older states have none: begin at the weights
                average.copy_(averages.get(key, run.model.get_parameter(key)))
            self.engine.load_state(index, under("engine.", mine))


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _check_state(
    home: Path, run: Run, of_engine: dict[str, Tensor], found: dict[str, Tensor]
) -> None:
    """Refuses a training state that is not that of this model, before any of it is taken."""
    weights, averages = run.model.state_dict(), run.average
    parts = {"last.": weights, "best.": weights, "average.": averages, "engine.": of_engine}
    try:
        for part, expected in parts.items():
            mine = under(part, found)
            if part == "average.":  # older states have none
                mine = {**expected, **mine}
            if part == "engine.":  # they may have more, and no initial clusters
                expected = {k: v for k, v in expected.items() if k != "initial" or k in mine}
                mine = {key: value for key, value in mine.items() if key in expected}
            shapes = ({key: t.shape for key, t in some.items()} for some in (mine, expected))
            check_shapes(*shapes)
        check_finite(under("best.", found), averages)
    except ValueError as error:
        raise ValueError(
            f"The training state in {home} is damaged ({error}): the run cannot go on from it. Fit "
            f"again into another folder."
        ) from error


def _restore_history(run: Run, kept: dict[str, Any]) -> None:
    if run.folder:
        run.history = run.folder.read_history()[: kept["epoch"]]
        if len(run.history) < kept["epoch"]:
            raise ValueError(
                f"{run.folder.path} is damaged: its history ends before epoch "
                f"{kept['epoch']}, which was saved. Fit again into another folder."
            )
        run.folder.write_history(run.history)
    for key in ("best_epoch", "best_elbo", "diverged"):
        setattr(run, key, kept[key])

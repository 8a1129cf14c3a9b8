"""The run folder: what is kept of a run, and how it is read back. Nothing in it is ever unpickled.

    run.json              schema of the data, model, recipe, versions, and how the run ended
    model.safetensors     the weights with the best validation bound so far
    history.jsonl         one line an epoch, of the model `residual` one for some
    training.safetensors  all that is needed to go on from the last epoch saved
    evaluation.json       figures on the test part
    names.json            names that a person gave to the components, see `names`
    logs/                 what a logger wrote, see `report.loggers`
    figures/, report.html pictures and the page, see `report.page`
    restarts/seed-S/      the run of each seed, where there are several

Every file but the history, the lock and a logger's is written aside, flushed and renamed, so a
reader sees the old one or the new one and never half of one. The history only grows by whole lines;
a resumed run cuts it back to the epoch that it resumes from. Who writes holds the folder's lock.

``run.json`` says that a folder is a run's. It is the first file that a run writes and the last that
is removed: where it is missing nothing is written or removed.
"""

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import safetensors
import torch
from torch import Tensor

from cpvae import output, stored, tensors
from cpvae.data.schema import Schema
from cpvae.lock import NAME as LOCK
from cpvae.lock import Lock
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.old_formats import upgraded_info, upgraded_tensors
from cpvae.versions import versions

FORMAT = 2
RUN, MODEL, HISTORY = "run.json", "model.safetensors", "history.jsonl"
TRAINING, EVALUATION, NAMES = "training.safetensors", "evaluation.json", "names.json"
REPORT, FIGURES, LOGS, RESTARTS, ONNX = "report.html", "figures", "logs", "restarts", "onnx"
FILES = (MODEL, HISTORY, TRAINING, EVALUATION, NAMES, REPORT)  # of a run, beside run.json
PICTURES = ("components", "reconstructions", "curves", "usage", "codes")
# what a run has in subfolders
PARTS = {
    FIGURES: tuple(f"{name}.png" for name in PICTURES),
    f"{LOGS}/csv": ("metrics.csv", "hparams.yaml"),
    f"{LOGS}/tensorboard": ("events.out.tfevents.*", "hparams.yaml"),
    f"{LOGS}/wandb": ("run-*", "offline-run-*", "latest-run", "debug*.log"),
    ONNX: ("encoder.onnx", "decoder.onnx", "prior.json", "schema.json"),
    RESTARTS: (TRAINING,),
}
# whatever reading a file may raise that is not what it should be
DAMAGE = (
    *(safetensors.SafetensorError, OSError, RuntimeError, ValueError),
    *(TypeError, AttributeError, LookupError, OverflowError),
)
OLD_ASIDE = re.compile(rf"\.({'|'.join(map(re.escape, (RUN, *FILES)))})\.\d+")  # of versions before


class RunFolder:
    """A folder with one run in it.

    Arguments:
        path: the folder, which need not exist yet
        lock: of the folder that it is a part of, where that is held
    """

    def __init__(self, path: str | Path, lock: Lock | None = None):
        self.path, self.lock = Path(path), lock

    # --- whose it is -----------------------------------------------------------------------------

    @property
    def before(self) -> Path:
        """Where this folder lies for the moment in which another takes its place, see `staging`."""
        path = Path(os.path.realpath(self.path))
        return path.parent / f".cpvae-before-{path.name}"

    def recover(self) -> None:
        """Puts the folder back where a process was killed in that moment."""
        if not self.path.exists() and (self.before / RUN).is_file():
            with contextlib.suppress(OSError):  # another one has just done so
                os.rename(self.before, self.path)

    def exists(self) -> bool:
        """Whether a run has been started here."""
        self.recover()
        return (self.path / RUN).is_file()

    def check_free(self, overwrite: bool = False, how: str = "choose another folder") -> None:
        """Refuses a folder that no run may be written to.

        Arguments:
            overwrite: whether a run that is here may be replaced
            how: says what to do if there is one

        Raises:
            ValueError: it holds a run, or anything else; or a ``run.json`` that cannot be read, so
                that nobody knows whose it is.
        """
        if self.exists():
            self.read_info()
            if not overwrite:
                raise ValueError(f"{self.path} already holds a run: {how}.")
        elif self.path.is_dir():
            if others := sorted(f.name for f in self.path.iterdir() if not _is_passing(f)):
                raise ValueError(
                    f"{self.path} is not empty and holds no run, but {others[0]}"
                    f"{' and more' * (len(others) > 1)}: name a new or an empty folder."
                )
        elif self.path.exists():
            raise ValueError(f"{self.path} is a file: name a folder.")

    @contextlib.contextmanager
    def writing(self, wait: float = 0.0) -> Iterator[Lock]:
        """Within it this process alone writes to the folder, which is made if it is not there.

        What writers that were killed have left aside is removed.

        Arguments:
            wait: seconds to wait for another writer

        Raises:
            Locked: another one writes to it.
        """
        self.recover()
        self.path.mkdir(parents=True, exist_ok=True)
        with Lock(self.path, wait) as lock:
            self.lock = lock
            try:
                self._clean()
                yield lock
            finally:
                self.lock = None

    def clear(self, whole: bool = False) -> None:
        """Removes the files of the run that is here, and nothing else that lies in the folder.

        ``run.json`` stays, for the next run to write over, so that the folder never is nobody's;
        ``whole`` removes it too, last.

        Raises:
            ValueError: ``run.json`` is damaged or of a newer format.
        """
        if not self.exists():
            return
        self.read_info()
        for restart in self.path.glob(f"{RESTARTS}/seed-*"):
            with contextlib.suppress(ValueError):  # it is somebody else's
                RunFolder(restart).clear(whole=True)
            remove_empty(restart)
        for place, names in PARTS.items():
            for name in names:
                for found in (self.path / place).glob(name):
                    output.remove(found)
            remove_empty(self.path / place)
        remove_empty(self.path / LOGS)
        for name in (*FILES, *((RUN,) if whole else ())):
            (self.path / name).unlink(missing_ok=True)

    def _clean(self) -> None:
        """Removes what writers that were killed have left aside, here and in subfolders."""
        for place in (".", FIGURES, ONNX, RESTARTS, f"{RESTARTS}/seed-*"):
            for folder in self.path.glob(place) if place != "." else [self.path]:
                output.clean(folder)
                for left in folder.glob(".*"):
                    if OLD_ASIDE.fullmatch(left.name):
                        output.remove(left)

    # --- its files -------------------------------------------------------------------------------

    def write_info(self, info: dict[str, Any]) -> None:
        """Writes ``run.json``; makes the folder."""
        self._write(RUN, lambda file: output.write_json(file, {"format": FORMAT, **info}))

    def read_info(self) -> dict[str, Any]:
        """Reads ``run.json``; one of an earlier format as if it were of this one.

        Raises:
            ValueError: not a run folder, a damaged file, or one of a newer format.
        """
        file = self.path / RUN
        if not self.exists():
            raise ValueError(
                f"{self.path} is not a run folder (it has no {RUN}): "
                f"name the folder that `cpvae fit --out` wrote."
            )
        try:
            info = stored.parsed(file.read_text(encoding="utf-8"))
            version = int(info["format"])
            if version < FORMAT:
                info = upgraded_info(info)
            if version <= FORMAT:
                info = stored.check_info(info)
        except DAMAGE as error:
            raise ValueError(
                f"{file} is damaged ({_in_words(error)}): restore it or fit again."
            ) from error
        if version > FORMAT:
            raise ValueError(
                f"{self.path} was written in format {version}, and this version of cpvae reads "
                f"formats up to {FORMAT}: upgrade cpvae."
            )
        return info

    def read_schema(self) -> Schema:
        """What the columns of the data are; raises as `read_info` does."""
        info = self.read_info()
        given = {"given_shape": info["example_shape"]} if "example_shape" in info else {}
        try:
            return Schema.from_json({**given, **info["schema"]})
        except DAMAGE as error:
            raise ValueError(
                f"{self.path / RUN} has a schema that this version of cpvae does not know "
                f"({_in_words(error)}): upgrade cpvae, or restore it."
            ) from error

    def write_model(self, state: dict[str, Tensor]) -> None:
        """Writes the weights."""
        self._write(MODEL, lambda file: tensors.write(file, state, {}))

    def read_model(self) -> Model:
        """Rebuilds the model with its weights, in evaluation mode, on the CPU.

        Raises:
            ValueError: no weights yet, or weights that are damaged or of another model.
        """
        info, schema = self.read_info(), self.read_schema()
        file = self.path / MODEL
        if not file.is_file():
            raise ValueError(
                f"{self.path} has no {MODEL} yet: its first epoch was not finished. "
                f"Go on with `cpvae fit --resume --out {quote(str(self.path))}`."
            )
        with self._naming_damage():
            config = {**info["model"], **schema.features()}
            _check_weights(config, schema, tensors.shapes(file))
            weights = upgraded_tensors(self.read_weights(), schema)
            model = build(**config)
            stored.check_finite(weights, dict(model.named_parameters()))
            model.load_state_dict(weights)
        return model.eval()

    def check_sizes(self) -> None:
        """Refuses a run whose weights, if there are some, are not of the model that it describes.

        Raises:
            ValueError: says what differs.
        """
        info, schema, file = self.read_info(), self.read_schema(), self.path / MODEL
        if file.is_file():
            with self._naming_damage():
                config = {**info["model"], **schema.features()}
                _check_weights(config, schema, tensors.shapes(file))

    @contextlib.contextmanager
    def _naming_damage(self) -> Iterator[None]:
        try:
            yield
        except DAMAGE as error:
            raise ValueError(
                f"{self.path} is damaged: {MODEL} cannot be read as the model that {RUN} describes "
                f"({_in_words(error)}). Restore the folder or fit again."
            ) from error

    def read_weights(self) -> dict[str, Tensor]:
        """The weights alone; errors are those of the file's library."""
        return tensors.read(self.path / MODEL)[0]

    def append_history(self, record: dict[str, Any]) -> None:
        """Adds one epoch."""
        self._check_lock()
        with open(self.path / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_history(self) -> list[dict[str, Any]]:
        """All whole lines of the history, first epoch first; a torn last line is left out.

        Raises:
            ValueError: another line is damaged.
        """
        file = self.path / HISTORY
        try:
            return stored.records(file.read_text(encoding="utf-8")) if file.is_file() else []
        except DAMAGE as error:
            raise ValueError(
                f"{file} is damaged ({_in_words(error)}): restore it or fit again."
            ) from error

    def write_history(self, records: list[dict[str, Any]]) -> None:
        """Replaces the history, when a run starts or resumes."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        self._write(HISTORY, lambda file: output.write_text(file, text))

    def flush_history(self) -> None:
        """Has the system bring the history to disk, before anything is written that needs it."""
        output.flush(self.path / HISTORY)

    def write_training(self, state: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Writes the state of the optimisation; ``progress`` is kept as JSON in the file's head."""
        head = {"progress": json.dumps(progress)}
        self._write(TRAINING, lambda file: tensors.write(file, state, head))

    def read_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of the optimisation, or None when no epoch was saved.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.path / TRAINING
        if not file.is_file():
            return None
        try:
            state, head = tensors.read(file)
            if self.exists():
                state = upgraded_tensors(state, self.read_schema())
            progress = stored.parsed(head["progress"])
            stored.check(progress, stored.PROGRESS, "it")
            return state, progress
        except DAMAGE as error:
            raise ValueError(
                f"{file} is damaged ({_in_words(error)}): the run cannot go on from it. "
                f"Fit again into another folder."
            ) from error

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Keeps the figures of the weights that are in the folder now."""
        kept = {**result, "best_epoch": self.read_info().get("best_epoch")}
        self._write(EVALUATION, lambda file: output.write_json(file, kept))

    def read_evaluation(self) -> dict[str, Any] | None:
        """The figures that were kept for the weights that are in the folder now, or None.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.path / EVALUATION
        if not file.is_file():
            return None
        try:
            kept = stored.parsed(file.read_text(encoding="utf-8"))
            stored.check_evaluation(kept)
        except DAMAGE as error:
            raise ValueError(
                f"{file} is damaged ({_in_words(error)}): delete it, `cpvae evaluate` writes it "
                f"again."
            ) from error
        return kept if kept.get("best_epoch") == self.read_info().get("best_epoch") else None

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Writes a file of the run, where the folder is still the one that was locked."""
        self._check_lock()
        self.path.mkdir(parents=True, exist_ok=True)
        write(self.path / name)

    def _check_lock(self) -> None:
        if self.lock:
            self.lock.check()


def best_of(
    history: Sequence[dict[str, Any]], pretraining_epochs: int = 0
) -> dict[str, Any] | None:
    """The record with the best bound, of those that may be chosen; None of no records.

    Those are after the pretraining, and do not say that they do not count (`refine.refine`).
    """
    after = [r for r in history if r["epoch"] > pretraining_epochs or not pretraining_epochs]
    counted = [record for record in after or history if record.get("counts", True)]
    return max(counted, key=lambda record: record["valid_elbo_nats"], default=None)


def describe(
    schema: Schema, config: dict[str, Any], recipe: Any, given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What ``run.json`` says of the data's columns, the model, its recipe and the software.

    Arguments:
        schema: of the data
        config: keywords of `build`; those that the schema or the recipe has are not said twice
        recipe: a `Recipe`
        given: settings of both that the user named
    """
    elsewhere = ("shape", "kinds", "n_levels", "limits", "loc", "scale", "seed")
    return {
        "schema": schema.as_json(),
        "model": {key: value for key, value in config.items() if key not in elsewhere},
        "recipe": dataclasses.asdict(recipe),
        "given": given or {},
        "versions": versions(),
    }


def _is_passing(entry: Path) -> bool:
    """Whether it is what a writer has in a folder for the time being."""
    return entry.name == LOCK or entry.name.startswith(output.ASIDE)


def remove_empty(folder: Path) -> None:
    """Removes a folder if nothing is in it."""
    with contextlib.suppress(OSError):  # it is not there, or others have put something into it
        folder.rmdir()


def _check_weights(config: dict[str, Any], schema: Schema, shapes: dict[str, Any]) -> None:
    """Compares sizes in a file with those of the model, before there is memory for either.

    Raises:
        ValueError: they differ, or a configuration that is none.
    """
    stored.check_sizes(config, shapes.values())
    with torch.device("meta"):
        expected = build(**config).state_dict()
        found = upgraded_tensors({key: torch.empty(of) for key, of in shapes.items()}, schema)
    stored.check_shapes(*({key: t.shape for key, t in some.items()} for some in (found, expected)))


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__

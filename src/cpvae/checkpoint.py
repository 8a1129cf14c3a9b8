"""The run folder: what is kept of a run, and how it is read back. Nothing in it is ever unpickled.

    run.json              schema of the data, model, recipe, versions, and how the run ended
    model.safetensors     the weights with the best validation bound so far
    history.jsonl         one line an epoch
    training.safetensors  all that is needed to go on from the last epoch saved
    evaluation.json       figures on the test part
    names.json            names that a person gave to the components, see `report.explorer`
    logs/                 what a logger wrote, see `report.loggers`
    figures/, report.html pictures and the page, see `report.page`
    restarts/seed-S/      the run of each seed, where there are several

Every file but the history is written aside and renamed, so a reader sees the old one or the new
one and never half of one. The history only grows by whole lines; a resumed run cuts it back to the
epoch that it resumes from.
"""

import dataclasses
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy
import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from cpvae import __version__
from cpvae.data.schema import Schema
from cpvae.models.base import Model
from cpvae.models.build import build
from cpvae.old_formats import upgraded_info, upgraded_tensors

FORMAT = 2
RUN, MODEL, HISTORY = "run.json", "model.safetensors", "history.jsonl"
TRAINING, EVALUATION, NAMES = "training.safetensors", "evaluation.json", "names.json"
REPORT, FIGURES, LOGS, RESTARTS = "report.html", "figures", "logs", "restarts"


class RunFolder:
    """A folder with one run in it.

    Arguments:
        path: the folder, which need not exist yet
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether a run has been started here."""
        return (self.path / RUN).is_file()

    def clear(self) -> None:
        """Removes the files of an earlier run, and nothing else that lies in the folder."""
        for name in (RUN, MODEL, HISTORY, TRAINING, EVALUATION, NAMES, REPORT):
            (self.path / name).unlink(missing_ok=True)
        for name in (LOGS, FIGURES):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for restart in self.path.glob(f"{RESTARTS}/seed-*"):
            RunFolder(restart).clear()
            restart.rmdir()
        (self.path / RESTARTS / TRAINING).unlink(missing_ok=True)

    def write_info(self, info: dict[str, Any]) -> None:
        """Writes ``run.json``; makes the folder."""
        self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **info}, indent=2) + "\n"
        _replace(self.path / RUN, lambda aside: aside.write_text(text, encoding="utf-8"))

    def read_info(self) -> dict[str, Any]:
        """Reads ``run.json``; one of an earlier format as if it were of this one.

        Raises:
            ValueError: not a run folder, a damaged file, or one of a newer format.
        """
        file = self.path / RUN
        if not file.is_file():
            raise ValueError(
                f"{self.path} is not a run folder (it has no {RUN}): "
                f"name the folder that `cpvae fit --out` wrote."
            )
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            version = int(info["format"])
            if version < FORMAT:
                info = upgraded_info(info)
            if version <= FORMAT and not {"schema", "model", "recipe"} <= set(info):
                raise ValueError("it does not say what was fitted")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged ({error}): restore it or fit again.") from error
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
        return Schema.from_json({**given, **info["schema"]})

    def write_model(self, state: dict[str, Tensor]) -> None:
        """Writes the weights."""
        self._write_tensors(MODEL, state, {})

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
        try:
            model = build(**{**info["model"], **schema.features()})
            model.load_state_dict(upgraded_tensors(self.read_weights(), schema))
        except (safetensors.SafetensorError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self.path} is damaged: {MODEL} cannot be read as the model that {RUN} describes "
                f"({_first_line(error)}). Restore the folder or fit again."
            ) from error
        return model.eval()

    def read_weights(self) -> dict[str, Tensor]:
        """The weights alone; errors are those of the file's library."""
        return _read_tensors(self.path / MODEL)[0]

    def append_history(self, record: dict[str, Any]) -> None:
        """Adds one epoch."""
        with open(self.path / HISTORY, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def read_history(self) -> list[dict[str, Any]]:
        """All whole lines of the history, first epoch first; a torn last line is left out."""
        file = self.path / HISTORY
        records = []
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                records.append(json.loads(line))
            except ValueError:
                break
        return records

    def write_history(self, records: list[dict[str, Any]]) -> None:
        """Replaces the history, when a run starts or resumes."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        _replace(self.path / HISTORY, lambda aside: aside.write_text(text, encoding="utf-8"))

    def write_training(self, tensors: dict[str, Tensor], progress: dict[str, Any]) -> None:
        """Writes the state of the optimisation; ``progress`` is kept as JSON in the file's head."""
        self._write_tensors(TRAINING, tensors, {"progress": json.dumps(progress)})

    def read_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of the optimisation, or None when no epoch was saved.

        Raises:
            ValueError: the file is damaged.
        """
        file = self.path / TRAINING
        if not file.is_file():
            return None
        try:
            tensors, head = _read_tensors(file)
            if self.exists():
                tensors = upgraded_tensors(tensors, self.read_schema())
            return tensors, json.loads(head["progress"])
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged ({_first_line(error)}): the run cannot go on from it. "
                f"Fit again into another folder."
            ) from error

    def write_evaluation(self, result: dict[str, Any]) -> None:
        """Keeps the figures of the weights that are in the folder now."""
        kept = {**result, "best_epoch": self.read_info().get("best_epoch")}
        text = json.dumps(kept, indent=2) + "\n"
        _replace(self.path / EVALUATION, lambda aside: aside.write_text(text, encoding="utf-8"))

    def read_evaluation(self) -> dict[str, Any] | None:
        """The figures that were kept for the weights that are in the folder now, or None."""
        file = self.path / EVALUATION
        if not file.is_file():
            return None
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return stored if stored.get("best_epoch") == self.read_info().get("best_epoch") else None

    def _write_tensors(self, name: str, tensors: dict[str, Tensor], head: dict[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        head = {**head, "sha256": _digest(contiguous)}
        _replace(self.path / name, lambda aside: save_file(contiguous, aside, metadata=head))


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
        config: keywords of `build`; those that the schema brings are not said twice
        recipe: a `Recipe`
        given: settings of both that the user named
    """
    features = ("shape", "kinds", "n_levels", "limits", "loc", "scale")
    return {
        "schema": schema.as_json(),
        "model": {key: value for key, value in config.items() if key not in features},
        "recipe": dataclasses.asdict(recipe),
        "given": given or {},
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions and hardware that a result depends on."""
    return {
        "python": platform.python_version(),
        "cpvae": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
    }


def _processor() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and head of a file, checked against the checksum in its head."""
    with safetensors.safe_open(file, "pt") as stored:
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        head = stored.metadata() or {}
    if head.get("sha256") != _digest(tensors):
        raise ValueError("its checksum is wrong")
    return tensors, head


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _replace(file: Path, write: Callable[[Path], Any]) -> None:
    """Writes aside, flushes to disk, renames."""
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(aside)
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        aside.chmod(0o644)  # safetensors makes files that only their owner can read
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

"""Records of a run for TensorBoard, Weights & Biases, or a CSV file, while it is trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpvae.checkpoint import LOGS, RunFolder
from cpvae.choices import LOGGERS, choose
from cpvae.extras import need
from cpvae.models.base import Model
from cpvae.report.figures import COLUMNS, by_share, displayable, enlarge, image_grid
from cpvae.streams import torch_stream
from cpvae.training.diagnosis import Record


class RunLogger:
    """One of lightning's loggers, that writes into the run folder.

    Arguments:
        name: one of `LOGGERS`; ``wandb`` reads its settings, such as WANDB_MODE, from its variables
        folder: the run

    Raises:
        ValueError: an unknown name.
        ModuleNotFoundError: a package that the logger needs is not installed.
    """

    def __init__(self, name: str, folder: RunFolder):
        choose("logger", name, LOGGERS)
        for package in ("lightning", *((name,) if name != "csv" else ())):
            need(package, "loggers")
        from lightning.fabric import loggers as fabric

        self.name, self.directory = name, folder.path / LOGS
        if name == "wandb":
            from lightning.pytorch.loggers import WandbLogger

            self.directory.mkdir(parents=True, exist_ok=True)
            self._logger: Any = WandbLogger(
                folder.path.resolve().name, save_dir=self.directory, project="cpvae"
            )
        else:
            kind = {"csv": fabric.CSVLogger, "tensorboard": fabric.TensorBoardLogger}[name]
            self._logger = kind(self.directory, name="", version=name)

    def settings(self, info: dict[str, Any]) -> None:
        """Keeps what ``run.json`` says of the model and the recipe."""
        settings = {f"{part}/{k}": v for part in ("model", "recipe") for k, v in info[part].items()}
        if self.name != "csv":  # lightning's writes no settings
            plain = (int, float, str, bool)
            self._logger.log_hyperparams(
                {k: v if isinstance(v, plain) else str(v) for k, v in settings.items()}
            )

    def epoch(self, index: int, record: Record) -> None:
        """Keeps an epoch's record; restarts after the first under names of their own."""
        prefix = f"restart_{index}/" if index else ""
        numbers = {f"{prefix}{k}": v for k, v in record.items() if k != "epoch"}
        self._logger.log_metrics(numbers, step=record["epoch"])

    def pictures(self, model: Model, figures: Mapping[str, Path], epoch: int) -> None:
        """Keeps the figures of a run, and for images a sheet of what each component generates."""
        for name, file in figures.items():
            with Image.open(file) as image:
                self._picture(f"figures/{name}", np.asarray(image.convert("RGB")), epoch)
        if len(model.shape) != 3:
            return
        for k in by_share(model.aggregated.numpy()):
            generator = torch_stream(0, "pictures", int(k))
            drawn = model.sample(COLUMNS, int(k), generator=generator, mean=True)[0].numpy()
            sheet = enlarge(image_grid(displayable(drawn, drawn), COLUMNS)).convert("RGB")
            self._picture(f"components/{k}", np.asarray(sheet), epoch)

    def _picture(self, name: str, pixels: np.ndarray, epoch: int) -> None:
        """A picture (height, width, 3) of bytes; a CSV file has no room for it."""
        if self.name == "tensorboard":
            self._logger.experiment.add_image(name, pixels, epoch, dataformats="HWC")
        if self.name == "wandb":
            self._logger.log_image(name, [Image.fromarray(pixels)], step=epoch)

    def close(self, status: str) -> None:
        """Writes what is left; ``status`` as in ``run.json``."""
        self._logger.finalize("success" if status == "finished" else "failed")
        if self.name == "wandb":
            self._logger.experiment.finish(exit_code=0 if status == "finished" else 1)

"""A fitted model as two ONNX files, which run without this project and without torch."""

import copy
import json
import logging
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cpvae import output
from cpvae.data.schema import Schema
from cpvae.extras import need
from cpvae.models.base import Model
from cpvae.models.precision import single_precision

OPSET = 20


class _Encoder(nn.Module):
    """Data (n, ...) to q(c|x) and what the decoder takes."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n ..."]) -> tuple[Tensor, ...]:
        latent, log_qc = self.model.code(self.model.likelihood.observe(x.flatten(1)))
        return log_qc.exp(), *latent


class _Decoder(nn.Module):
    """Latent values to the mean of p(x | latent), (n, ...)."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, *latent: Float[Tensor, "n _"]) -> Tensor:
        mean = self.model.likelihood.mean(self.model.decode(*latent))
        return mean.unflatten(-1, self.model.shape)


@single_precision()
@torch.no_grad()
def export_onnx(model: Model, schema: Schema, folder: Path, overwrite: bool = True) -> list[Path]:
    """Writes ``encoder.onnx``, ``decoder.onnx``, ``prior.json``, ``schema.json`` into a folder.

    The encoder takes ``x``, ``(n, *shape)``, in the data's units and gives ``probabilities``
    (n, k), see `Model.cluster_probs`, and the latent values that the decoder takes: ``z`` (n, d)
    and one-hot ``c`` (n, k) for CP-VAE, ``z`` for models of one layer, ``z2`` and ``z1`` for those
    of two. The decoder gives ``mean``, E[x | latent], ``(n, *shape)``. To generate from component
    k of a model of one layer, draw z from the k-th Gaussian of ``prior.json`` (``mean``,
    ``logvar``, and ``unit_tril`` of a full covariance) and decode it; ``weights`` are the shares of
    the components. ``schema.json`` has the names, kinds and levels of a table's columns: a column
    of text goes in as the number of its level.

    Arguments:
        model: a fitted model
        schema: of the data that it was fitted to
        folder: where the files go; made if it is not there
        overwrite: whether files of these names are replaced

    Returns:
        The files.

    Raises:
        FileExistsError: there is such a file, and it is not to be overwritten.
        ModuleNotFoundError: onnx or onnxscript is not installed.
        ValueError: a mixture with full covariance whose components are read off responsibilities
            (``mog``): ONNX has no triangular solver.
    """
    for name in ("onnx", "onnxscript"):
        need(name, "onnx")
    if not model.has_categories and model.mixture().unit_tril is not None:
        raise ValueError(
            "ONNX has no triangular solver, which the categories of a mixture with full covariance "
            "need: fit with the covariance 'diag' to export."
        )
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(model).cpu()  # the caller's stays on its device
    names = model.latent_names
    x = torch.rand(2, *model.shape)
    latent = model.code(model.likelihood.observe(x.flatten(1)))[0]
    encoder, decoder = folder / "encoder.onnx", folder / "decoder.onnx"
    of_encoder = _Encoder(model), (x,), ["x"], ["probabilities", *names]
    of_decoder = _Decoder(model), latent, list(names), ["mean"]
    output.write(encoder, partial(_export, *of_encoder), overwrite)
    output.write(decoder, partial(_export, *of_decoder), overwrite)
    prior = model.mixture()
    described = {
        "weights": model.aggregated.tolist(),
        "mean": prior.mean.tolist(),
        "logvar": prior.logvar.tolist(),
        "unit_tril": None if prior.unit_tril is None else prior.unit_tril.tolist(),
    }
    files = [encoder, decoder]
    for name, content in (("prior.json", described), ("schema.json", schema.as_json())):
        files.append(folder / name)
        output.write_text(files[-1], json.dumps(content) + "\n", overwrite)
    return files


def _export(
    module: nn.Module, given: Sequence[Tensor], takes: list[str], gives: list[str], file: Path
) -> None:
    any_number = tuple({0: torch.export.Dim("n", min=1)} for _ in given)
    variadic = isinstance(module, _Decoder)  # whose inputs are one argument, a tuple
    talkative = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in talkative]
    for logger in talkative:
        logger.setLevel(logging.ERROR)  # they miss torchvision, which nothing here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own ways
            torch.onnx.export(
                module.eval(),
                tuple(given),
                file,
                input_names=takes,
                output_names=gives,
                dynamic_shapes=(any_number,) if variadic else any_number,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(talkative, levels, strict=True):
            logger.setLevel(level)

import json

import numpy as np
import onnxruntime
import pytest
import torch

from cpvae.data import Schema
from cpvae.models import onnx as export
from cpvae.models.onnx import export_onnx


def test_onnx_gives_what_torch_gives(any_model, tmp_path, generator):
    """In another runtime, for another number of examples than it was exported with."""
    if not any_model.has_categories and any_model.mixture().unit_tril is not None:
        with pytest.raises(ValueError, match="fit with the covariance 'diag'"):
            export_onnx(any_model, Schema(any_model.shape), tmp_path)
        return
    files = export_onnx(any_model, Schema(any_model.shape), tmp_path / "onnx")
    encoder, decoder = (onnxruntime.InferenceSession(file) for file in files[:2])
    x = torch.rand(7, *any_model.shape, generator=generator)
    probabilities, *latent = encoder.run(None, {"x": x.numpy()})
    np.testing.assert_allclose(probabilities, any_model.cluster_probs(x), atol=1e-5)
    np.testing.assert_allclose(latent[0], any_model.embed(x), atol=1e-5)
    names = [given.name for given in decoder.get_inputs()]
    (mean,) = decoder.run(None, dict(zip(names, latent, strict=True)))
    np.testing.assert_allclose(mean, any_model.reconstruct(x), atol=1e-5, rtol=1e-5)
    assert Schema.from_json(json.loads(files[3].read_text())).shape == any_model.shape
    prior = json.loads(files[2].read_text())
    np.testing.assert_allclose(prior["mean"], any_model.mixture().mean.detach(), rtol=1e-6)
    assert sum(prior["weights"]) == pytest.approx(1)


def test_a_missing_package_is_named(any_model, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cpvae\[onnx\]'"):
        export.export_onnx(any_model, Schema(any_model.shape), tmp_path)

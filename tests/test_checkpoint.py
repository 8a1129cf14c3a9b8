import json

import pytest
import torch
from safetensors import SafetensorError

from cpvae import tensors
from cpvae.checkpoint import FORMAT, MODEL, RUN, TRAINING, RunFolder, describe
from cpvae.data import Schema
from cpvae.models.build import build
from cpvae.training.recipe import Recipe

CONFIG = {
    "n_components": 2,
    "latent_dim": 2,
    "hidden": [4, 4],
    "likelihood": "gaussian",
}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    schema = Schema((4,), loc=(1.0,) * 4, scale=(2.0,) * 4)
    config = {**CONFIG, **schema.features()}
    folder.write_info(describe(schema, config, Recipe()))
    folder.write_model(build(**config).state_dict())
    return folder


def test_round_trip(folder):
    model = folder.read_model()
    assert model.likelihood.heads[0].scale.tolist() == [2.0] * 4
    assert not model.training
    info = folder.read_info()
    assert info["format"] == FORMAT
    assert Recipe(**info["recipe"]) == Recipe()
    assert {"cpvae", "torch", "python", "processor"} <= set(info["versions"])


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(folder, monkeypatch):
    before = {p.name: p.read_bytes() for p in folder.path.iterdir()}

    def half(_, path, metadata):
        path.write_bytes(b"half of a file")
        raise SafetensorError("Error while serializing: I/O error: (os error 28)")

    monkeypatch.setattr(tensors, "save_file", half)
    with pytest.raises(OSError, match=r"No space left on device: .*model\.safetensors"):
        folder.write_model({"x": torch.zeros(3)})
    assert {p.name: p.read_bytes() for p in folder.path.iterdir()} == before


def test_damage_is_named(folder):
    whole = (folder.path / MODEL).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(255 - byte for byte in whole[middle : middle + 40])
    flipped += whole[middle + 40 :]
    for damaged in (whole[:middle], b"", b"\0" * 100, flipped):
        (folder.path / MODEL).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is damaged: model.safetensors"):
            folder.read_model()
    folder.write_model({"other": torch.zeros(1)})
    with pytest.raises(ValueError, match="is damaged"):
        folder.read_model()
    (folder.path / MODEL).unlink()
    with pytest.raises(ValueError, match="first epoch was not finished"):
        folder.read_model()
    (folder.path / TRAINING).write_bytes(whole[:50])
    with pytest.raises(ValueError, match=r"training.safetensors is damaged"):
        folder.read_training()
    for text in ("{", "[]", "{}", '{"format": "x"}', '{"format": 1}', '{"format": 2}'):
        (folder.path / RUN).write_text(text)
        with pytest.raises(ValueError, match=r"run.json is damaged"):
            folder.read_info()


def test_newer_formats_and_other_folders_are_refused(folder, tmp_path):
    (folder.path / RUN).write_text(json.dumps({"format": FORMAT + 1}))
    with pytest.raises(ValueError, match="upgrade cpvae"):
        folder.read_info()
    with pytest.raises(ValueError, match="is not a run folder"):
        RunFolder(tmp_path / "nothing").read_info()

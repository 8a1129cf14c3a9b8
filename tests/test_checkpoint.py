import dataclasses
import json
import re

import pytest
import torch
from safetensors import SafetensorError

from cpvae import tensors
from cpvae.checkpoint import (
    EVALUATION,
    FORMAT,
    HISTORY,
    MODEL,
    RUN,
    TRAINING,
    RunFolder,
    describe,
)
from cpvae.data import Schema
from cpvae.models.build import build
from cpvae.training.loop import fit
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


WRONG = [
    ("format", None, "it has no .format"),
    ("schema", [], "schema is \\[\\], and a mapping belongs there"),
    ("schema.shape", None, "schema has no shape"),
    ("schema.shape", [4.5], "schema.shape\\[0\\] is 4.5, and a whole number belongs there"),
    ("schema.shape", [10**9], "shape is 1000000000, and there are|schema.loc has 4 values"),
    ("schema.columns", ["a", "a", "b", "c"], "columns are 3 names"),
    ("schema.kinds", ["x"] * 4, "has 'x', which is unknown"),
    ("schema.scale", [float("nan")] * 4, "scale\\[0\\] is nan, and a number belongs"),
    ("schema.scale", [0.0] * 4, "not above 0"),
    ("schema.levels", [["a"]], "levels is .*, and a mapping"),
    ("schema.of_a_later_version", 1, "does not know"),
    ("model", "cpvae", "model is 'cpvae', and a mapping"),
    ("model.model", "gmm", "model.model is 'gmm', which is unknown"),
    ("model.n_components", None, "model has no n_components"),
    ("model.n_components", "2", "n_components is '2', and a whole number"),
    ("model.n_components", -2, "n_components is -2, and a whole number"),
    ("model.n_components", True, "n_components is True, and a whole number"),
    ("model.n_components", 3, "has the size \\[2.* and not \\[3"),
    ("model.n_components", 10**12, "n_components is 1000000000000, and there are"),
    ("model.hidden", [10**9] * 3, "hidden is 1000000000, and there are"),
    ("model.hidden", [[4]], "hidden\\[0\\] is \\[4\\]"),
    ("model.hidden", [float("inf")], "hidden\\[0\\] is inf"),
    ("model.prior_scale", float("nan"), "model.prior_scale is nan"),
    ("model.unheard_of", 1, "unheard_of"),
    ("recipe.seed", None, "recipe has no seed"),
    ("recipe.learning_rate", {"nested": 1}, "recipe.learning_rate is {'nested': 1}"),
    ("status", 3, "status is 3, and text"),
    ("best_epoch", [1], "best_epoch is \\[1\\]"),
    ("model.soft_bounds", "yes", "model.soft_bounds is 'yes', and true or false"),
    ("schema.limits", [[0.0, 3.0, 1.0]] * 4, "schema.limits has \\[0.0, 3.0, 1.0\\]"),
    ("schema.limits", [[-1.0, 0.0, None]] * 4, "which is no limit"),
    ("schema.limits", [[0.0, "low", None]] * 4, "schema.limits\\[0\\]\\[1\\] is 'low'"),
    ("schema.limits", [None], "schema.limits has 1 values for"),
    ("schema.forms", [{"decimals": -1}] * 6, "schema.forms\\[0\\].decimals is -1"),
    ("schema.forms", [{"levels": 3}] * 6, "schema.forms\\[0\\].levels is 3, and text"),
    ("schema.pixel_range", ["a"], "schema.pixel_range\\[0\\] is 'a'"),
    ("data", {"source": 3}, "data has no drop"),
    ("data", {"source": 3, "label": None, "drop": []}, "data.source is 3, and text"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_what_is_wrong_in_a_run_is_named(folder, key, value, words):
    info = json.loads((folder.path / RUN).read_text())
    *parts, last = key.split(".")
    inner = info
    for part in parts:
        inner = inner[part]
    inner[last] = value
    if value is None:
        del inner[last]
    (folder.path / RUN).write_text(json.dumps(info))
    with pytest.raises(ValueError, match=words) as error:
        folder.read_model()
    assert "\n" not in str(error.value)


def test_nested_json_and_other_text_is_refused(folder):
    for text in ("[" * 100_000 + "]" * 100_000, '{"format": ' + "9" * 5000 + "}", "null", "\x00"):
        (folder.path / RUN).write_text(text)
        with pytest.raises(ValueError, match=r"run.json is damaged"):
            folder.read_info()
    (folder.path / RUN).write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        folder.read_info()


def test_a_setting_of_a_recipe_that_is_not_known_is_refused(folder):
    recipe = folder.read_info()["recipe"]
    with pytest.raises(ValueError, match="recipe with unheard_of"):
        Recipe.from_json({**recipe, "unheard_of": 1})
    with pytest.raises(ValueError, match="max_epochs='3': use a whole number"):
        Recipe.from_json({**recipe, "max_epochs": "3"})
    assert Recipe.from_json(recipe) == Recipe()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(folder, value):
    weights = folder.read_weights()
    weights["prior.mean"][1, 0] = value
    folder.write_model(weights)
    with pytest.raises(ValueError, match=r"prior.mean has values that are not finite"):
        folder.read_model()
    weights = {**folder.read_weights(), "prior.mean": torch.zeros(2, 2)}
    weights["likelihood.heads.0.loc"][0] = torch.nan
    folder.write_model(weights)
    with pytest.raises(ValueError, match=r"heads.0.loc has values that are not finite"):
        folder.read_model()


RECORD = {"epoch": 1, "seconds": 0.5, "valid_elbo_nats": -3.0, "gain_se_nats": float("inf")}


def test_a_history_is_whole_but_for_a_last_line_that_was_being_written(folder):
    lines = [json.dumps({**RECORD, "epoch": epoch}) for epoch in (1, 2, 3)]
    file = folder.path / HISTORY
    for torn in ("", '{"epoch": 4, "sec', "\x00\x00"):
        file.write_text("\n".join(lines) + "\n" + torn)
        assert [record["epoch"] for record in folder.read_history()] == [1, 2, 3]
    for wrong, words in [
        ('{"epoch": 2, "sec', "line 2: "),
        ("[]", r"line 2: it is \[\], and a mapping"),
        ("{}", "line 2: it has no epoch"),
        ('{"epoch": "2"}', "it.epoch is '2', and a whole number"),
        ('{"epoch": 1}', "epoch 1 comes after 1"),
        ('{"epoch": 2, "valid_elbo_nats": NaN}', "valid_elbo_nats is nan"),
        ('{"epoch": 2, "loss": "x"}', "it.loss is 'x', and true or false or a number"),
        ('{"epoch": 2, "loss": {"a": [1]}}', "it.loss is {"),
        ("[" * 100_000, "nested too deeply"),
    ]:
        file.write_text("\n".join([lines[0], wrong, lines[2]]) + "\n")
        with pytest.raises(ValueError, match=r"history.jsonl is damaged \(line 2: ") as error:
            folder.read_history()
        assert re.search(words, str(error.value))


def test_a_damaged_evaluation_is_named(folder):
    figures = {"n_examples": 5, "importance_samples": 2, "elbo_exact_nats": -1.0}
    folder.write_evaluation(figures)
    assert folder.read_evaluation() == {**figures, "best_epoch": None}
    file = folder.path / EVALUATION
    for text in ("[]", "{", '{"n_examples": 5}', json.dumps({**figures, "nmi": {"a": 1}})):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"evaluation.json is damaged .*delete it"):
            folder.read_evaluation()
    file.write_text(json.dumps({**figures, "best_epoch": 3}))
    assert folder.read_evaluation() is None  # of other weights


def test_a_training_state_of_another_model_is_refused(folder):
    data = torch.rand(30, 4), torch.rand(10, 4)
    recipe = Recipe(max_epochs=1, anneal_epochs=0)
    config = {**CONFIG, **folder.read_schema().features()}

    def go_on(**changes):
        model = build(**{**config, **changes})
        fit(model, *data, dataclasses.replace(recipe, max_epochs=2), folder=folder)

    fit(build(**config), *data, recipe, folder=folder)
    state, progress = folder.read_training()
    wrong = [
        ({}, {"runs": [{**progress["runs"][0], "epoch": "1"}]}, "epoch is '1'"),
        ({}, {"runs": {}}, "runs is {}, and a list"),
        ({}, {}, "it has no runs"),
        ({"0.engine.mean.0": torch.zeros(1)}, progress, r"mean.0 has the size \[1\] and not"),
        ({"0.last.prior.mean": torch.zeros(2, 3)}, progress, r"prior.mean has the size"),
        ({"0.best.prior.mean": torch.full((2, 2), torch.nan)}, progress, "not finite"),
    ]
    before = (folder.path / HISTORY).read_bytes()
    for changed, told, words in wrong:
        folder.write_training({**state, **changed}, told)
        with pytest.raises(ValueError, match=f"is damaged .*{words}"):
            go_on()
        assert (folder.path / HISTORY).read_bytes() == before
    folder.write_training(state, progress)
    with pytest.raises(ValueError, match="is damaged"):
        go_on(hidden=[5, 4])
    go_on()
    assert len(folder.read_history()) == 2


def test_every_command_says_in_one_line_what_is_wrong_in_a_run(cpvae, folder):
    """And none ends in a traceback, whatever file it is."""
    commands = [["generate"], ["evaluate"], ["report"], ["compact"], ["share"], ["export"]]
    (folder.path / MODEL).write_bytes(b"half of a file")
    for command in commands:
        code, out, err = cpvae(*command, folder.path)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    (folder.path / RUN).write_text("[1, 2]")
    for command in [*commands, ["assign", folder.path], ["app"]]:
        code, out, err = cpvae(command[0], folder.path, *command[1:])
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "run.json is damaged" in err
        assert "Traceback" in cpvae("--debug", command[0], folder.path, *command[1:])[2]

"""Data that has changed since the fit is noticed by whoever reads it again."""

import json

import numpy as np
import pandas
import pytest

from cpvae import data
from cpvae.checkpoint import RunFolder
from cpvae.data.fingerprint import check_unchanged, fingerprint

pytestmark = pytest.mark.usefixtures("without_shape_checks", "without_pictures")

CHANGES = {
    "column b changed": lambda d: d.assign(b=d.b + (d.index == 7)),
    "column pet changed": lambda d: d.assign(pet=d.pet.replace("cat", "lion")),  # the same numbers
    "column c is gone": lambda d: d.drop(columns="c"),
    "column d, e is new": lambda d: d.assign(d=d.a * 2, e=d.a * 3),
    "its columns have another order": lambda d: d[["b", "a", "c", "pet"]],
    "it has 70 rows, and had 60": lambda d: pandas.concat([d, d[:10]]),
    "its values or the order of its rows changed": lambda d: d.sample(frac=1, random_state=0),
}


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(60, 3)), columns=["a", "b", "c"])
    return frame.assign(pet=np.where(rng.random(60) < 0.5, "cat", "zebra"))


@pytest.mark.parametrize("words", CHANGES)
def test_what_has_changed_is_named(frame, words):
    splits = data.load(frame)
    stored = {"data": fingerprint(splits), "schema": splits.schema.as_json()}
    stored = json.loads(json.dumps(stored))
    check_unchanged(data.load(frame.copy()), stored, "run")
    with pytest.raises(ValueError, match=f"not what run was fitted to: {words}. Put back"):
        check_unchanged(data.load(CHANGES[words](frame)), stored, "run")
    check_unchanged(data.load(CHANGES[words](frame)), {"data": None}, "run")  # nothing is known


def test_images_and_parts_that_were_not_fitted_are_looked_at_too():
    images = np.random.default_rng(0).random((40, 4, 4)).astype(np.float32)
    splits = data.load(images)
    stored = {"data": fingerprint(splits)}
    assert "columns_sha256" not in stored["data"]
    check_unchanged(data.load(images), stored, "run")
    for part in ("train", "valid", "test"):
        changed = data.load(images)
        getattr(changed, part).x[0, 0, 0, 0] += 1
        with pytest.raises(ValueError, match="its values or the order"):
            check_unchanged(changed, stored, "run")


def test_every_command_that_reads_the_data_again_refuses(cpvae, frame, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame.to_csv("t.csv", index=False)
    fit = ("fit", "t.csv", "-k", 2, "--max-epochs", 1, "--out", "run")
    assert cpvae(*fit)[0] == 0
    CHANGES["column b changed"](frame).to_csv("t.csv", index=False)
    before = [file.read_bytes() for file in sorted((tmp_path / "run").iterdir())]
    for command in (["evaluate"], ["report"], ["compact"]):
        code, out, err = cpvae(*command, "run")
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "t is not what run was fitted to: column b changed" in err
    assert "column b changed" in cpvae(*fit, "--resume")[2]
    assert [file.read_bytes() for file in sorted((tmp_path / "run").iterdir())] == before
    assert "sha256_test" in RunFolder("run").read_info()["data"]
    assert cpvae("evaluate", "run", "t.csv", "--samples", 1)[0] == 0

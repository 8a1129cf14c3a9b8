"""The command line and data as people have it: what is told, what is drawn, what is left out."""

import shutil
import warnings

import matplotlib
import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from cpvae import CPVAE
from cpvae.report.figures import codes_map, image_grid
from cpvae.report.lettering import drawable

pytestmark = pytest.mark.usefixtures("without_shape_checks")

RNG = np.random.default_rng(0)
FIT = ("--components", 2, "--max-epochs", 1, "--accelerator", "cpu")


@pytest.fixture
def image(tmp_path):
    """Saves a random image of a shape in a folder of images."""

    def save(name, shape=(6, 6)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(256, size=shape, dtype=np.uint8)).save(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def undrawn(monkeypatch):
    """Fits and reports without their pictures, which take most of the time, but for a small one."""

    def write(folder, splits):
        (folder.path / "figures").mkdir()
        file = folder.path / "figures" / "components.png"
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(file)
        return {"components": file}

    for place in ("cpvae.cli.run", "cpvae.report.page"):
        monkeypatch.setattr(f"{place}.write_figures", write)
    monkeypatch.setattr("cpvae.report.page._figures", lambda *_: {})


def test_what_is_not_plain_is_told_once(cpvae, undrawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "\n".join(f"{i};{w:.2f}".replace(".", ",") for i, w in enumerate(RNG.normal(size=40)))
    file = tmp_path / "my [old] data.csv"
    file.write_text(f"Report 7;\n;w\n{rows}\n")
    code, _, err = cpvae("fit", file.name, *FIT)
    assert code == 0, err
    told = [line for line in err.splitlines() if line.startswith("cpvae: note: ")]
    said = ("'Report 7', left out", "column w: '", "is the index of the rows")
    assert all(words in line for words, line in zip(said, told, strict=True))
    assert "examples of shape 1." in err
    assert "my [old] data: 32 training" in err.replace("\n", " ")
    commands = [line for line in err.splitlines() if line.startswith("  cpvae ")]
    assert commands[-4:] == [
        "  cpvae describe 'runs/my [old] data'",
        "  cpvae evaluate 'runs/my [old] data'",
        "  cpvae report 'runs/my [old] data'",
        "  cpvae generate 'runs/my [old] data' --component 0",
    ]
    assert "cpvae: note" not in cpvae("evaluate", "runs/my [old] data", "--samples", 2)[2]
    assert "column w: '" in cpvae("assign", "runs/my [old] data", file)[2]
    new = pandas.read_csv(tmp_path / f"{file.stem}-assigned.csv")
    assert len(new) == 40
    assert f"{file.stem}-assigned.csv is there already" in cpvae(
        "assign", "runs/my [old] data", file
    )[2].replace("\n", " ")
    shutil.copy(file, other := tmp_path / "other.csv")
    assert "-> other-assigned.csv" in cpvae("assign", "runs/my [old] data", other)[1]
    assert "-> other-imputed.csv" in cpvae("impute", "runs/my [old] data", other)[1]


def test_names_that_mean_something_elsewhere(cpvae, tmp_path):
    file, run = tmp_path / "t.csv", tmp_path / "run"
    frame = pandas.DataFrame(RNG.normal(size=(60, 2)), columns=["component", "component_"])
    frame["[red]$a$"] = np.array(["$", "$$", "[/]"])[np.arange(60) % 3]
    frame["\u9ad8\u3055"] = np.arange(60) % 7 + 0.5
    frame.to_csv(file, index=False)
    code, _, err = cpvae("fit", file, *FIT, "--out", run)
    assert code == 0, err
    assert "[red]$a$" in err
    assert "Glyph" not in err
    assert cpvae("generate", run, "-n", 9, "--out", tmp_path / "new.csv")[0] == 0
    new = pandas.read_csv(tmp_path / "new.csv")
    assert list(new) == [*frame, "component__"]
    assert set(new["[red]$a$"]) <= {"$", "$$", "[/]"}
    assert set(new["component__"]) <= {0, 1}


def test_letters_that_no_font_has_give_way_to_the_place():
    names, how = drawable(["width", "\U000f0000", "$x$", "a name of many letters"])
    assert names == ["width", "column 2", "$x$", "a name of many le\N{HORIZONTAL ELLIPSIS}"]
    figure = matplotlib.figure.Figure()
    figure.subplots().set_xticks(range(4), names, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


def test_zeros_and_ones_are_drawn(cpvae, undrawn, tmp_path):
    file, run = tmp_path / "t.csv", tmp_path / "run"
    frame = pandas.DataFrame(RNG.integers(2, size=(80, 3)), columns=list("abc"))
    frame.to_csv(file, index=False)
    assert cpvae("fit", file, *FIT, "--out", run)[0] == 0
    assert cpvae("generate", run, "-n", 200, "--out", tmp_path / "new.csv")[0] == 0
    new = pandas.read_csv(tmp_path / "new.csv")[list(frame)]
    assert new.isin([0, 1]).all(axis=None)
    assert new.std().between(0.4, 0.6).all()
    drawn, _ = CPVAE.load(run).sample(200)
    assert list(drawn) == list(frame)
    assert set(np.unique(drawn)) == {0, 1}


def test_a_run_of_python_is_reported_on_data_that_is_named(cpvae, undrawn, tmp_path):
    frame = pandas.DataFrame(RNG.normal(size=(60, 2)), columns=["h", "w"])
    run = tmp_path / "a run"
    CPVAE(3, model="cpvae", max_epochs=1, accelerator="cpu").fit(frame).save(run)
    for command in ("report", "compact", "evaluate"):
        code, _, err = cpvae(command, run)
        assert code == 2
        assert f"add DATA, as in `cpvae report '{run}' table.csv`" in err
    frame[["w", "h"]].to_csv(tmp_path / "t.csv", index=False)
    assert cpvae("report", run, tmp_path / "t.csv")[0] == 0
    page = (run / "report.html").read_text()
    assert "Means over 60 test examples" in page
    assert not (run / "evaluation.json").exists()  # which is of the run's own data
    assert cpvae("compact", run, tmp_path / "t.csv")[0] == 0
    assert CPVAE.load(tmp_path / "a run-compact").predict(frame).shape == (60,)


def test_pictures_of_runs_are_no_data(cpvae, undrawn, image, tmp_path, monkeypatch):
    for i in range(20):
        image(f"photos/{i}.png")
    monkeypatch.chdir(tmp_path / "photos")
    for _ in range(2):  # beside the first run
        assert cpvae("fit", ".", *FIT)[0] == 0
    assert cpvae("generate", "runs/photos-2", "-n", 4)[0] == 0
    assert (tmp_path / "photos" / "photos-2-generated.png").is_file()
    assert cpvae("evaluate", "runs/photos", "--samples", 2)[0] == 0
    code, out, _ = cpvae("assign", "runs/photos", ".")
    assert code == 0
    assert "20 examples assigned -> photos-assigned.csv" in out


def test_grey_and_colour_images_go_together(cpvae, undrawn, image, tmp_path):
    for name, shape in (("grey", (6, 6)), ("colour", (6, 6, 3))):
        for i in range(20):
            image(f"{name}/{i}.png", shape)
        assert cpvae("fit", tmp_path / name, *FIT, "--out", tmp_path / f"run-{name}")[0] == 0
    saved = tmp_path / "saved.png"
    Image.open(tmp_path / "grey" / "0.png").convert("RGB").save(saved)
    for run, data in (("colour", "grey"), ("grey", "colour"), ("grey", saved)):
        out = ("--out", tmp_path / "a.csv", "--overwrite")
        code, out, err = cpvae("assign", tmp_path / f"run-{run}", tmp_path / data, *out)
        assert code == 0, err
    shutil.copy(saved, tmp_path / "grey" / "0.png")
    assert cpvae("evaluate", tmp_path / "run-grey", tmp_path / "grey", "--samples", 2)[0] == 0


def test_arrays_of_images_with_channels_of_all_kinds(cpvae, undrawn, tmp_path):
    x, run = RNG.random((20, 7, 6, 5), dtype=np.float32), tmp_path / "run"
    np.save(tmp_path / "x.npy", x)
    assert cpvae("fit", tmp_path / "x.npy", *FIT, "--out", run)[0] == 0
    for out in ("new.npz", "new.png"):
        assert cpvae("generate", run, "-n", 3, "--out", tmp_path / out)[0] == 0
    assert np.load(tmp_path / "new.npz")["x"].shape == (3, 7, 6, 5)
    assert CPVAE.load(run).sample(3)[0].shape == (3, 7, 6, 5)
    for channels, shown in ((1, 1), (2, 1), (3, 3), (4, 4), (5, 1)):
        assert image_grid(RNG.random((3, channels, 7, 6)), 2).shape[-1] == shown


def test_a_table_of_one_column_has_a_map():
    x = RNG.normal(size=(60, 1)).astype(np.float32)
    model = CPVAE(2, max_epochs=1, accelerator="cpu").fit(x).model_
    assert codes_map(model, torch.from_numpy(x)).axes

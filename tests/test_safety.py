"""Nothing of the user's is lost: by whatever is written, and whenever it is killed."""

import json
import os
import shutil
import signal
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import jaxtyping
import numpy as np
import pandas
import pytest

from cpvae import CPVAE, hub
from cpvae.checkpoint import RunFolder
from cpvae.cli.main import app
from cpvae.cli.write import new_folder
from cpvae.lock import Lock
from cpvae.staging import staged

pytestmark = pytest.mark.usefixtures("without_shape_checks")


def contents(folder):
    """Every file of a folder with what is in it."""
    return {
        f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table, and a run that was fitted to it."""
    place = tmp_path_factory.mktemp("made")
    x = np.random.default_rng(0).normal(size=(60, 2))
    pandas.DataFrame(x, columns=["a", "b"]).to_csv(place / "t.csv", index=False)
    fit = ["fit", "t.csv", "-k", "3", "--model", "cpvae", "--max-epochs", "2", "--out", "run"]
    fit = [str(place / word) if word in ("t.csv", "run") else word for word in fit]
    jaxtyping.config.update("jaxtyping_disable", True)
    app(fit, standalone_mode=False)
    return place


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The same as a current folder that may be changed."""
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    info = tmp_path / "place" / "run" / "run.json"
    info.write_text(info.read_text().replace(str(made), str(tmp_path / "place")))
    return tmp_path / "place"


THEIRS = {"logs/mine.log": "a", "names.json": "b", "model.safetensors": "c", "report.html": "d"}


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


FIT = ("fit", "t.csv", "-k", 2, "--model", "cpvae", "--max-epochs", 1)
WRITERS = [FIT, (*FIT, "--overwrite"), (*FIT, "--resume"), ("compact", "run", "--overwrite")]
WRITERS += [("compact", "run"), ("share", "run"), ("share", "run", "--overwrite")]


@pytest.mark.parametrize("arguments", WRITERS, ids=lambda a: f"{a[0]}-{a[-1]}")
@pytest.mark.parametrize("kind", ["of another kind", "with another's run.json", "a file"])
def test_a_folder_that_is_not_ours_is_refused_in_one_line(cpvae, place, arguments, kind):
    folder = place / "theirs"
    if kind == "a file":
        folder.write_text("mine")
    else:
        put(folder, THEIRS)
    if kind == "with another's run.json":
        put(folder, {"run.json": '{"format": "of something else"}'})
    before = contents(place)
    code, out, err = cpvae(*arguments, "--out", folder)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert {
        "of another kind": "is not empty and holds no run, but logs and more",
        "with another's run.json": "run.json is damaged",
        "a file": "is a file: name a folder",
    }[kind] in err
    assert contents(place) == before


@pytest.mark.parametrize("command", [FIT, ("compact", "run"), ("share", "run"), ("report", "run")])
def test_an_empty_out_is_not_the_current_folder(cpvae, place, command):
    before = contents(place)
    code, _, err = cpvae(*command, "--out", "")
    assert (code, err.count("\n")) == (2, 1)
    assert "is empty: name a" in err
    assert contents(place) == before


OURS = (
    "figures/mine.png",
    "logs/mine.log",
    "logs/csv/mine.csv",
    "mine.txt",
    "restarts/seed-0/mine",
)


def test_overwriting_a_run_removes_its_files_and_nothing_else(cpvae, place):
    put(place / "run", dict.fromkeys(OURS, "theirs"))
    put(place / "run", {"names.json": '{"0": "old"}', "logs/csv/metrics.csv": "old"})
    put(place / "run", {"restarts/seed-1/notes.txt": "theirs", "onnx/encoder.onnx": "old"})
    put(place / "run", {"report.html": "old", "evaluation.json": "old"})
    assert cpvae(*FIT, "--overwrite", "--out", "run")[0] == 0
    found = contents(place / "run")
    figures = {f for f in found if f.startswith("figures/")} - {"figures/mine.png"}
    assert len(figures) == 5
    ours = {"run.json", "model.safetensors", "history.jsonl", "training.safetensors"}
    assert set(found) - figures == {*OURS, *ours, "restarts/seed-1/notes.txt"}
    assert {found[name] for name in OURS} == {b"theirs"}


@pytest.mark.parametrize("command", ["compact", "share"])
def test_another_run_is_replaced_only_if_asked_and_what_lies_beside_it_stays(cpvae, place, command):
    shutil.copytree(place / "run", place / "other")
    put(place / "other", dict.fromkeys(OURS, "theirs"))
    put(place / "other", {".git/refs/HEAD": "theirs"})
    (place / "other" / ".git" / "empty").mkdir()
    before = contents(place / "other")
    code, _, err = cpvae(command, "run", "--out", "other")
    assert (code, err.count("\n")) == (2, 1)
    assert "already holds a run: add --overwrite" in err
    assert contents(place / "other") == before
    for _ in range(2):
        assert cpvae(command, "run", "--out", "other", "--overwrite")[0] == 0
        found = contents(place / "other")
        assert {name for name, content in found.items() if content == b"theirs"} == {
            *OURS,
            ".git/refs/HEAD",
        }
        assert (place / "other" / ".git" / "empty").is_dir()
        assert "training.safetensors" not in found
        assert ("README.md" in found) == (command == "share")
    assert sorted(f.name for f in place.iterdir()) == ["other", "run", "t.csv"]


def test_a_readme_of_the_users_is_not_written_over_by_sharing(cpvae, place):
    shutil.copytree(place / "run", place / "other")
    put(place / "other", {"README.md": "mine"})
    code, _, err = cpvae("share", "run", "--out", "other", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "has a README.md of another kind" in err
    with pytest.raises(ValueError, match="already holds a run"):
        hub.save_pretrained("run", shutil.copytree("run", "again"))


def killed_at(moment, make):
    """Whether a copy of this process that calls ``make`` was killed, at so many file operations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # there are threads, which it needs not
        child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = iter(range(moment))

    def dying(function):
        def called(*given, **options):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **options)

        return called

    for name in ("rename", "replace", "link", "unlink", "rmdir", "mkdir", "fsync"):
        setattr(os, name, dying(getattr(os, name)))
    make()
    os._exit(0)


def test_a_run_that_is_replaced_is_whole_whenever_that_is_killed(place):
    """The old one or the new one, what lay beside it stays, and the next writer cleans up."""
    run, before = place / "run", place / "before"
    put(run, {"mine.txt": "theirs", "logs/mine.txt": "theirs"})
    shutil.rmtree(run / "figures")
    shutil.move(run, before)
    old, info = contents(before), RunFolder(before).read_info()
    weights = RunFolder(before).read_weights()

    def replace():
        with staged(run, overwrite=True) as folder:
            folder.write_info({**info, "status": "new"})
            folder.write_model(weights)
            folder.write_history([])

    seen, moment, killed = [], 0, True
    while killed:
        shutil.copytree(before, run)
        killed = killed_at(moment, replace)
        seen.append(RunFolder(run).read_info()["status"])  # who looks for the run finds one
        RunFolder(run).read_model()
        found = contents(run)
        if seen[-1] == "finished":
            assert {k: v for k, v in found.items() if k != ".cpvae-lock"} == old
        replace()
        found = contents(run)
        new = {"run.json", "model.safetensors", "history.jsonl"}
        assert set(found) == {*new, "mine.txt", "logs/mine.txt"}
        assert sorted(f.name for f in place.iterdir()) == ["before", "run", "t.csv"]
        shutil.rmtree(run)
        moment += 1
    first = seen.index("new")
    assert set(seen[:first]) == {"finished"}
    assert set(seen[first:]) == {"new"}
    assert moment - first > 10  # the files of the old run are removed one by one


def test_compact_in_place(cpvae, place):
    put(place / "run", {"mine.txt": "theirs"})
    assert cpvae("compact", "run", "--out", "run", "--overwrite")[0] == 0
    assert "compacted" in RunFolder("run").read_info()
    assert (place / "run" / "mine.txt").read_text() == "theirs"
    assert sorted(f.name for f in place.iterdir()) == ["run", "t.csv"]


def test_a_run_goes_into_an_empty_folder_that_stays_the_same_one(place):
    model = CPVAE.load("run")
    (place / "empty").mkdir()
    before = os.stat("empty").st_ino
    os.chdir("empty")
    model.save(".")
    assert os.stat(".").st_ino == os.stat(place / "empty").st_ino == before
    assert CPVAE.load(".").model_.n_components == 3
    with pytest.raises(ValueError, match="already holds a run"):
        model.save(".")
    with pytest.raises(KeyError), staged(place / "other"):
        raise KeyError
    assert sorted(f.name for f in place.iterdir()) == ["empty", "run", "t.csv"]


OUTPUTS = [
    ("generate", "run", "--out", "t.csv"),
    ("assign", "run", "t.csv", "--out", "t.csv"),
    ("assign", "run", "run/../t.csv", "--out", "link.csv"),
    ("report", "run", "--out", "t.csv"),
    ("report", "run", "--out", "run/run.json"),
]


@pytest.mark.parametrize("arguments", OUTPUTS)
def test_what_is_read_is_not_written_over_even_if_asked(cpvae, place, arguments):
    (place / "link.csv").symlink_to(place / "t.csv")
    before = contents(place)
    for more in ((), ("--overwrite",)):
        code, out, err = cpvae(*arguments, *more)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert "is what is read" in err
    assert contents(place) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "run", "--out", "mine.csv"),
        ("assign", "run", "t.csv", "--out", "mine.csv"),
        ("report", "run", "--out", "mine.csv"),
    ],
)
def test_an_output_replaces_a_file_only_if_asked(cpvae, place, arguments):
    put(place, {"mine.csv": "mine"})
    code, out, err = cpvae(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "mine.csv is there already: add --overwrite, or choose another --out" in err
    assert (place / "mine.csv").read_text() == "mine"
    assert cpvae(*arguments, "--overwrite")[0] == 0
    assert (place / "mine.csv").read_text() != "mine"


def test_a_folder_of_exports_is_replaced_only_if_asked(cpvae, place, monkeypatch):
    put(place / "onnx", {"prior.json": "mine"})
    code, _, err = cpvae("export", "run", "--out", "onnx")
    assert (code, err.count("\n")) == (2, 1), err
    assert "prior.json is there already" in err
    assert contents(place / "onnx") == {"prior.json": b"mine"}


@pytest.mark.parametrize("how", [("compact", "--out", "small"), ("share", "--out", "small")])
def test_a_model_without_the_state_of_its_training_is_not_resumed_over(cpvae, place, how):
    assert cpvae(how[0], "run", *how[1:])[0] == 0
    before = contents(place / "small")
    code, _, err = cpvae("fit", "t.csv", "--out", "small", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "without the state of its training" in err
    assert contents(place / "small") == before


# --- one writer ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (*FIT, "--out", "run", "--overwrite"),
        ("fit", "t.csv", "--out", "run", "--resume"),
        ("compact", "run", "--out", "run", "--overwrite"),
        ("share", "run2", "--out", "run", "--overwrite"),
        ("report", "run"),
    ],
)
def test_a_second_writer_is_refused_in_one_line(cpvae, place, arguments):
    shutil.copytree("run", "run2")
    with Lock(place / "run"):
        before = contents(place)
        code, out, err = cpvae(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert f"is being written by process {os.getpid()} on" in err
        assert contents(place) == before


def test_figures_of_a_run_that_is_written_are_printed_and_not_kept(cpvae, place):
    with Lock(place / "run"):
        code, out, err = cpvae("evaluate", "run", "--samples", 2, "--json")
    assert code == 0
    assert json.loads(out)["n_components"] == 3
    assert "not kept" in err
    assert not (place / "run" / "evaluation.json").exists()


def test_a_free_name_is_given_to_one_of_those_who_ask_at_once(tmp_path):
    usual, together, given = tmp_path / "runs" / "t", threading.Barrier(4), []

    def ask(_):
        together.wait()
        with new_folder(None, usual, False, "") as folder:
            folder.write_info({})
            given.append(folder.path.name)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    assert sorted(given) == ["t", "t-2", "t-3", "t-4"]
    with pytest.raises(KeyError), new_folder(None, usual, False, ""):
        raise KeyError
    assert len(list(usual.parent.iterdir())) == 4  # nothing came of the fifth


def test_what_was_left_aside_is_removed_by_the_next_writer_also_of_restarts(place):
    name = f".cpvae-part-{'0' * 8}-{'0' * 8}-1-0.safetensors"
    left = [name, f"restarts/seed-0/{name}", f"figures/{name}", ".run.json.123"]
    put(place / "run", dict.fromkeys(left, "half"))
    for file in left[:3]:
        os.utime(place / "run" / file, (0, 0))
    with RunFolder("run").writing():
        pass
    assert not set(left) & set(contents(place / "run"))

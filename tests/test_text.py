"""Names from data are shown as they are, wherever that is, and none is taken for a style."""

import io
import json
import re

import numpy as np
import pandas
import pytest
from rich.console import Console

from cpvae import hub
from cpvae.checkpoint import RunFolder
from cpvae.text import in_markdown, in_markup, printable

NAMES = [
    "weight [kg]",
    "rate [/h]",
    "[bold]",
    "[link=x]y",
    "a\\",
    "a\\[b]",
    ":smile:",
    "{x}",
    "$a$",
]
CONTROLS = {"\x1b[31mred": "\\x1b[31mred", "two\nlines": "two\\nlines", "\u202eabc": "\\u202eabc"}
CONTROLS |= {"caf\udce9": "caf\\udce9", "\x00": "\\x00", "zero\u200djoined": "zero\u200djoined"}


def test_control_characters_are_written_out():
    for text, shown in CONTROLS.items():
        assert printable(text) == shown
    for text in (*NAMES, "高さ", "naïve £", 3):
        assert printable(text) == str(text)


def test_rich_shows_every_name_as_it_is():
    for name in NAMES:
        told = io.StringIO()
        Console(file=told, emoji=False).print(f"[bold]{in_markup(name)}[/]|", soft_wrap=True)
        assert told.getvalue() == f"{name}|\n"


def test_punctuation_means_nothing_in_markdown():
    assert in_markdown("a_b [x] `c` <i>") == "a\\_b \\[x\\] \\`c\\` \\<i\\>"
    assert in_markdown("runs-2 (new)") == "runs-2 (new)"


@pytest.mark.usefixtures("without_shape_checks", "without_pictures")
def test_a_run_of_names_in_brackets_goes_all_the_way(cpvae, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(60, len(NAMES))), columns=NAMES)
    frame["\x1b[31m"] = np.where(rng.random(60) < 0.5, "[red]", "[/]")
    file, run = "t [b]`_.csv", "run [i]"
    frame.to_csv(file, index=False)
    code, _, err = cpvae("fit", file, "-k", 2, "--max-epochs", 1, "--out", run)
    assert code == 0, err
    assert "t [b]`_: 48 training" in err
    assert "\x1b" not in re.sub(r"\x1b\[[\d;]*[mKA]|\x1b\[\?25[lh]", "", err)
    for name in (*NAMES[:8], "categorical  \\x1b[31m"):
        assert name in err, name
    assert "run folder     'run [i]'" in err
    info = RunFolder(run).read_info()
    assert (info["status"], info["schema"]["columns"]) == ("finished", list(frame))
    assert "run [i], 6 examples" in cpvae("evaluate", run, "--samples", 1)[1]
    assert cpvae("generate", run, "--out", "new.csv")[0] == 0
    assert list(pandas.read_csv("new.csv"))[:-1] == list(frame)
    hub.save_pretrained(run, "shared`*")
    card = (tmp_path / "shared`*" / "README.md").read_text()
    assert "\n# run \\[i\\]\n" in card
    assert "examples of `t [b]'_`" in card
    assert "from_pretrained(" + json.dumps("shared`*") + ")" in card

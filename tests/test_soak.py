"""Short forms of the soaks of ``tests/soak``, which `make soak` runs at length."""

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("without_shape_checks")


@pytest.fixture
def soaks(monkeypatch):
    """The soaks by name; this process has imported what they need, and draws no figures."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "tests" / "soak"), *sys.path])
    monkeypatch.setattr(
        "cpvae.cli.run.write_figures",
        lambda folder, _: {"components": folder.path / "figures" / "components.png"},
    )
    importlib.import_module("forks").prepare()  # once, and not in each copy
    return importlib.import_module


def test_what_is_killed_is_not_lost(soaks, tmp_path):
    kills = soaks("kills").Kills(tmp_path, ("fit", "generate", "share"))
    for number, name in enumerate(("fit", "fit", "generate", "share")):
        found = kills.attempt(number, name)
        assert "fault" not in found, found


def test_what_is_changed_is_refused_in_one_line(soaks, tmp_path):
    mutations = soaks("mutations").Mutations(tmp_path)
    outcomes = set()
    for number in range(20):
        found = mutations.attempt(10_000 + number)
        assert "fault" not in found, found
        outcomes.add(found["outcome"])
    assert "refused" in outcomes


def test_who_races_is_refused_or_takes_turns(soaks, tmp_path):
    races = soaks("races").Races(tmp_path, ("fit and fit",))
    found = races.attempt(0)
    assert "fault" not in found, found

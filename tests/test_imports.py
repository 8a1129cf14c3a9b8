"""Imports point one way, and the package's door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import cpvae

SOURCE = Path(cpvae.__file__).parent
ORDER = [
    "extras",
    "fused",
    "functional",
    "likelihoods",
    "nets",
    "priors",
    "models",
    "objective",
    "augment",
    "adam",
    "engine",
    "checkpoint",
    "evaluate",
    "mixture",
    "pieces",
    "communities",
    "start",
    "compact",
    "export",
    "classifier",
    "generation",
    "data",
    "figures",
    "explorer",
    "app",
    "recipe",
    "device",
    "train",
    "loggers",
    "restarts",
    "report",
    "hub",
    "defaults",
    "estimator",
    "progress",
    "run",
    "cli",
]


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("cpvae"):
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
    return names & set(ORDER)


def test_every_module_has_a_place_and_imports_only_what_comes_before_it():
    for path in SOURCE.iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            place = ORDER.index(path.stem)
            late = {name for name in imported(path) if ORDER.index(name) >= place}
            assert not late, f"{path.stem} imports {late}"


def test_evaluation_and_reports_do_not_import_training():
    for name in ("evaluate", "generation", "report", "figures", "checkpoint"):
        assert "train" not in imported(SOURCE / f"{name}.py")


def test_the_package_and_the_help_text_import_no_torch():
    code = "import sys, cpvae, cpvae.cli.main; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    for name in cpvae.__all__:
        assert getattr(cpvae, name) is not None

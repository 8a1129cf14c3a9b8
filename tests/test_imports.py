"""Imports point one way, and the package's door is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cpvae

SOURCE = Path(cpvae.__file__).parent
# From the ground up: a file imports only from what stands before it, of its own folder or another
LAYOUT = {
    "": ("extras", "choices", "rollback", "streams", "text", "lock", "apart", "output"),
    "data": (
        "checks",
        "limits",
        "dates",
        "packed",
        "levels",
        "arrays",
        "columns",
        "ids",
        "numerals",
        "cells",
        "kinds",
        "frames",
        "units",
        "order",
        "schema",
        "encoding",
        "conditions",
        "splits",
        "gaps",
        "fingerprint",
        "labels",
        "augment",
        "fetch",
        "images",
        "dialect",
        "tables",
        "shards",
        "files",
        "objects",
        "survey",
        "store",
        "mnist",
        "omniglot",
        "source",
        "described",
    ),
    "clustering": ("communities", "gaussians", "mixture", "overlap"),
    "models": (
        "precision",
        "fused",
        "functional",
        "heads",
        "numbers",
        "likelihoods",
        "networks",
        "priors",
        "base",
        "vae",
        "cpvae",
        "pairs",
        "factors",
        "missing",
        "responsibilities",
        "residual",
        "hierarchical",
        "build",
        "truncated",
        "ranges",
        "resampling",
        "imputation",
        "inference",
        "reorder",
        "compact",
        "onnx",
    ),
    "evaluation": (
        "metrics",
        "pooled",
        "classifier",
        "generation",
        "moments",
        "profiles",
        "densities",
        "quality",
        "matching",
    ),
    " checkpoint": (
        "versions",
        "stored",
        "old_formats",
        "tensors",
        "checkpoint",
        "staging",
        "names",
    ),
    " bulk": ("bulk", "on_ray"),
    "training": (
        "device",
        "processes",
        "settings",
        "recipe",
        "diagnosis",
        "adam",
        "batches",
        "objective",
        "initialise",
        "start",
        "kernels",
        "engine",
        "rows",
        "state",
        "loop",
        "refine",
        "defaults",
        "restarts",
        "fit",
        "choose",
    ),
    " hub": ("hub",),
    "report": (
        "progress",
        "lettering",
        "words",
        "panels",
        "figures",
        "segments",
        "loggers",
        "page",
        "explorer",
        "guard",
        "app",
    ),
    " estimator": ("reading", "drawing", "segments", "rows", "estimator"),
    "experiments": (
        "cells",
        "baselines",
        "accuracy",
        "pictures",
        "table1",
        "toy",
        "tables",
        "real",
        "density",
        "intervals",
        "draws",
        "commands",
    ),
    "cli": (
        "read",
        "write",
        "quality",
        "carry",
        "run",
        "fit",
        "describe",
        "many",
        "choose",
        "use",
        "rows",
        "impute",
        "share",
        "main",
    ),
    " main": ("__main__",),
}
ORDER = [
    f"cpvae.{folder}.{file}" if folder and folder[0] != " " else f"cpvae.{file}"
    for folder, files in LAYOUT.items()
    for file in files
]
FILES = sorted(path for path in SOURCE.rglob("*.py") if path.stem != "__init__")


def name_of(path: Path) -> str:
    return ".".join(["cpvae", *path.relative_to(SOURCE).with_suffix("").parts])


def homes(module: str) -> set[str]:
    """The files that an imported module stands for: its own, or those that a package hands on."""
    if module in ORDER:
        return {module}
    package = SOURCE.joinpath(*module.split(".")[1:], "__init__.py")
    return imported(package) if module != "cpvae" and package.is_file() else set()


def imported(path: Path) -> set[str]:
    """Files of this package that a file imports, in both forms, also where it does so lazily."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "cpvae":
                    found |= homes(alias.name)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if (node.module or "").split(".")[0] == "cpvae":
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found |= homes(whole) or homes(str(node.module))
    return found


def test_every_file_has_a_place():
    assert sorted(ORDER) == sorted(map(name_of, FILES))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_what_comes_before_it(path):
    place = ORDER.index(name_of(path))
    late = {name for name in imported(path) if ORDER.index(name) >= place}
    assert not late, f"{name_of(path)} imports {sorted(late)}"


def test_both_forms_of_import_are_seen_lazy_ones_too(tmp_path):
    file = tmp_path / "example.py"
    file.write_text(
        "import cpvae.models.vae\n"
        "from cpvae.training import fit, loop\n"
        "def late():\n"
        "    from cpvae.data import load\n"
    )
    found = imported(file)
    assert {"cpvae.models.vae", "cpvae.training.fit", "cpvae.training.loop"} <= found
    assert "cpvae.data.source" in found


def test_the_package_and_the_help_text_import_nothing_heavy():
    heavy = "{'torch', 'sklearn', 'numpy', 'pyarrow'}"
    code = f"import sys, cpvae, cpvae.cli.main; sys.exit(len({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_there():
    for name in cpvae.__all__:
        assert getattr(cpvae, name) is not None

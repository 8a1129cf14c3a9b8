"""A run in the layout of the Hugging Face Hub: weights, ``config.json``, a card with figures.

What is shared is a run folder itself, without the state of the optimisation and with the name of
the data in place of where it lay. So every command, `RunFolder` and `CPVAE.load` read it as it is.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from cpvae.checkpoint import EVALUATION, HISTORY, NAMES, RunFolder
from cpvae.evaluation.metrics import figures_of
from cpvae.extras import need
from cpvae.models.base import Model
from cpvae.models.build import MODELS

CONFIG, CARD, PICTURE = "config.json", "README.md", "components.png"


def save_pretrained(run: str | Path, folder: str | Path) -> Path:
    """Writes a run as a folder that the Hub takes, and that every command here takes.

    Arguments:
        run: the run folder that `fit` wrote, or `CPVAE.save`
        folder: where to write to; made if it is not there

    Returns:
        The folder.

    Raises:
        ValueError: not a run folder, one without weights, or ``folder`` is the run itself.
    """
    return _write(Path(run), Path(folder), Path(folder).name)


def _write(run: Path, folder: Path, name: str) -> Path:
    """The shared folder; its card reads it back by that name."""
    if folder.resolve() == run.resolve():
        raise ValueError(f"{folder} is the run itself: write to another folder.")
    source = RunFolder(run)
    info = source.read_info()
    model = source.read_model()  # what cannot be read must not be shared
    if info.get("data"):
        info["data"]["source"] = Path(info["data"]["source"]).stem
    shared = RunFolder(folder)
    shared.clear()
    shared.write_info(info)
    shared.write_model(model.state_dict())
    picture = run / "figures" / PICTURE
    for file in (run / HISTORY, run / NAMES, run / EVALUATION, picture):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    features = source.read_schema().features()
    config = {"library_name": "cpvae", "model_type": info["model"]["model"], **info["model"]}
    config |= {
        key: features[key] for key in ("shape", "kinds", "n_levels", "limits") if key in features
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / CARD).write_text(_card(source, name, info, picture.is_file()), encoding="utf-8")
    return folder


def from_pretrained(name: str | Path, revision: str | None = None) -> Model:
    """The model of a shared folder on this machine, or of a repository on the Hub.

    Arguments:
        name: a folder that `save_pretrained` wrote, or a repository, ``user/name``
        revision: branch, tag or commit of the repository

    Raises:
        ValueError: a folder without a run, or files that are damaged.
        ModuleNotFoundError: a repository is asked for, and huggingface_hub is not installed.
    """
    return RunFolder(download(name, revision)).read_model()


def download(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a shared run: ``name`` itself if it is one, else fetched from the Hub."""
    if Path(name).is_dir():
        return Path(name)
    hub = _hub()
    return Path(hub.snapshot_download(str(name), revision=revision))


def push_to_hub(run: str | Path, name: str, private: bool = False) -> str:
    """Uploads a run as a repository of the Hub, made if it is not there; returns its address.

    Who uploads is known from ``hf auth login`` or the variable ``HF_TOKEN``.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        ValueError: not a run folder, or one without weights.
    """
    import tempfile

    api = _hub().HfApi()
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(run), Path(folder) / "run", name)
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=Path(folder) / "run", commit_message="Upload a cpvae run"
        )
    return str(address)


def _card(run: RunFolder, name: str, info: dict[str, Any], pictured: bool) -> str:
    from jinja2 import Environment, PackageLoader

    result = run.read_evaluation() or {}
    has_categories = MODELS[info["model"]["model"]].model.has_categories
    environment = Environment(
        loader=PackageLoader("cpvae", ""),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("card.md.j2").render(
        run=run.path.resolve().name,
        name=name,
        info=info,
        has_categories=has_categories,
        shape=run.read_schema().shape,
        picture=PICTURE if pictured else None,
        rows=figures_of(result),
        result=result,
    )


def _hub() -> Any:
    need("huggingface_hub", "hub")
    import huggingface_hub

    return huggingface_hub

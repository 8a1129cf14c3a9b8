"""A run in the layout of the Hugging Face Hub: weights, ``config.json``, a card with figures.

What is shared is a run folder itself, without the state of the optimisation and with the name of
the data in place of where it lay. So every command, `RunFolder` and `CPVAE.load` read it as it is.
"""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from cpvae import output
from cpvae.checkpoint import EVALUATION, HISTORY, MODEL, NAMES, RUN, RunFolder
from cpvae.evaluation.metrics import figures_of
from cpvae.extras import need
from cpvae.models.base import Model
from cpvae.models.build import MODELS
from cpvae.staging import staged
from cpvae.text import in_markdown, printable

CONFIG, CARD, PICTURE = "config.json", "README.md", "components.png"
LIBRARY = "cpvae"
SHARED = (
    RUN,
    MODEL,
    HISTORY,
    NAMES,
    EVALUATION,
    PICTURE,
    CONFIG,
    CARD,
)  # and nothing else is fetched


def save_pretrained(run: str | Path, folder: str | Path, overwrite: bool = False) -> Path:
    """Writes a run as a folder that the Hub takes, and that every command here takes.

    Arguments:
        run: the run folder that `fit` wrote, or `CPVAE.save`
        folder: where to write to; made if it is not there
        overwrite: whether a run that is there is replaced

    Returns:
        The folder.

    Raises:
        ValueError: not a run folder, one without weights, or ``folder`` is the run itself, holds
            another run, or holds anything else.
    """
    return _write(Path(run), Path(folder), Path(folder).name, overwrite)


def _write(run: Path, folder: Path, name: str, overwrite: bool = False) -> Path:
    """The shared folder; its card reads it back by that name."""
    if folder.resolve() == run.resolve():
        raise ValueError(f"{folder} is the run itself: write to another folder.")
    _check_names(folder)
    source = RunFolder(run)
    info = source.read_info()
    model = source.read_model()  # what cannot be read must not be shared
    if info.get("data"):
        info["data"]["source"] = Path(info["data"]["source"]).stem
    picture = run / "figures" / PICTURE
    features = source.read_schema().features()
    config = {"library_name": LIBRARY, "model_type": info["model"]["model"], **info["model"]}
    of_data = ("shape", "kinds", "n_levels", "limits")
    config |= {key: features[key] for key in of_data if key in features}
    how = "add --overwrite (overwrite=True), or choose another folder"
    with staged(folder, overwrite, how, _clear_more) as shared:
        shared.write_info(info)
        shared.write_model(model.state_dict())
        for file in (run / HISTORY, run / NAMES, run / EVALUATION, picture):
            if file.is_file():
                output.write(shared.path / file.name, partial(shutil.copyfile, file))
        output.write_json(shared.path / CONFIG, config)
        output.write_text(shared.path / CARD, _card(source, name, info, picture.is_file()))
    return folder


def _is_shared(folder: Path) -> bool:
    """Whether a folder is one that was written here."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("library_name") == LIBRARY


def _check_names(folder: Path) -> None:
    """Refuses a run folder in which somebody has files of the names that sharing needs."""
    for name in (CONFIG, CARD, PICTURE):
        if (folder / name).exists() and not _is_shared(folder):
            raise ValueError(f"{folder} has a {name} of another kind: write to another folder.")


def _clear_more(folder: Path) -> None:
    """Removes what sharing wrote beside the files of a run."""
    if _is_shared(folder):
        for name in (CARD, PICTURE, CONFIG):
            (folder / name).unlink(missing_ok=True)


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
    return Path(hub.snapshot_download(str(name), revision=revision, allow_patterns=list(SHARED)))


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
        run=in_markdown(run.path.resolve().name),
        name=json.dumps(printable(name), ensure_ascii=False),
        source=printable((info.get("data") or {}).get("source", "")).replace("`", "'"),
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

"""The report: one HTML page with everything in it, made from a run folder and its data."""

import base64
import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from cpvae import output
from cpvae.checkpoint import FIGURES, RESTARTS, RunFolder, best_of
from cpvae.data import Splits, read
from cpvae.data.described import with_described
from cpvae.data.labels import known
from cpvae.evaluation.matching import SURE, calibration
from cpvae.evaluation.metrics import Progress, evaluate, figures_of
from cpvae.evaluation.quality import FEWEST, Line, in_words, quality
from cpvae.models.inference import cluster_probs
from cpvae.names import called, read_names
from cpvae.report import figures
from cpvae.report.segments import segments
from cpvae.report.words import percent
from cpvae.text import printable
from cpvae.training.diagnosis import gain_in_words

ENOUGH = 150  # examples for a picture
# what each epoch must say for the curves
DRAWN = ("seconds", "valid_elbo_nats", "valid_kl_z_nats", "valid_kl_c_nats", "components_used")
MOST_CLASSES = 30  # in a table beside the components


def evaluate_run(
    folder: RunFolder,
    splits: Splits,
    n_samples: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
    keep: bool = True,
) -> dict[str, Any]:
    """Evaluates a run on the test part of data and keeps the result if asked; else as `evaluate`.

    It is to be kept where the data are the run's own.
    """
    model = folder.read_model()
    result = evaluate(
        model, splits.test.tensor(), splits.test.labels, n_samples, seed, progress=progress
    )
    if keep:
        folder.write_evaluation(result)
    return result


def write_figures(folder: RunFolder, splits: Splits) -> dict[str, Path]:
    """Writes the figures that need no evaluation as PNG files; returns where they are."""
    place = folder.path / FIGURES
    place.mkdir(exist_ok=True)
    paths = {}
    for name, figure in _figures(folder, splits).items():
        paths[name] = place / f"{name}.png"
        output.write(paths[name], partial(figure.savefig, dpi=130))
    return paths


def write_report(
    folder: RunFolder,
    splits: Splits,
    out: Path,
    progress: Progress | None = None,
    overwrite: bool = True,
    keep: bool = True,
) -> Path:
    """Writes the page; evaluates on the test data first where that was not done before.

    ``keep`` says whether the figures are, as they are where the data are the run's own.

    Raises:
        ValueError: a run folder that is damaged or has no finished epoch.
        FileExistsError: there is a file, and it is not to be overwritten.
    """
    from jinja2 import Environment, PackageLoader

    info, history = folder.read_info(), folder.read_history()
    _check_reportable(folder, history)
    result = folder.read_evaluation() if keep else None
    result = result or evaluate_run(folder, splits, progress=progress, keep=keep)
    drawn = _figures(folder, splits)
    drawn.pop("components", None)  # the page has them in another form
    if "mutual_information_nats" in result:
        drawn["kl"] = figures.kl_bars(result)
    if "compacted" in info:
        drawn["compacted"] = figures.compacted(
            info["compacted"]["curve"], info["model"]["n_components"]
        )
    environment = Environment(loader=PackageLoader("cpvae.report"), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        name=printable(folder.path.resolve().name),
        data=printable(splits.name),
        info=info,
        epochs=history[-1]["epoch"],
        gain=gain_in_words(best_of(history, info["recipe"]["pretraining_epochs"]) or {}),
        seconds=history[-1]["seconds"],
        rows=figures_of(result),
        n_samples=result["importance_samples"],
        n_test=len(splits.test.x),
        n_labelled=result.get("n_labelled"),
        pictured="test " if len(splits.test.x) >= ENOUGH else "",
        quality=_quality(folder, splits) if keep else [],
        **_contingency(folder, splits),
        **_segments(folder, splits, keep),
        images={name: _embedded(figure) for name, figure in drawn.items()},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(out, page, overwrite)
    return out


def _segments(folder: RunFolder, splits: Splits, own: bool) -> dict[str, Any]:
    """What the page says of the components, of all rows of a table or of images that are shown."""
    model, schema = folder.read_model(), folder.read_schema()
    source, wider = folder.read_info().get("data") or {}, None
    if own and source.get("describe") and splits.rows is None:
        x = torch.from_numpy(read(source["source"], schema=schema).x)
        wider = with_described(x.numpy(), schema, source)
    else:
        x = _pictured(splits) if schema.is_image else _all_of(splits)
    shown = figures.by_share(model.aggregated.numpy()).tolist()
    found = segments(model, x, schema, read_names(folder, model.n_components), shown, wider)
    return {
        "segments": found,
        "shown": shown,
        "n_rows": f"{len(x):,}",
        "is_image": schema.is_image,
        "calibration": _calibration(folder, x),
    }


def _calibration(folder: RunFolder, x: torch.Tensor) -> str:
    """How often certain examples are in the same component in the other restarts, in words."""
    seed = folder.read_info()["recipe"]["seed"]
    restarts = [RunFolder(path) for path in sorted(folder.path.glob(f"{RESTARTS}/seed-*"))]
    others = [each for each in restarts if each.read_info()["recipe"]["seed"] != seed]
    if not others:
        return ""
    of_each = [cluster_probs(each.read_model(), x).numpy() for each in (folder, *others)]
    n_sure, share = calibration(of_each[0], of_each[1:])
    one = len(others) == 1
    fits = (
        "another fit, from another seed" if one else f"{len(others)} other fits, from other seeds"
    )
    return (
        f"{n_sure:,} have a probability of {SURE} or more. Of these {percent(share)} are in the "
        f"same component in {fits}."
        if n_sure
        else ""
    )


def _figures(folder: RunFolder, splits: Splits) -> dict[str, Figure]:
    model, history = folder.read_model(), folder.read_history()
    _check_reportable(folder, history)
    pretraining = folder.read_info()["recipe"]["pretraining_epochs"]
    best = best_of(history, pretraining)
    assert best  # there is a history
    x, schema = _pictured(splits), folder.read_schema()
    names = read_names(folder, model.n_components)
    with torch.no_grad():
        return {
            "components": figures.component_sheet(model, x, schema, names),
            "reconstructions": figures.reconstructions(model, x, schema),
            "curves": figures.curves(history, best["epoch"], pretraining),
            "usage": figures.usage(model.aggregated.numpy(), names),
            "codes": figures.codes_map(model, x),
        }


def _check_reportable(folder: RunFolder, history: list[dict[str, Any]]) -> None:
    """Refuses a run without epochs, or with epochs that do not say what pictures need."""
    if not history:
        raise ValueError(f"{folder.path} has no finished epoch to report on.")
    for record in history:
        bounds = any(key.startswith("train_elbo_") for key in record)
        missing = [key for key in DRAWN if key not in record]
        if missing or not bounds:
            raise ValueError(
                f"{folder.path} has no {(missing or ['train_elbo'])[0]} in epoch "
                f"{record['epoch']}, so it cannot be reported on: it was trained without "
                f"validation, or is damaged."
            )


def _contingency(folder: RunFolder, splits: Splits) -> dict[str, Any]:
    """How many test examples of each class are in each component, where classes are few."""
    from sklearn.metrics.cluster import contingency_matrix  # this takes a second

    if splits.test.labels is None:
        return {}
    has_label = known(splits.test.labels)
    labels = splits.test.labels[has_label]
    labels = labels.astype(str) if labels.dtype == object else labels
    classes, number = np.unique(labels, return_inverse=True)
    if not 0 < len(classes) <= MOST_CLASSES:
        return {}
    component = cluster_probs(folder.read_model(), splits.test.tensor()).argmax(1).numpy()
    component = component[has_label]
    counts = contingency_matrix(component, number)
    names = read_names(folder, folder.read_info()["model"]["n_components"])
    rows = [printable(called(k, names[k])) for k in np.unique(component).tolist()]
    return {
        "classes": list(map(printable, classes.tolist())),
        "contingency": list(zip(rows, counts.tolist(), strict=True)),
    }


def _quality(folder: RunFolder, splits: Splits) -> list[Line]:
    """How good and how private drawn rows of a table are, where there are rows to compare with."""
    held_out = splits.test.x
    if len(held_out) < FEWEST or splits.schema.is_image:
        return []
    model, schema = folder.read_model(), folder.read_schema()
    return in_words(quality(model, schema, splits.train.x, held_out))


def _pictured(splits: Splits) -> torch.Tensor:
    """The test examples, or all examples where there are too few of them for a picture."""
    if len(splits.test.x) >= ENOUGH:
        return splits.test.tensor()
    return _all_of(splits)


def _all_of(splits: Splits) -> torch.Tensor:
    """All examples; other data than the run's is all three parts."""
    parts = {id(part.x): part for part in (splits.test, splits.valid, splits.train)}
    return torch.cat([part.tensor() for part in parts.values()])


def _embedded(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")

"""Pictures of a fitted model. Each function returns a matplotlib figure and touches no file."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cpvae.data.arrays import COLOURS
from cpvae.data.order import as_read
from cpvae.data.schema import Schema
from cpvae.evaluation.profiles import profiles
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.names import called
from cpvae.report.lettering import drawable
from cpvae.report.panels import Axis, axes_of
from cpvae.streams import torch_stream

MOST_ROWS = 20  # components that a sheet shows, the most used first
COLUMNS = 12
MOST_BARS = 40  # columns of a table beside one another
MOST_COLUMNS, ACROSS = 8, 4  # of a table on a sheet, and beside one another
GREY, LIGHT = "#6b7280", "#bfdbfe"
BLUE, ORANGE = "#2563eb", "#ea580c"


def colours(n_components: int) -> np.ndarray:
    """One colour a component, (k, 4)."""
    import matplotlib

    if n_components <= 10:
        return matplotlib.colormaps["tab10"](np.arange(n_components))
    return matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, n_components))


def by_share(aggregated: np.ndarray) -> np.ndarray:
    """The most used components, as many as a sheet has room for, the most used first."""
    return np.argsort(-aggregated, kind="stable")[:MOST_ROWS]


def image_grid(images: np.ndarray, columns: int, gap: int = 1, fill: float = 0.35) -> np.ndarray:
    """Images (n, channels, height, width) in [0, 1] as one picture (height, width, channels).

    Of a number of channels that is no colour, the picture is their mean.
    """
    if images.shape[1] not in COLOURS:
        images = images.mean(axis=1, keepdims=True)
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), fill)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[top : top + height, left : left + width] = np.moveaxis(image, 0, -1)
    return page


def displayable(images: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Images scaled so that the range of the reference fills [0, 1], clipped."""
    low, high = min(0.0, float(reference.min())), max(float(reference.max()), 1e-12)
    if high <= 1 and low >= 0:
        high = 1.0
    return np.nan_to_num(np.clip((images - low) / (high - low), 0, 1), nan=1.0)  # no image: white


def enlarge(page: np.ndarray, at_least: int = 600) -> Any:
    """A picture (height, width, channels) in [0, 1] as a PIL image of that many pixels a side."""
    from PIL import Image

    pixels = np.rint(255 * page).astype(np.uint8)
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    zoom = max(1, at_least // max(image.size))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def show(axes: Any, page: np.ndarray) -> None:
    """Draws a picture (height, width, channels) in [0, 1] without a frame."""
    axes.imshow(page.squeeze(-1) if page.shape[-1] == 1 else page, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def component_sheet(model: Model, x: torch.Tensor, schema: Schema, names: Sequence[str]) -> Figure:
    """Generated examples of each component beside real examples assigned to it."""
    probs = cluster_probs(model, x).numpy()
    if x.ndim == 4:
        return _image_sheet(model, x.numpy(), probs.argmax(1), names)
    return _table_sheet(model, x.numpy(), probs, schema, names)


def _image_sheet(model: Model, x: np.ndarray, assigned: np.ndarray, names: Sequence[str]) -> Figure:
    shown = by_share(model.aggregated.numpy())
    figure = Figure(figsize=(11, 0.46 * len(shown) + 0.6), layout="constrained")
    axes = figure.subplots(len(shown), 2, squeeze=False)
    labels, lettering = drawable([called(int(k), names[k]) for k in shown])
    blank = np.full((COLUMNS, *x.shape[1:]), np.nan, dtype=np.float32)
    for row, k, label in zip(axes, shown, labels, strict=True):
        generator = torch_stream(0, "pictures", int(k))
        generated = model.sample(COLUMNS, int(k), generator=generator, mean=True)[0].numpy()
        real = x[assigned == k][:COLUMNS]
        padded = np.concatenate([real, blank])[:COLUMNS]
        show(row[0], image_grid(displayable(generated, x), COLUMNS))
        show(row[1], image_grid(displayable(padded, x), COLUMNS))
        share = f"{label}   {100 * model.aggregated[k]:.1f}%"
        row[0].set_ylabel(share, rotation=0, ha="right", va="center", fontsize=9, **lettering)
    axes[0, 0].set_title("generated from the component", fontsize=10)
    axes[0, 1].set_title("real, assigned to the component", fontsize=10)
    return figure


def _table_sheet(
    model: Model, x: np.ndarray, probs: np.ndarray, schema: Schema, names: Sequence[str]
) -> Figure:
    """The most telling columns, each in its own units: real rows of each component beside new."""
    shown = by_share(model.aggregated.numpy())
    found = profiles(x, probs, schema, names)
    effect: dict[str, float] = {}
    for profile in found:
        for each in profile.columns:
            name = each.column if schema.columns else each.column.removeprefix("column ")
            effect[name] = max(effect.get(name, -1.0), each.beyond_chance)
    told = sorted(effect, key=lambda name: -effect[name])[:MOST_COLUMNS]
    inside = [probs.argmax(1) == k for k in range(model.n_components)]
    generator = torch_stream(0, "pictures")
    drawn = [model.sample(500, int(k), generator=generator)[0].numpy() for k in shown]
    schema, (x, *drawn) = as_read(schema, x, *drawn)
    axes_of_each = axes_of(x, schema, inside)
    down = -(-len(told) // ACROSS)
    size = (11, down * (0.9 + 0.42 * len(shown)) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, ACROSS, squeeze=False, sharey=True)
    for axes in panels.ravel()[len(told) :]:
        axes.set_visible(False)
    labels, lettering = drawable([called(int(k), names[k]) for k in shown])
    titles, of_titles = drawable([f"{name}" for name in told])
    for axes, name, title in zip(panels.ravel(), told, titles, strict=False):
        at, axis = schema.names.index(name), axes_of_each[name]
        real = [axis.shares(x[inside[k], at]) for k in shown]
        _ridges(axes, axis, real, [axis.shares(each[:, at]) for each in drawn])
        axes.set_title(title, fontsize=9, **of_titles)
    for first in panels[:, 0]:
        first.set_yticks(-np.arange(len(shown)), labels, fontsize=8, **lettering)
    handles, texts = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    return figure


def _ridges(axes: Any, axis: Axis, real: Sequence[np.ndarray], drawn: Sequence[np.ndarray]) -> None:
    """The shares of the bins of a column (b) of each component, one below another."""
    at = np.arange(axis.n_bins + 1)
    for row, (mine, new) in enumerate(zip(real, drawn, strict=True)):
        height = 0.8 / max(mine.max(), new.max(), 1e-9)
        first = {"label": "real"} if not row else {}
        axes.stairs(height * mine - row, at, baseline=-row, fill=True, color=LIGHT, **first)
        first = {"label": "generated"} if not row else {}
        axes.stairs(height * new - row, at, baseline=None, color=ORANGE, linewidth=1.2, **first)
    if axis.edges is None:
        ticks, lettering = drawable(axis.ticks)
        axes.set_xticks(at[:-1] + 0.5, ticks, rotation=90, **lettering)
    else:
        axes.set_xticks([0, axis.n_bins / 2, axis.n_bins], axis.ticks)
    plain(axes)
    axes.tick_params(labelsize=7)


def reconstructions(model: Model, x: torch.Tensor, schema: Schema) -> Figure:
    """Real examples and what the model makes of them."""
    if x.ndim == 4:
        real = x[: 2 * COLUMNS]
        pairs = torch.stack([real, model.reconstruct(real)]).numpy()
        figure = Figure(figsize=(11, 1.5), layout="constrained")
        for axes, images, title in zip(
            figure.subplots(1, 2), pairs, ("real", "reconstructed"), strict=True
        ):
            show(axes, image_grid(displayable(images, x.numpy()), COLUMNS))
            axes.set_title(title, fontsize=10)
        return figure
    made = torch.cat([model.reconstruct(part) for part in x.split(model.rows_at_once())])
    features, of_each = schema.indicators(x.numpy())
    residual = np.nanmean((features - schema.indicators(made.numpy())[0]) ** 2, 0)
    variance = np.nanvar(features, 0)
    column = np.array([schema.names.index(name) for name in of_each])
    lost, whole = (np.bincount(column, np.nan_to_num(each)) for each in (residual, variance))
    explained = np.clip(1 - lost / np.maximum(whole, 1e-12), 0, 1)
    order = np.argsort(-explained, kind="stable")[:MOST_BARS]
    names, lettering = drawable([schema.names[at] for at in order])
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(order)), explained[order], color=BLUE, width=0.7)
    axes.set_xticks(range(len(order)), names, rotation=90, fontsize=8, **lettering)
    axes.set_ylim(0, 1)
    axes.set_ylabel("share of the variance\nreconstructed", fontsize=9)
    plain(axes)
    return figure


def curves(
    history: Sequence[dict[str, Any]], best_epoch: int, pretraining_epochs: int = 0
) -> Figure:
    """The bound on validation and training data, the KL terms and the components in use, by epoch.

    The end of the first ``pretraining_epochs`` is marked.
    """
    epochs = [r["epoch"] for r in history]
    names = [next(key for key in r if key.startswith("train_elbo_")) for r in history]
    figure = Figure(figsize=(11, 3), layout="constrained")
    bound, parts, used = figure.subplots(1, 3)
    train = [r[name] for r, name in zip(history, names, strict=True)]
    valid = [r["valid_elbo_nats"] for r in history]
    how = [name.removeprefix("train_elbo_").removesuffix("_nats") for name in dict.fromkeys(names)]
    label = f"training, {' then '.join(how).replace('_', ' ')}"
    bound.plot(epochs, train, color=GREY, linewidth=1, label=label)
    bound.plot(epochs, valid, color=BLUE, linewidth=1.5, label="validation, one-hot")
    bound.axvline(best_epoch, color=ORANGE, linewidth=1, linestyle=":", label="weights kept")
    if pretraining_epochs:
        bound.axvline(
            pretraining_epochs, color=GREY, linewidth=1, linestyle=":", label="pretraining ends"
        )
    settled = valid[len(valid) // 20 :]  # the first epochs would squeeze all others flat
    low, high = min(settled), max(max(settled), max(train))
    bound.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low) + 1e-9)
    bound.set_ylabel("bound, nats per example")
    bound.legend(fontsize=8, frameon=False, loc="best")
    parts.plot(epochs, [r["valid_kl_z_nats"] for r in history], color=BLUE, label="KL of z")
    if any(r["valid_kl_c_nats"] for r in history):
        parts.plot(epochs, [r["valid_kl_c_nats"] for r in history], color=ORANGE, label="KL of c")
    parts.set_ylabel("nats per example")
    parts.set_ylim(bottom=0)
    parts.legend(fontsize=8, frameon=False)
    used.plot(epochs, [r["components_used"] for r in history], color=BLUE, drawstyle="steps-post")
    used.set_ylim(bottom=0)
    used.set_ylabel("components in use")
    for axes in (bound, parts, used):
        axes.set_xlabel("epoch")
        plain(axes)
    return figure


def usage(aggregated: np.ndarray, names: Sequence[str]) -> Figure:
    """Share of each component in the aggregated posterior (eq. 14)."""
    k = len(aggregated)
    figure = Figure(figsize=(11, 2.4), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(k), 100 * aggregated, color=colours(k), width=0.75)
    axes.axhline(100 / k, color=GREY, linewidth=1, linestyle="--", label="an even share")
    if k <= 40:
        labels, lettering = drawable(names)
        lettering["rotation"] = 90 if max(map(len, labels)) > 3 else 0
        axes.set_xticks(range(k), labels, **lettering)
    axes.set_xlabel("component")
    axes.set_ylabel("% of the training data")
    figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    plain(axes)
    return figure


def compacted(curve: Sequence[Sequence[int | float]], chosen: int) -> Figure:
    """The bound for every number of components that was tried, and the number chosen."""
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    numbers, bounds = zip(*curve, strict=True)
    axes.plot(numbers, bounds, color=BLUE, marker=".", linewidth=1)
    axes.axvline(chosen, color=ORANGE, linestyle=":", label=f"chosen: {chosen}")
    best = max(bounds)
    near = [b for b in bounds if b > best - 5]  # far too few components would squeeze the rest
    axes.set_ylim(min(near) - 0.1, best + 0.1 * (best - min(near)) + 0.1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("components")
    axes.set_ylabel("bound, nats per example")
    axes.legend(fontsize=8, frameon=False)
    plain(axes)
    return figure


def kl_bars(figures: dict[str, Any]) -> Figure:
    """The KL of the bound as the sum of the three terms of eq. 13."""
    names = ("mutual_information_nats", "aggregated_kl_z_nats", "aggregated_kl_c_nats")
    labels = ("I((z, c); x)", "E KL(q(z|c) || p(z|c))", "KL(q(c) || p(c))")
    figure = Figure(figsize=(11, 1.7), layout="constrained")
    axes = figure.subplots()
    values = [figures[name] for name in names]
    axes.barh(labels[::-1], values[::-1], color=(GREY, ORANGE, BLUE), height=0.6)
    for i, value in enumerate(values[::-1]):
        axes.text(max(value, 0), i, f"  {value:.2f}", va="center", fontsize=9)
    axes.set_xlabel("nats per example")
    axes.margins(x=0.1)
    plain(axes)
    return figure


def codes_map(model: Model, x: torch.Tensor) -> Figure:
    """Codes of the examples and the prior of each component, on the codes' first two axes."""
    from matplotlib.patches import Ellipse

    x = x[:3000]
    z = np.concatenate([model.embed(part).numpy() for part in x.split(1000)])
    assigned = cluster_probs(model, x).argmax(1).numpy()
    centre = z.mean(0)
    principal = np.linalg.svd(z - centre, full_matrices=False)[2][:2]
    axes_2d = np.pad(principal, ((0, 2 - len(principal)), (0, 0)))  # (2, d); the second may be none
    spread = ((z - centre) @ axes_2d.T).var(0).sum() / max((z - centre).var(0).sum(), 1e-12)
    with torch.no_grad():
        prior = model.mixture()
        factor = torch.diag_embed(torch.exp(0.5 * prior.logvar))
        if prior.unit_tril is not None:
            factor = prior.unit_tril @ factor
    points = (z - centre) @ axes_2d.T
    means = (prior.mean.detach().numpy() - centre) @ axes_2d.T
    palette = colours(model.n_components)
    figure = Figure(figsize=(7.5, 6.5), layout="constrained")
    axes = figure.subplots()
    size = min(30, max(4, 6000 / len(x)))
    colour = palette[assigned]
    axes.scatter(points[:, 0], points[:, 1], s=size, alpha=0.5, color=colour, linewidth=0)
    for k in by_share(model.aggregated.numpy()):
        seen = axes_2d @ factor[k].numpy()
        variance, direction = np.linalg.eigh(seen @ seen.T)
        width, height = 2 * np.sqrt(variance)  # one standard deviation to each side
        angle = np.degrees(np.arctan2(direction[1, 0], direction[0, 0]))
        ring = Ellipse(tuple(means[k]), width, height, angle=angle, fill=False, color=palette[k])
        axes.add_patch(ring)
        box = {"boxstyle": "circle,pad=0.2", "fc": "white", "ec": palette[k]}
        axes.text(means[k, 0], means[k, 1], str(k), ha="center", va="center", fontsize=9, bbox=box)
    axes.set_xlabel(f"first axis of the codes (both: {100 * spread:.0f}% of their variance)")
    axes.set_ylabel("second axis of the codes")
    axes.autoscale_view()
    plain(axes)
    return figure


def plain(axes: Any) -> None:
    """Two spines and small letters."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)

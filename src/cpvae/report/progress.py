"""Progress of a fit and of long work: bars, and plain lines."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cpvae.training.diagnosis import Record
from cpvae.training.fit import Plan
from cpvae.training.restarts import OnEpoch


class EpochsBar:
    """A bar that shows epochs, the bound and components in use; of restarts those of the best."""

    def __init__(self, epochs: int, restarts: int, console: Console, counts: bool = True):
        self.progress = Progress(
            TextColumn("epoch {task.completed}/{task.total}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[bound]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
        )
        self.counts = counts  # whether the number of components in use is worth showing
        self.last: dict[int, Record] = {}
        what = f"{restarts} restarts" if restarts > 1 else ""
        self.task = self.progress.add_task("fit", total=epochs * restarts, bound=what)

    def __enter__(self) -> "EpochsBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, index: int, record: Record) -> None:
        """Shows an epoch's record of the run of that index."""
        self.last[index] = record
        best = max(self.last.values(), key=lambda r: r["valid_elbo_nats"])
        bound = f"bound {best['valid_elbo_nats']:.2f} nats"
        used = f"{best['components_used']} components" if self.counts else ""
        done = sum(r["epoch"] for r in self.last.values())
        self.progress.update(self.task, completed=done, bound=f"{bound}  {used}")


@contextmanager
def printed(plan: Plan) -> Iterator[OnEpoch]:
    """Prints a line an epoch while a plan is fitted."""
    if plan.shortened_from:
        print(
            f"The model overfitted after epoch {plan.recipe.max_epochs}: it is fitted again in "
            f"that many epochs."
        )
    yield _print_epoch


def _print_epoch(index: int, record: Record) -> None:
    print(
        f"restart {index}  epoch {record['epoch']:4d}  {record['seconds']:7.1f} s  "
        f"bound {record['valid_elbo_nats']:.2f} nats  "
        f"components used {record['components_used']}"
    )


class StepsBar:
    """A bar for a few long steps, with what the last one gave."""

    def __init__(self, what: str, total: int, quiet: bool = False):
        self.progress = Progress(
            TextColumn("{task.description} {task.completed}/{task.total}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[last]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True, soft_wrap=True),
            disable=quiet,
        )
        self.task = self.progress.add_task(what, total=total, last="")

    def __enter__(self) -> "StepsBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, last: str) -> None:
        """Shows how many steps are done, and what the last of them gave."""
        self.progress.update(self.task, completed=done, last=last)


class RowsASecond(ProgressColumn):
    """How fast rows are done."""

    def render(self, task: Task) -> Text:
        """Rows a second, of late."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f} rows/s" if speed else "")


class RowsBar:
    """A plain bar for work that is counted in examples."""

    def __init__(self, what: str, quiet: bool = False):
        columns = (*Progress.get_default_columns(), RowsASecond())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, transient=True, disable=quiet)
        self.task = self.progress.add_task(what, total=None)

    def __enter__(self) -> "RowsBar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, done: int, total: int | None) -> None:
        """Shows how far the work is; None where nobody knows how much there is."""
        self.progress.update(self.task, completed=done, total=total)

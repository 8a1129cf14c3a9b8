"""Runs commands in copies of one process that has all imported, so that a try costs milliseconds.

What a soak has tried is kept line by line in ``build/soak``, so that one that is stopped goes on;
its figures go to ``results/soak``.
"""

import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
ASIDE = ".cpvae-"  # beginning of the names of what writers have in a folder for the time being
PATIENCE = 600.0  # seconds that any one try may take, on a machine that does other things
USED = (
    *(
        "cpvae.cli.main",
        "cpvae.cli.run",
        "cpvae.cli.use",
        "cpvae.cli.rows",
        "cpvae.cli.share",
        "cpvae.hub",
        "cpvae.models.onnx",
    ),
    *("cpvae.estimator", "cpvae.data.files", "cpvae.data.images", "cpvae.report.page"),
    *("cpvae.training.start", "cpvae.models.compact", "cpvae.report.explorer", "onnxscript"),
    *("pyarrow.csv", "pyarrow.parquet", "pyarrow.feather", "pandas", "safetensors.torch"),
    *("sklearn.manifold", "sklearn.metrics", "sklearn.mixture", "scipy.special", "scipy.stats"),
    *("sknetwork.clustering", "joblib", "PIL.Image", "PIL.ImageOps", "matplotlib.pyplot"),
    *("torch._dynamo", "torch.func", "rich.progress", "rich.table", "openpyxl"),
    *(
        "pandas.io.formats.csvs",
        "scipy.cluster",
        "jinja2",
        "pydantic",
        "matplotlib.backends.backend_agg",
    ),
)


class Ended(NamedTuple):
    """How a copy of this process ended."""

    code: int  # exit code, or minus the number of a signal
    text: str  # what it printed to standard error
    seconds: float  # of the processor
    grown: int  # bytes that it took beyond what it was born with

    @property
    def is_clean(self) -> bool:
        """Whether it succeeded, or said in a line what is wrong."""
        last = (self.text.splitlines() or [""])[-1]
        words = ("Traceback", "should not happen", "Warning:")
        if self.code not in (0, 2) or any(word in self.text for word in words):
            return False
        return self.code == 0 or last.startswith("cpvae: ")


class Copy:
    """A copy of this process that runs a function; its output goes to files in ``folder``."""

    def __init__(self, function: Callable[[], Any], folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.error = folder / f"stderr-{time.monotonic_ns()}"
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries, idle here
            self.pid = os.fork()
        if not self.pid:
            self._be(function)

    def _be(self, function: Callable[[], Any]) -> None:
        code = 1
        try:
            os.setpgid(0, 0)
            place = os.open(self.error, os.O_WRONLY | os.O_CREAT)
            os.dup2(place, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            function()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.flush()
            os._exit(code)

    def kill(self) -> None:
        """Ends it as if the machine lost power."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Waits until it has ended, or has had `PATIENCE`."""
        until = time.monotonic() + PATIENCE
        while not (found := os.wait4(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                self.kill()
            time.sleep(0.002)
        _, status, used = found
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it may have started
        text = self.error.read_text(errors="replace") if self.error.exists() else ""
        self.error.unlink(missing_ok=True)
        born = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = max(0, used.ru_maxrss - born) * 1024
        seconds = used.ru_utime + used.ru_stime
        return Ended(os.waitstatus_to_exitcode(status), text, seconds, grown)


def command(place: Path, *arguments: object) -> Callable[[], None]:
    """The command line with these arguments, run in a folder."""

    def run() -> None:
        from cpvae.cli.main import main

        os.chdir(place)
        sys.argv = ["cpvae", *map(str, arguments)]
        main()

    return run


def run(place: Path, *arguments: object) -> Ended:
    """Runs the command line in a folder, in a copy of this process."""
    return Copy(command(place, *arguments), place.parent / "told").wait()


def prepare() -> None:
    """Imports all that commands use, once, and leaves out the figures of a fit, which take longer
    than a short fit; those of `report` stay."""
    import matplotlib

    matplotlib.use("agg")
    import torch

    for name in USED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    run = importlib.import_module("cpvae.cli.run")
    run.write_figures = lambda folder, _: {"components": folder.path / "figures/components.png"}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with what is in it, but for what writers have for the time being."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(ASIDE)
    }


def left_aside(folder: Path) -> list[str]:
    """Names of what writers have left for the time being."""
    return [file.relative_to(folder).as_posix() for file in folder.rglob(f"{ASIDE}*")]


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder in memory, where there is one that is."""
    memory = Path("/dev/shm")
    place = tempfile.mkdtemp(prefix="cpvae-soak-", dir=memory if memory.is_dir() else None)
    try:
        yield Path(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def soak(
    name: str,
    tries: int,
    attempt: Callable[[int], dict[str, Any]],
    recipe: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Tries so often, goes on where an earlier call was stopped, and writes the figures.

    What went wrong in an earlier call is tried again.

    Arguments:
        name: of the soak
        tries: how many in all
        attempt: takes the number of a try and says under ``kind`` what it was, and under ``fault``
            what went wrong, if anything did
        recipe: what is written beside the figures
        seed: likewise
    """
    from cpvae.experiments.cells import provenance

    kept = ROOT / "build" / "soak" / f"{name}.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text().splitlines() if kept.exists() else []
    done = {one["number"]: one for one in map(json.loads, lines)}
    for number in range(tries):
        if number not in done or done[number].get("fault"):  # may be mended by now
            done[number] = {"number": number, **attempt(number)}
            with open(kept, "a", encoding="utf-8") as file:
                file.write(json.dumps(done[number]) + "\n")
            if done[number].get("fault"):
                print(f"{name} {number}: {done[number]}", flush=True)
    every = [done[number] for number in range(tries)]
    faults = [one for one in every if one.get("fault")]
    kinds = Counter(one["kind"] for one in every)
    bad = Counter(one["kind"] for one in faults)
    figures = {
        "name": name,
        "tries": len(every),
        "faults": len(faults),
        "most_seconds": max((one["seconds"] for one in every if "seconds" in one), default=None),
        "most_bytes": max((one["grown"] for one in every if "grown" in one), default=None),
        "of_kind": {kind: {"tries": n, "faults": bad[kind]} for kind, n in sorted(kinds.items())},
        "outcomes": dict(Counter(one["outcome"] for one in every)),
    }
    result = {**figures, "recipe": recipe, "seed": seed, **provenance()}
    out = ROOT / "results" / "soak" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))
    return result


def by_hand(n_tries: int) -> int:
    """The number of tries that the command line asks for."""
    return int(sys.argv[1]) if len(sys.argv) > 1 else n_tries

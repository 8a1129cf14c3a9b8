"""The command line: its commands, and how it ends. Each command imports what it needs."""

import errno
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from cpvae.cli import choose, describe, fit, impute, rows, share, use
from cpvae.cli.read import note
from cpvae.experiments.commands import app as reproduce
from cpvae.text import printable

app = typer.Typer(
    name="cpvae",
    help="Learn a mixture from data, and generate from any one of its components.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

STOPPED = "stopped; a run in progress goes on with the same command and --resume"
# options of `fit` that are settings of --set now
MOVED = {
    "noise_scale": "noise_scale",
    "latent_dim": "latent_dim",
    "network": "network",
    "covariance": "covariance",
    "gate": "gate",
    "pseudo_inputs": "pseudo_inputs",
    "estimator": "expectation",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "precision": "precision",
    "start_epochs": "pretraining_epochs",
    "kl_z_start": "kl_z_start",
    "kl_c_start": "kl_c_start",
    "anneal_epochs": "anneal_epochs",
    "patience": "patience",
}
# what to do about errors of the system, by number
TO_DO = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space and run the command again.")
# and where memory runs out, by command
LOWER = {
    "fit": "a lower --set batch_size, --components or --set hidden, fewer --restarts, smaller "
    "images (--size) or fewer rows need less. A run that had begun goes on with --resume, where "
    "more memory is free",
    "generate": "a lower -n needs less",
    "evaluate": "fewer rows of DATA need less",
    "assign": "DATA in parts of fewer rows need less",
}
RENAMED = {"--weights": "--mixing-weights", "--whole": "--merge-connected"}


@app.callback(invoke_without_command=True)
def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error came from.")
    ] = False,  # `main` looks for it, wherever it stands
) -> None:
    if version:
        from cpvae import __version__

        print(f"cpvae {__version__}")
        raise typer.Exit


for part in (fit, choose, use, describe, rows, impute, share):
    app.add_typer(part.commands)
app.add_typer(reproduce, name="reproduce")


def main() -> None:
    """Runs the command line; bad input ends with one line and exit code 2."""
    # libgomp's threads spin while they wait: for long, it costs a factor of five on a busy machine;
    # for too short a time, a quarter on an idle one (see docs/speed.md)
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    terminated: list[int] = []

    def terminate(number: int, _: Any) -> None:
        """A fit that is told to end ends as by Ctrl-C: its folder says so and is free again."""
        terminated.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = _as_note(warnings.showwarning)
            code = app(standalone_mode=False) or 0
        message = STOPPED if code == 130 else ""  # Ctrl-C, as typer reports it
    except BrokenPipeError:  # who read what is printed has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code, message = 141, ""
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        message, code = _told(error)
    finally:
        signal.signal(signal.SIGTERM, before)
    if message:
        print("cpvae: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(128 + terminated[0] if terminated and code == 130 else code)


def _as_note(otherwise: Any) -> Any:
    """How warnings are shown: ours as notes for a person, without their place in the code."""

    def show(message: Any, category: type[Warning], *where: Any) -> None:
        if category is UserWarning:
            note(str(message))
        else:
            otherwise(message, category, *where)

    return show


def _told(error: BaseException) -> tuple[str, int]:
    """What is printed for an error, and the exit code."""
    text = str(error)
    if isinstance(error, TyperException):  # an unknown option, a missing argument
        message = f"{error.format_message()} (see `cpvae --help` and `cpvae COMMAND --help`)"
        return _moved(getattr(error, "option_name", "")) or message, 2
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return STOPPED, 130
    if _is_of_memory(error):
        command = next((word for word in sys.argv[1:] if word in LOWER), "")
        return f"The memory does not suffice{': ' * bool(command)}{LOWER.get(command, '')}.", 2
    if isinstance(error, OSError):
        what = f"{error.strerror or text}: {error.filename}" if error.filename else text
        return f"{what}. {TO_DO.get(error.errno or 0, '')}", 2
    if isinstance(error, ValueError):
        return text, 2
    if isinstance(error, ModuleNotFoundError) and "cpvae[" in text:  # an optional package
        return text, 2
    if type(error).__name__ == "Diverged":
        return text, 1
    what = f"{type(error).__name__}: {text.splitlines()[0] if text else 'without a word'}"
    return f"an error that should not happen, {what} (cpvae --debug ... shows where)", 1


def _is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine, of a GPU, or of a process that was killed for it."""
    signs = ("can't allocate memory", "not enough memory", "out of memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ in ("OutOfMemoryError", "TerminatedWorkerError")
        or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs))
    )


def _moved(option: str) -> str | None:
    """Where an option of an earlier version is to be found now."""
    name = option.lstrip("-").replace("-", "_")
    if option in RENAMED:
        return f"There is no option {option}: it is {RENAMED[option]} now."
    if name in MOVED:
        return f"There is no option {option}: it is --set {MOVED[name]}=VALUE now."
    return None

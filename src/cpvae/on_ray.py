"""A job's shards as tasks of a Ray cluster: the same files, made by all of its machines.

Plain tasks, not Ray Data. Its unit is a block of rows, which it cuts, moves and names itself, and
ours is a shard: it is read where it is made, and `bulk.make` gives it the name that follows from
the input and writes it aside. So nothing passes through Ray but the model, once a worker, a job may
be begun with Ray and ended without, and Ray Data would bring nothing but a second way to read. When
a worker or a machine is lost, Ray has another make the shard that it was at.

All machines need this package in the same version, and the folders under the same paths.
"""

import functools
import itertools
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpvae import __version__, bulk
from cpvae.extras import need

RETRIES = 10  # of a shard whose worker was lost
AT_ONCE = 1000  # tasks that Ray knows of
PATIENCE = 10.0  # seconds in which an address answers
AGAIN = "Run the same command again: it goes on with the shards that are missing."


def run(out: Path, job: bulk.Job, address: str, progress: bulk.Progress | None = None) -> bulk.Made:
    """Makes the shards that are not there yet; `bulk.begin` comes before.

    Arguments:
        out: folder that all machines have; so the paths in ``job`` are
        job: what is to be made
        address: of the cluster: ``HOST:PORT``; ``auto`` on a machine of it; or ``local``
        progress: called after each shard

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ValueError: nothing answers, or a shard could not be made.
    """
    missing = bulk.missing(out, job.pieces)
    total = bulk.rows_of(job.pieces[number] for number in missing)
    done = 0
    with connected(address) as ray:
        for rows in _made(ray, out.resolve(), job, missing):
            done += rows
            if progress:
                progress(done, total)
    if bulk.missing(out, job.pieces):
        raise ValueError(
            f"All shards were made, and some are not in {out}: name a folder that all machines of "
            f"the cluster share."
        )
    return bulk.Made(len(missing), done, len(job.pieces) - len(missing))


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray's module, within which it is connected to a cluster; an error of it is one sentence."""
    need("ray", "ray")
    import ray

    _check_answers(address)
    try:
        ray.init(address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(f"--ray {address}: {_first_line(error)}") from error
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ValueError):
            raise cause from None
        raise ValueError(
            f"A worker of Ray could not make its shard ({_first_line(cause)}). All machines need "
            f"cpvae {__version__} and the same folders under the same paths."
        ) from error
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray lost a shard ({_first_line(error)}). {AGAIN}") from error
    finally:
        ray.shutdown()


def _made(ray: Any, out: Path, job: bulk.Job, missing: list[int]) -> Iterator[int]:
    """Rows of each of the missing shards, as they are made."""
    shared = ray.put(job)
    task = ray.remote(num_cpus=1, max_retries=RETRIES)(_make)
    sent = (task.remote([shared], number, out, __version__) for number in missing)
    flying = list(itertools.islice(sent, AT_ONCE))
    while flying:
        (first,), flying = ray.wait(flying)
        yield ray.get(first)
        flying += itertools.islice(sent, 1)


def _make(shared: list[Any], number: int, out: Path, version: str) -> int:
    """Makes one shard of a job, on a machine of the cluster; returns its rows."""
    if version != __version__:
        raise ValueError(
            f"{socket.gethostname()} has cpvae {__version__}, and here it is {version}: install "
            f"the same version on all machines of the cluster."
        )
    piece = _fetched(shared[0]).pieces[number]
    return bulk.make(out / piece.name, piece, lambda rows: None)


@functools.lru_cache(maxsize=1)
def _fetched(shared: Any) -> bulk.Job:
    """The job, fetched and unpacked once by a worker, which makes many of its shards."""
    import ray

    return ray.get(shared)


def _check_answers(address: str) -> None:
    """Refuses an address where nothing listens, for which Ray itself waits without an end."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host and address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise ValueError(f"--ray {address}: write HOST:PORT of the cluster's head, auto or local.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--ray {address}: nothing answers there ({error}). `ray status`, on a machine of the "
            f"cluster, says its address; `ray start --head` begins one."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__

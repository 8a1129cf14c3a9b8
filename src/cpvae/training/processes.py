"""Several processes that train one model: `torchrun --nproc-per-node N -m cpvae fit ...`.

All processes see the same global batches: each draws order, noise and binarisation of the whole
batch from the streams of the seed and keeps its own rows. Gradients are summed by one flat
all-reduce between the two halves of a step. The first process alone validates, decides and writes,
and hands on what it found. Where `torch.distributed` was not begun there is one process, and
nothing here does anything.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

Value = TypeVar("Value")


def rank() -> int:
    """The number of this process; 0 decides and writes."""
    return dist.get_rank() if _several() else 0


def size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _several() else 1


def wanted() -> bool:
    """Whether a launcher, such as torchrun, started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_restart() -> bool:
    """Whether torchrun started the processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined() -> Iterator[None]:
    """Within it the processes that a launcher started are one group; a CUDA device for each."""
    if not wanted() or _several():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group()  # gloo, and nccl for tensors on a GPU
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def first_one_first() -> Iterator[None]:
    """The first process goes through it alone, then all others, which find what it has made."""
    if rank() and _several():
        dist.barrier()
    yield
    if not rank() and _several():
        dist.barrier()


def share(n: int) -> tuple[slice, float]:
    """This process's rows of ``n``, and their weight; the weights of all processes sum to 1.

    Where there are fewer rows than processes, each takes all.
    """
    if n < size():
        return slice(0, n), 1 / size()
    start, stop = (n * place // size() for place in (rank(), rank() + 1))
    return slice(start, stop), (stop - start) / n


def summed(tensor: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if _several():
        dist.all_reduce(tensor)
    return tensor


def weighted_sum(tensors: Sequence[Tensor], weight: float) -> Sequence[Tensor]:
    """The sum over processes of each tensor by the process's weight, by one all-reduce."""
    if not _several():
        return tensors
    flat = torch.cat([tensor.flatten() for tensor in tensors]).mul_(weight)
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


def from_first(make: Callable[[], Value]) -> Value:
    """What the first process makes, on all of them; plain values and tensors."""
    if not _several():
        return make()
    told: list[Any] = [None, ""]
    if not rank():
        try:
            told = [_on_cpu(make()), ""]
        except Exception as error:
            told[1] = f"{type(error).__name__}: {error}"
            dist.broadcast_object_list(told)
            raise
    dist.broadcast_object_list(told)
    if told[1]:
        raise ValueError(f"The first process stopped ({told[1]}).")
    return told[0]


def check_same(facts: Mapping[str, str]) -> None:
    """Refuses processes that do not train the same thing.

    Arguments:
        facts: digests of what must be the same, by what it is

    Raises:
        ValueError: on all processes; names those that differ, and in what.
    """
    if not _several():
        return
    of_each: list[Any] = [None] * size()
    dist.all_gather_object(of_each, dict(facts))
    for other, theirs in enumerate(of_each):
        differ = [what for what in of_each[0] if theirs.get(what) != of_each[0][what]]
        if differ:
            raise ValueError(
                f"Process {other} has another {' and another '.join(differ)} than process 0: start "
                f"all of them with the same command on the same data and version."
            )


def digest(*values: Any) -> str:
    """A digest of tensors and plain values."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, Tensor):
            found.update(value.detach().cpu().contiguous().numpy().data)
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def _on_cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_on_cpu(each) for each in value]
    return value


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

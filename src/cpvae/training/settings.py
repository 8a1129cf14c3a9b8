"""Settings of torch that hold while models are trained, also in several threads at once."""

import contextlib
import threading
from collections.abc import Iterator

import torch

_LOCK = threading.Lock()
_GOING: list[bool] = []  # whether each of the fits that go on is small
_before: tuple[int, str] = 1, "highest"  # threads and precision before the first of them


@contextlib.contextmanager
def torch_settings(device: torch.device, small: bool) -> Iterator[None]:
    """Threads and precision of products that training wants; as they were before, after it.

    Arguments:
        device: that trains
        small: whether a second thread costs more than it brings
    """
    global _before
    with _LOCK:
        if not _GOING:
            _before = torch.get_num_threads(), torch.get_float32_matmul_precision()
        _GOING.append(small)
        _set_threads(1 if small else _before[0])
        if device.type == "cuda":  # TensorFloat-32: three times the speed, the same bounds
            torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        with _LOCK:
            _GOING.remove(small)
            _set_threads(_before[0])
            if not _GOING:
                torch.set_float32_matmul_precision(_before[1])


def _set_threads(number: int) -> None:
    """Sets torch's number of threads for this one, and leaves it at 1 for small fits in others.

    What is set last is taken for the whole process, by those who come later and by libraries.
    """
    torch.set_num_threads(number)
    if number > 1 and any(_GOING):
        other = threading.Thread(target=torch.set_num_threads, args=(1,))
        other.start()
        other.join()

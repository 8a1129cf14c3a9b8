"""Parts of a job in processes of their own."""

import os
from functools import partial

import pytest

from cpvae.apart import in_processes


def test_each_part_runs_elsewhere():
    assert sorted(in_processes(2, [partial(pow, 2, n) for n in range(3)])) == [1, 2, 4]
    assert os.getpid() not in set(in_processes(2, [os.getpid, os.getpid]))
    assert list(in_processes(2, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(in_processes(2, [partial(divmod, 1, 0), partial(pow, 2, 2)]))

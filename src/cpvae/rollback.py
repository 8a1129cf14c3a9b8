"""A method that fails leaves its object as it was."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

Method = TypeVar("Method", bound=Callable[..., Any])


def or_as_before(method: Method) -> Method:
    """Makes a method set back all attributes of its object where it raises."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **given: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **given)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return cast(Method, guarded)

"""What the components of an estimator are, and what they are called."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from cpvae.data.schema import Levels, Schema
from cpvae.evaluation.matching import matched, names_after, shared_rows
from cpvae.evaluation.moments import MomentsMixin
from cpvae.evaluation.profiles import Profile, profiles
from cpvae.models.base import Model
from cpvae.models.inference import cluster_probs
from cpvae.names import components_of, numbers, renamed, titled
from cpvae.report.words import profile_in_words, size_in_words
from cpvae.streams import whole_number


class Description(list[Profile]):
    """The profiles of components, by number; printed, it says what each of them is."""

    def __str__(self) -> str:
        n_rows = sum(profile.n_rows for profile in self)
        lines = []
        for profile in self:
            title = titled(profile.component, profile.name)
            lines.append(f"{title}: {size_in_words(profile, n_rows)}")
            lines += [f"  {told}" for told in profile_in_words(profile)]
        return "\n".join(lines)


class SegmentsMixin(MomentsMixin):
    """Names, descriptions and moments of the components of a fitted estimator."""

    model_: Model
    names_: list[str]
    schema_: Schema
    predict: Callable[[Any], np.ndarray]
    _check_fitted: Callable[[], None]
    _examples: Callable[[Any], Tensor]

    @property
    def levels_(self) -> Levels:
        """Categories of the columns of text that were fitted, by the name of the column."""
        return self.schema_.levels

    def name(self, names: Mapping[int, str]) -> "SegmentsMixin":
        """Names components by their numbers, for `sample`, `describe` and `save`.

        Those of one name count as one; "" takes a name away. Another `fit` forgets the names.

        Raises:
            ValueError: no such component, a text that cannot be a name, or one that another
                component has.
        """
        self._check_fitted()
        self.names_ = renamed(self.names_, names)
        return self

    def name_like(self, earlier: "SegmentsMixin", X: Any) -> "SegmentsMixin":
        """Gives components the names of those of an earlier fit that they are.

        Arguments:
            earlier: a fitted estimator whose components have names
            X: rows that say which are the same, by how many of them they share
        """
        before, after = (each.predict(X) for each in (earlier, self))
        counts = shared_rows(before, after, len(earlier.names_), len(self.names_))
        fresh = numbers(len(self.names_))
        self.names_ = names_after(earlier.names_, matched(counts), fresh)
        return self

    def describe(self, X: Any) -> Description:
        """What each component is: its share of the rows ``X`` and what sets it apart.

        Print it, or see `evaluation.profiles.Profile` for all figures.
        """
        x = self._examples(X)
        probs = cluster_probs(self.model_, x).cpu().numpy()
        return Description(profiles(x.cpu().numpy(), probs, self.schema_, self.names_))

    def _components(self, wanted: int | str | None) -> list[int] | int | None:
        """The numbers of the components that ``component`` of `sample` means."""
        if wanted is None or not isinstance(wanted, str):
            return None if wanted is None else whole_number("component", wanted, at_least=0)
        return components_of(wanted, self.names_)

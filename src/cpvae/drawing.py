"""What a fitted estimator draws: new examples, rows that meet conditions, missing values."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from cpvae.data.conditions import conditions
from cpvae.models.imputation import draw_missing
from cpvae.models.resampling import sample_given
from cpvae.reading import ReadingMixin
from cpvae.streams import seed_of, torch_stream, whole_number
from cpvae.training.recipe import Recipe

RandomState = int | np.random.RandomState | np.random.Generator | None


class DrawingMixin(ReadingMixin):
    """The methods of a fitted estimator that draw."""

    config_: dict[str, Any]
    recipe_: Recipe
    _components: Callable[[int | str | None], list[int] | int | None]
    _draws: int  # calls without a random state: each has a stream of its own

    def sample(
        self,
        n_samples: int = 1,
        component: int | str | None = None,
        from_: str | None = None,
        random_state: RandomState = None,
        mean: bool | None = None,
        given: Mapping[Any, Any] | Sequence[str] | None = None,
    ) -> tuple[Any, np.ndarray]:
        """Generates examples and says which component each came from.

        Arguments:
            n_samples: how many
            component: draw all of them from this one, by its number or its name
            from_: else draw components from the ``aggregated`` posterior (default for CP-VAE) or
                each as often as another, ``uniform`` (the prior of the others, and their default)
            random_state: seed; by default the estimator's own, from which each call moves on
            mean: give E[x | z, c] instead of a draw. By default means for greys under a Bernoulli
                likelihood and draws for all else
            given: what rows of a table are to have: a value by column, a pair (least, greatest)
                of which either may be None, or a list of categories, as in ``{"plan": "pro",
                "age": (40, None)}``; or texts such as ``["plan=pro", "age>=40"]``. Components are
                drawn as they are among such rows

        Returns:
            Examples in the form that `fit` took, and components (n): images in the same layout, a
            frame with the same names and dtypes, an array. Of a file of a table, a frame of pandas.

        Warns:
            UserWarning: rows that meet the conditions are so rare that several of those drawn
                depend on one another.

        Raises:
            ValueError: no such component, or conditions that no row or hardly any meets.
        """
        self._check_fitted()
        generator = self._generator(random_state)
        n = whole_number("n_samples", n_samples, at_least=1)
        k = self._components(component)
        if given is not None:
            if mean:
                raise ValueError("given asks for draws: leave mean out.")
            found = sample_given(
                self.model_, n, conditions(self.schema_, given), k, from_, generator
            )
            if found.effective < n:
                warnings.warn(found.in_words(n), UserWarning, stacklevel=2)
            return self.schema_.as_given(found.x.cpu().numpy()), found.component.cpu().numpy()
        if mean is None:
            mean = self.config_["likelihood"] == "bernoulli" and self.schema_.is_grey
        x, drawn = self.model_.sample(n, k, from_, generator, mean)
        return self.schema_.as_given(x.cpu().numpy(), drawn=not mean), drawn.cpu().numpy()

    def impute(
        self, X: ArrayLike, draws: int | None = None, random_state: RandomState = None
    ) -> Any:
        """``X`` with its missing values (NaN) filled in.

        They are whole where the column has whole numbers alone.

        Arguments:
            X: rows of a table
            draws: by default each value is the one that is expected. A number gives a list of that
                many tables, each with values drawn given what is there in the row: for multiple
                imputation, where what is computed from a table is computed from each, and differs
                by as much as it is uncertain
            random_state: of the draws, as for `sample`
        """
        examples = self._examples(X)
        x = examples.cpu().numpy()
        if draws is None:
            return self.schema_.filled(X, x, self._in_parts(X, "reconstruct"))
        generator, tables = self._generator(random_state), []
        for _ in range(whole_number("draws", draws, at_least=1)):
            made = draw_missing(self.model_, examples, generator)
            tables.append(self.schema_.filled(X, x, made.cpu().numpy()))
        return tables

    def _generator(self, random_state: RandomState) -> torch.Generator:
        """A generator of the state given, or the next one of the estimator's own seed."""
        device = self.model_.aggregated.device
        if random_state is not None:
            return torch_stream(seed_of(random_state), "sampling", device=device)
        self._draws += 1
        return torch_stream(self.recipe_.seed, "sampling", self._draws - 1, device)

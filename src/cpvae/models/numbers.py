r"""Numbers as people have them: skewed, within limits, rounded.

A number x is read through a monotone function T that opens its limits: near one T is a logarithm of
the distance from it, far from it x itself, and ``bend`` says how far "near" reaches. So the allowed
interval becomes the whole line, what is drawn there has a value in the interval, and a skewed
column may be Gaussian there. With a lower limit a and a bend b,

.. math:: T(x) = a + b \log(e^{(x - a) / b} - 1), \quad T^{-1}(y) = a + b \log(1 + e^{(y - a) / b}),

and an upper limit is opened in the same way after that.

A value with few decimals stands for the interval that is rounded to it and has its probability, the
difference of the distribution function at its ends; the outermost intervals reach to the limits. A
probability is at most 1, whereas a density has no limit where a value is repeated.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from cpvae.models.functional import LOG_2PI
from cpvae.models.heads import Head, within_reach

BENDS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # that are tried, in standard deviations
LEAST_WIDTH = 1e-5  # of an interval, in standard deviations: single precision tells no less apart
NARROW = 0.05  # interval in standard deviations of the noise, up to which a density is a line in it
SLACK = 0.05  # share of an interval that is left free at its ends where values are dequantised
FAR = 40.0  # standard deviations, beyond which nothing is left
MOST_ROWS = 3_000  # that bends are fitted to
FLOOR = 1e-3  # variance added in that, in units of the column's own


class Column(NamedTuple):
    """What is known of a column of numbers, in the data's units.

    Arguments:
        width: of the interval that a value stands for, 0 where it is taken to be exact
        low: lower limit, half a width below the least value that may be; None without one
        high: upper limit, likewise
    """

    width: float = 0.0
    low: float | None = None
    high: float | None = None


class NumberHead(Head):
    """Numbers whose noise depends on the latents: the decoder gives means and log-variances.

    Both are of the standardised T(x), see above. Observed values are (x - origin) / unit. There is
    no floor below the noise: who uses it starts at noise that the data has, and stops by held-out
    data. T is the identity until `fit_bends` or stored weights say what it is.

    Arguments:
        origin: of each column, (c)
        unit: of each column, positive, (c)
        columns: what else is known of each, (c); by default nothing
    """

    kind = "number"
    origin: Tensor
    unit: Tensor
    rounding: Tensor  # width in the data's units
    width: Tensor
    low: Tensor
    high: Tensor
    bend: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(
        self,
        origin: Float[Tensor, " c"],
        unit: Float[Tensor, " c"],
        columns: Sequence[Column] | None = None,
    ):
        super().__init__()
        n = self.n_columns = self.n_inputs = len(origin)
        self.n_params = 2 * n
        columns = columns or [Column()] * n
        low = torch.tensor([-torch.inf if of.low is None else of.low for of in columns]).double()
        high = torch.tensor([torch.inf if of.high is None else of.high for of in columns]).double()
        rounding = torch.tensor([of.width for of in columns], dtype=torch.float64)
        limited = low.isfinite() | high.isfinite()
        width = (rounding / unit).clamp_min(LEAST_WIDTH).where(limited | (rounding > 0), 0.0)
        self.register_buffer("origin", origin)
        self.register_buffer("unit", unit)
        self.register_buffer("rounding", rounding.to(unit.dtype))
        self.register_buffer("width", width.to(unit.dtype))
        self.register_buffer("low", ((low - origin) / unit).to(unit.dtype))
        self.register_buffer("high", ((high - origin) / unit).to(unit.dtype))
        self.register_buffer("bend", torch.zeros_like(unit))
        self.register_buffer("loc", torch.zeros_like(unit))
        self.register_buffer("scale", torch.ones_like(unit))

    def encode(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Values in units of their column."""
        return within_reach((x - self.origin) / self.unit)

    def decode(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Values in the data's units."""
        return self.origin + self.unit * observed

    def standardised(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Standardised T(x); of a value beyond a limit that of the limit."""
        return self._read(self._allowed(observed))

    def dequantised(
        self, observed: Float[Tensor, "*n c"], uniform: Float[Tensor, "*n c"]
    ) -> Float[Tensor, "*n c"]:
        """Standardised T(x) of an x anywhere in the interval of each value (Uria et al. 2013).

        The density of these is no larger where a value is repeated, and a lower bound, in the mean
        over ``uniform`` noise, on the probability of the intervals.
        """
        inside = SLACK + (1 - 2 * SLACK) * uniform  # T is infinite at the end that is a limit
        return self._read(observed + (inside - 0.5) * self.rounding / self.unit)

    def log_prob(self, observed: Float[Tensor, "*#b c"], params: Float[Tensor, "*#b p"]) -> Tensor:
        """Log-probability of rounded values, log-density of others in the data's units; (*b)."""
        return self.log_prob_measured(self.measure(observed), params)

    def measure(self, observed: Float[Tensor, "*b c"]) -> Float[Tensor, "m *b c"]:
        """All that `log_prob_measured` needs of observed values, for those that are used often.

        Standardised T of the value, and the log of its slope in the data's units; where values are
        rounded or limited also standardised T at both ends of the interval, the log of its length,
        and what is added to the log-probability of an interval that reaches to a limit.
        """
        value = self._allowed(observed)
        slope, half = self._log_slope(value), 0.5 * self.width
        beyond = 0.5 * (observed - value) ** 2  # so that the density falls beyond a limit
        place = self._read(value)
        line = slope - self.scale.log() - self.unit.log() - beyond
        if not (self.width > 0).any():
            return torch.stack([place, line.where(~observed.isnan(), 0.0)])
        rounded = self.rounding > 0
        first, last = self.low + self.width, self.high - self.width  # where outermost ones end
        reach = self.width * torch.where(rounded, 0.25, 0.0)  # single precision knows no "equal"
        least = (self.bend > 0) & (value <= first - reach)
        most = (self.bend > 0) & (value >= last + reach)
        lower = self._read(torch.where(most, last, value - half)).where(~least, -torch.inf)
        upper = self._read(torch.where(least, first, value + half)).where(~most, torch.inf)
        there = (self.width > 0) & ~observed.isnan()
        length = (self.width.log() + slope - self.scale.log()).where(there, -torch.inf)
        # an interval was widened for single precision, or made for a density beside a limit
        unit = torch.where(rounded, self.rounding / self.unit, 1 / self.unit)
        more = (unit / self.width).log().where(self.width > 0, 0.0) - beyond
        line = line + torch.where(rounded, self.rounding, 1.0).log()
        rest = torch.stack([line, lower, upper, length, more])
        return torch.cat([place.unsqueeze(0), rest.where(~rest.isnan(), 0.0)])

    def log_prob_measured(
        self, measured: Float[Tensor, "m *#b c"], params: Float[Tensor, "*#b p"]
    ) -> Tensor:
        """`log_prob` of values that were measured."""
        mean, logvar = params.chunk(2, -1)
        (place, line), intervals = measured[:2], measured[2:]
        missing, spread = place.isnan(), torch.exp(0.5 * logvar)
        off = (place.nan_to_num() - mean) / spread
        density = line - 0.5 * (off**2 + LOG_2PI + logvar)
        if not len(intervals):
            return torch.where(missing, 0.0, density).sum(-1)
        lower, upper, length, more = intervals
        size = torch.exp(length - 0.5 * logvar)
        tilt = (0.5 * off * size).abs().clamp(1e-3, 20.0)
        density = density + torch.log(torch.sinh(tilt) / tilt)
        least, most = lower.isneginf(), upper.isposinf()
        wide = (size > NARROW) | least | most
        begin = (torch.where(wide & ~least, lower, 0.0) - mean) / spread
        end = torch.where(
            wide & ~most, (torch.where(wide & ~most, upper, 0.0) - mean) / spread, 0.0
        )
        begin = torch.where(least, -FAR - end.detach().clamp_max(0).abs(), begin)
        end = torch.where(most, FAR + begin.detach().clamp_min(0), end)
        wide = wide & (begin < end)  # so far off, rounding leaves nothing between them
        begin, end = torch.where(wide, begin, 0.0), torch.where(wide, end, 1.0)
        each = torch.where(wide, log_normal_interval(begin, end) + more, density)
        return torch.where(missing, 0.0, each).sum(-1)

    def mean(self, params: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
        """The value at the mean of T(x), in the data's units: the median of x."""
        return self.decode(self.plain(params.chunk(2, -1)[0]))

    def sample(self, params: Float[Tensor, "n p"], generator: torch.Generator) -> Tensor:
        """Values drawn with their noise, in the data's units, rounded as the data are."""
        mean, logvar = params.chunk(2, -1)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        x = self.decode(self._allowed(self.plain(mean + noise * torch.exp(0.5 * logvar))))
        step = self.rounding.double().clamp_min(torch.finfo(torch.float64).tiny)
        rounded = (torch.round(x.double() / step) * step).to(x.dtype)
        return torch.where(self.rounding > 0, rounded, x)

    def plain(self, read: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Observed values, neither bent nor limited, of standardised T."""
        return self._closed(self.loc + self.scale * read)

    # --- T and back ------------------------------------------------------------------------------

    def _allowed(self, observed: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Values moved to the middle of the outermost interval where they are beyond it."""
        half = 0.5 * self.width
        return torch.minimum(torch.maximum(observed, self.low + half), self.high - half)

    def _read(self, value: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Standardised T of observed values."""
        return (self._opened(value) - self.loc) / self.scale

    def _opened(self, value: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """T of observed values; infinite at a limit and beyond."""
        bend, has_low, has_high, top = self._limits()
        opened = torch.where(has_low, self.low + _open(value - self.low, bend), value)
        return torch.where(has_high, top - _open(top - opened, bend), opened)

    def _closed(self, opened: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """The inverse of `_opened`."""
        bend, has_low, has_high, top = self._limits()
        below = top - bend * F.softplus((top - opened) / bend)
        value = torch.where(has_high, below, opened)
        return torch.where(has_low, self.low + bend * F.softplus((value - self.low) / bend), value)

    def _log_slope(self, value: Float[Tensor, "*n c"]) -> Float[Tensor, "*n c"]:
        """Log of the derivative of T at observed values."""
        bend, has_low, has_high, top = self._limits()
        opened = torch.where(has_low, self.low + _open(value - self.low, bend), value)
        below = torch.where(has_low, -_log_share((value - self.low) / bend), 0.0)
        return below + torch.where(has_high, -_log_share((top - opened) / bend), 0.0)

    def _limits(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The bend, whether there is a limit below and above, and the upper one once T opened it.

        A column whose bend is 0 has no limits yet.
        """
        has_low = (self.bend > 0) & self.low.isfinite()
        has_high = (self.bend > 0) & self.high.isfinite()
        bend = torch.where(self.bend > 0, self.bend, 1.0)
        top = torch.where(has_low, self.low + _open(self.high - self.low, bend), self.high)
        return bend, has_low, has_high, top

    # --- bends -----------------------------------------------------------------------------------

    def has_limits(self) -> bool:
        """Whether a column has a limit."""
        return bool(self._limited().any())

    def _limited(self) -> Tensor:
        return self.low.isfinite() | self.high.isfinite()

    @torch.no_grad()
    def fit_bends(
        self, observed: Float[Tensor, "n c"], responsibilities: Float[Tensor, "n k"]
    ) -> None:
        """Gives each column with a limit the likeliest of `BENDS`, and standardises T.

        A column is one Gaussian in each component. The likelihood is that of the values and not of
        T, and a column is bent given the components: one that is skewed because it has several
        clusters needs no bend.

        Arguments:
            observed: observed values, NaN where missing
            responsibilities: of the components for each row
        """
        trial = copy.deepcopy(self).double()
        value, category = observed[:MOST_ROWS].double(), responsibilities[:MOST_ROWS].argmax(1)
        limited, scores = self._limited(), []
        for bend in BENDS if limited.any() else ():
            trial.bend = torch.where(limited, bend, 0.0).double()
            scores.append(trial._score(value, category))
        if scores:
            cost = 0.5 * math.log(len(value)) * torch.tensor([0.0] + [1.0] * (len(BENDS) - 1))
            best = (torch.stack(scores) - cost.unsqueeze(1).to(value)).argmax(0)
            self.bend = torch.where(limited, torch.tensor(BENDS).to(self.unit)[best], 0.0)
        self.standardise(observed)

    def standardise(self, observed: Float[Tensor, "n c"]) -> None:
        """Takes these values as those whose T has the mean 0 and the standard deviation 1."""
        self.loc, self.scale = _moments(self._opened(self._allowed(observed)))

    def _score(self, value: Float[Tensor, "n c"], category: Int[Tensor, " n"]) -> Tensor:
        """Log-likelihood (c) of each column where every category is a Gaussian in T."""
        self.standardise(value)
        read, least = self.standardised(value), torch.full_like(self.unit, FLOOR)
        mean, logvar = torch.zeros_like(value), torch.zeros_like(value)
        for each in category.unique():
            mine = category == each
            middle, deviation = _moments(read[mine])
            mean[mine], logvar[mine] = middle, torch.log(deviation**2 + least)
        columns = (each.unsqueeze(-1) for each in (mean, logvar))
        measured = self.measure(value).unsqueeze(-1)
        return self.log_prob_measured(measured, torch.cat(list(columns), -1)).sum(0)


def log_normal_interval(lower: Tensor, upper: Tensor) -> Tensor:
    """Log of the standard normal probability between two finite numbers, the first the lower."""
    flip = lower > 0  # to the side where the distribution function is not near 1
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_upper = torch.special.log_ndtr(upper)
    return log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper))


def _open(distance: Tensor, bend: Tensor) -> Tensor:
    """The value b log(exp(d / b) - 1): d where it is large, minus infinity at 0."""
    return distance + bend * _log_share(distance / bend)


def _log_share(times: Tensor) -> Tensor:
    """log(1 - exp(-t)), minus infinity from 0 down."""
    return torch.log(-torch.expm1(-times.clamp_min(0)))


def _moments(x: Float[Tensor, "n c"]) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
    """Mean and standard deviation of each column, of the values that are there."""
    there = ~x.isnan()
    n, x = there.sum(0).clamp_min(1), x.nan_to_num()
    mean = x.sum(0) / n
    variance = torch.where(there, x - mean, 0.0).square().sum(0) / n
    return mean, variance.sqrt().clamp_min(1e-6)

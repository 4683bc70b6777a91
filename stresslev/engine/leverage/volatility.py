"""Leverage that follows volatility: what is estimated from the path of prices, the tools against procyclicality, and the factor on the cap.

Parameters are per step: the variances are of one step's log return, and weights decay once a step (a range of several steps, once for each of them).
"""

import math
from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from stresslev.engine.leverage.reading import Reading

EWMA, GARCH, RANGE = "ewma", "garch", "range"

#: An annual volatility below this (0.0001%) counts as this, so that a price that stands still gives a finite factor and a finite derivative.
LEAST_VOLATILITY = 1e-6

# Expected squared range of a walk of n standard normal steps, in n, sqrt n, 1 and 1/sqrt n: see `squared_range`.
_CONTINUOUS = 4 * math.log(2)
_SEEN_IN_STEPS = -4 * 0.5826 * math.sqrt(8 / math.pi)
_CONSTANT = 2.7
_LAST = 1 - _CONTINUOUS - _SEEN_IN_STEPS - _CONSTANT


def ewma(variance: Array, log_return: Array, decay: Array) -> Array:
    """`lambda v + (1 - lambda) r^2` (RiskMetrics 1996), per step: the variance of the coming step from the last one's and the return since.

    Args: variance >= 0 and log return of one step, same shape; decay in [0, 1).
    """
    return decay * variance + (1 - decay) * log_return * log_return


def garch(variance: Array, log_return: Array, omega: Array, alpha: Array, beta: Array) -> Array:
    """`omega + alpha r^2 + beta v` (Bollerslev 1986, GARCH(1,1)), per step. In the long run the variance is `omega / (1 - alpha - beta)`.

    Args: variance >= 0 and log return of one step, same shape; omega, alpha, beta >= 0, alpha + beta < 1.
    """
    return omega + alpha * log_return * log_return + beta * variance


def squared_range(steps: int) -> float:
    """Expected squared range of `steps` steps of a driftless walk whose steps are normal with variance 1, the start included.

    `4 ln 2 n` for a path seen continuously (Parkinson 1980), less `4 x 0.5826 sqrt(8 n / pi)` for highs and lows that fall between the steps (each
    extreme is 0.5826 of a step's deviation short: Broadie, Glasserman and Kou 1997). The two terms after these, which no theory was at hand for,
    are fitted: exact for one step, where the range is the size of the return, and within 0.5% of simulation for more.
    """
    return _CONTINUOUS * steps + _SEEN_IN_STEPS * math.sqrt(steps) + _CONSTANT + _LAST / math.sqrt(steps)


def parkinson(high: Array, low: Array, steps: int) -> Array:
    """Variance of one step from the range of a bar of `steps` steps: `(high - low)^2 / squared_range(steps)`, log prices (Parkinson 1980).

    Without bias for a driftless Gaussian walk of which only one price a step is seen. For one step it is the squared return.
    """
    span = high - low
    return span * span / squared_range(steps)


def annual_volatility(variance: Array, steps_per_year: Array) -> Array:
    """Square root of a year's variance, a fraction, at least `LEAST_VOLATILITY`. Shapes broadcast by scalars."""
    yearly = variance * steps_per_year
    return jnp.sqrt(jnp.maximum(yearly, jnp.asarray(LEAST_VOLATILITY**2, yearly.dtype)))


def stressed(volatility: Array, weight: Array, stress_volatility: Array) -> Array:
    """Root of the mix of variances, `(1 - w) sigma^2 + w sigma_stress^2`: stressed observations keep a weight (EMIR RTS 153/2013, article 28(1)(b)).

    Args: annual volatilities, `volatility` > 0; weight in [0, 1) (the article asks for 0.25), 0 for none.
    """
    return jnp.sqrt((1 - weight) * volatility * volatility + weight * stress_volatility * stress_volatility)


def buffered(volatility: Array, buffer: Array, release: Array) -> Array:
    """Volatility with a buffer that stress uses up: `max(sigma, min((1 + b) sigma, release))` (in the spirit of EMIR RTS 153/2013, article 28(1)(a)).

    In calm the requirement is held a share b too high. From `release / (1 + b)` on it stands still, while volatility eats the buffer up; beyond
    `release` it is the volatility itself. Continuous. An infinite `release` keeps the buffer for good.

    Args: annual volatilities; buffer >= 0 (the article asks for 0.25), 0 for none.
    """
    return jnp.maximum(volatility, jnp.minimum((1 + buffer) * volatility, release))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bar:
    """The bar that is under way, log prices relative to its opening."""

    walk: Array  # (A,) where the price stands
    high: Array  # (A,) >= 0
    low: Array  # (A,) <= 0
    steps: Array  # (A,) int32 steps behind it


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VolatilityMemory:
    """What the estimator keeps."""

    variance: Array  # (A,) per step, expected of the coming step
    bar: Bar | None  # of the estimator from ranges


def _opened(like: Array) -> Bar:
    zero = jnp.zeros_like(like)
    return Bar(walk=zero, high=zero, low=zero, steps=jnp.zeros(like.shape, jnp.int32))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VolatilityScaling:
    """Caps in proportion to `(target / sigma)^gamma`, so that with gamma 1 the risk of a position at the cap stays near where `target` puts it.

    sigma is the estimated annual volatility after the tools against procyclicality, which apply in the order of `sigma` below and change nothing as
    they stand by default. Fields marked (A,) are per asset or one for all, those marked (V, A) per pool and asset or one for all. All traced but
    `estimator` and `bar`.
    """

    target: Array | float  # (V, A) annual volatility at which the factor is 1, > 0
    gamma: Array | float  # (V, A) >= 0; 0 for no response, 1 for constant risk
    floor: Array | float  # (V, A) least factor, in (0, 1]
    ceiling: Array | float  # (V, A) largest factor, >= 1; 1 where calm must not raise leverage
    decay: Array | float = 0.97  # (A,) weight that stays with the past per step, in [0, 1): EWMA and ranges
    long_run: Array | float = 0.0  # (A,) annual volatility that GARCH returns to
    alpha: Array | float = 0.0  # (A,) GARCH weight of the last squared return
    beta: Array | float = 0.0  # (A,) GARCH weight of the last variance; alpha + beta < 1
    stress_weight: Array | float = 0.0  # (A,) in [0, 1)
    stress_volatility: Array | float = 0.0  # (A,) annual, of the stressed window
    least: Array | float = 0.0  # (A,) annual volatility below which the estimate does not count
    buffer: Array | float = 0.0  # (A,) share by which calm volatility is overstated
    release: Array | float = math.inf  # (A,) annual volatility at which the buffer is used up
    estimator: Literal["ewma", "garch", "range"] = field(default=EWMA, metadata={"static": True})
    bar: int = field(default=1, metadata={"static": True})  # steps of a bar, >= 1, for ranges

    def start(self, reading: Reading) -> VolatilityMemory:
        """A calm past: the reference variance, and a bar that has just opened."""
        variance = reading.reference_variance
        return VolatilityMemory(variance=variance, bar=_opened(variance) if self.estimator == RANGE else None)

    def react(self, memory: VolatilityMemory, reading: Reading) -> tuple[VolatilityMemory, Array]:
        """Take the last step's return in, and give the factor (V, A) for the coming one."""
        memory = self.observe(memory, reading)
        # in logs, so that no power overflows on its way to a bound
        fall = jnp.log(self.sigma(memory, reading))[None, :] - jnp.log(jnp.asarray(self.target))
        logs = jnp.clip(-self.gamma * fall, jnp.log(jnp.asarray(self.floor)), jnp.log(jnp.asarray(self.ceiling)))
        return memory, jnp.broadcast_to(jnp.exp(logs), reading.open_interest.shape).astype(memory.variance.dtype)

    def sigma(self, memory: VolatilityMemory, reading: Reading) -> Array:
        """(A,) annual volatility that the factor is made of: mixed with stress, then raised to the least one (EMIR RTS 153/2013, article 28(1)(c),
        where that is the one of ten years), then buffered."""
        estimate = annual_volatility(memory.variance, reading.steps_per_year)
        mixed = stressed(estimate, self.stress_weight, self.stress_volatility)
        return buffered(jnp.maximum(mixed, self.least), self.buffer, self.release)

    def observe(self, memory: VolatilityMemory, reading: Reading) -> VolatilityMemory:
        """Memory after the return of the last step."""
        r = reading.log_return
        if self.estimator == EWMA:
            return VolatilityMemory(variance=ewma(memory.variance, r, self.decay), bar=None)
        if self.estimator == GARCH:
            omega = (1 - self.alpha - self.beta) * self.long_run * self.long_run / reading.steps_per_year
            return VolatilityMemory(variance=garch(memory.variance, r, omega, self.alpha, self.beta), bar=None)
        return self._observe_range(memory, r)

    def _observe_range(self, memory: VolatilityMemory, r: Array) -> VolatilityMemory:
        """Only complete bars count: a bar that is under way says too little, and a larger of the two would be biased upwards."""
        walk = memory.bar.walk + r
        grown = Bar(walk=walk, high=jnp.maximum(memory.bar.high, walk), low=jnp.minimum(memory.bar.low, walk), steps=memory.bar.steps + 1)
        complete = grown.steps >= self.bar
        of_bar = parkinson(grown.high, grown.low, self.bar)
        kept = jnp.asarray(self.decay, r.dtype) ** self.bar
        variance = jnp.where(complete, kept * memory.variance + (1 - kept) * of_bar, memory.variance)
        return VolatilityMemory(variance=variance, bar=jax.tree.map(lambda new, old: jnp.where(complete, new, old), _opened(r), grown))

"""Numbers, times and lists as people read them."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from stresslev.metrics import METRICS

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MONEY = ((1e12, " tn"), (1e9, " bn"), (1e6, " M"), (1.0, ""))
#: Shares below this are written as powers of ten.
_TINY = 1e-6


def _special(x: float) -> str | None:
    """The text of what is no finite number; None for numbers."""
    if math.isnan(x):
        return "not a number"
    return None if math.isfinite(x) else "∞" if x > 0 else "−∞"


def decimal(x: float, digits: int = 3) -> str:
    """Rounded to significant digits but to no less than whole numbers; zeros that say nothing about an exact value go."""
    if x == 0:
        return "0"
    rounded = float(f"{x:.{digits}g}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{abs(x):,.{places}f}"
    if "." in text:
        short = text.rstrip("0").rstrip(".")
        if math.isclose(float(short.replace(",", "")), abs(x), rel_tol=1e-6):
            text = short
    return ("−" if x < 0 else "") + text


def scientific(x: float, digits: int = 2) -> str:
    """6.9 × 10⁻¹⁰."""
    if (text := _special(x)) is not None:
        return text
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    number = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{number.replace('-', '−')} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def percent(x: float, digits: int = 3) -> str:
    """A share as percent: 40.7%."""
    if (text := _special(x)) is not None:
        return text
    return scientific(x) if 0 < abs(x) < _TINY else decimal(100 * x, digits) + "%"


def points(x: float) -> str:
    """A difference of two shares: 14.7 percentage points."""
    text = decimal(100 * x)
    return f"{text} percentage point{'' if text == '1' else 's'}"


def times(x: float, digits: int = 3) -> str:
    """A ratio: 1.85×."""
    return _special(x) or decimal(x, digits) + "×"


def usd(x: float, digits: int = 3) -> str:
    """Money: 349 M USD."""
    if (text := _special(x)) is not None:
        return text
    if 0 < abs(x) < 1:
        return "under 1 USD" if x > 0 else "under 1 USD below zero"
    rounded = float(f"{x:.{digits}g}")
    factor, suffix = next((m for m in _MONEY if abs(rounded) >= m[0]), _MONEY[-1])
    return f"{decimal((x if factor > 1 else rounded) / factor, digits)}{suffix} USD"


def count(x: float, digits: int = 0) -> str:
    """A whole number: 300,000."""
    return _special(x) or f"{x:,.{0 if float(x).is_integer() else max(digits, 2)}f}".replace("-", "−")


#: How a metric is written, by name; others by their units.
_FORMATS: dict[str, Callable[..., str]] = {
    "amplification": times,
    "mean_allowed_leverage": times,
    "mean_used_leverage": times,
    "margin_peak_to_trough": times,
    "initial_margin_peak_to_trough": times,
    "conservation_residual": scientific,
    "total_residual": scientific,
}
_BY_UNITS: dict[str, Callable[..., str]] = {"1": percent, "USD": usd, "pools": count}


def metric_title(name: str) -> str:
    """Title of a metric, or its name if this version does not know it."""
    return METRICS[name].title if name in METRICS else name


def metric_value(name: str, value: float, digits: int = 3) -> str:
    """A metric's value with its unit."""
    known = METRICS.get(name)
    form = _FORMATS.get(name) or _BY_UNITS.get(known.units if known else "", decimal)
    return form(value) if form is scientific else form(value, digits)


def number(metric: str, value: float) -> str:
    """A metric's value with its unit and a digit more; n/a where there is none."""
    return "n/a" if math.isnan(value) else metric_value(metric, value, 4)


def signed(metric: str, value: float) -> str:
    """A difference of a metric, with its sign; of shares in percentage points."""
    text = ("+" if value > 0 else "") + number(metric, value)
    return text.removesuffix("%") + " pp" if text.endswith("%") else text


def value_against(name: str, value: float, bound: float) -> str:
    """A value with as many digits as it takes to tell it from its bound."""
    digits = 3
    while digits < 10 and value != bound and float(f"{value:.{digits}g}") == bound:
        digits += 1
    return metric_value(name, value, digits)


def plural(n: int, noun: str, many: str | None = None) -> str:
    """1 pool, 2 pools."""
    return f"{n:,} {noun if n == 1 else many or noun + 's'}"


def listing(items: Sequence[str], most: int = 4, noun: str = "other", many: str | None = None) -> str:
    """a, b and c; past `most` items the rest is counted: a, b and 7 others."""
    items = list(items)
    if len(items) > most:
        rest = len(items) - most + 1
        items = [*items[: most - 1], plural(rest, noun, many)]
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def date(time: datetime) -> str:
    """23 November 2026."""
    return f"{time.day} {time:%B %Y}"


def moment(start: datetime | None, minutes: float) -> str:
    """When: 'at 21:20 UTC on 10 October 2025', or 'after 18 minutes'."""
    if start is None and minutes == 0:
        return "at the start"
    if start is None:
        return f"after {decimal(minutes, 6)} minute{'' if minutes == 1 else 's'}"
    time = start + timedelta(minutes=float(minutes))
    return f"at {time:%H:%M} UTC on {date(time)}"


def span(start: datetime | None, low: float, high: float) -> str:
    """From when to when: 'from 20:51 to 21:36 UTC on 10 October 2025', or 'from minute 2 to minute 36'."""
    if start is None:
        return f"from minute {decimal(low, 6)} to minute {decimal(high, 6)}"
    first, last = (start + timedelta(minutes=float(m)) for m in (low, high))
    day = "" if first.date() == last.date() else f" UTC on {date(first)}"
    return f"from {first:%H:%M}{day} to {last:%H:%M} UTC on {date(last)}"


def duration(minutes: float) -> str:
    """2 minutes, 6 hours, 3 days."""
    for size, noun in ((1440, "day"), (60, "hour")):
        if minutes >= size and (minutes % size == 0 or minutes >= 3 * size):
            text = decimal(minutes / size)
            return f"{text} {noun}{'' if text == '1' else 's'}"
    text = decimal(minutes)
    return f"{text} minute{'' if text == '1' else 's'}"


def paragraphs(text: str) -> list[str]:
    """Paragraphs of a text that was wrapped by hand."""
    return [" ".join(part.split()) for part in text.split("\n\n") if part.strip()]

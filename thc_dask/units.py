"""Lengths as other programs write them, in micrometers."""

from __future__ import annotations

import math
from fractions import Fraction

# Micrometers of one; exact, so that 1170 nm are 1.17 um to the last bit.
MICROMETERS = {
    "angstrom": Fraction(1, 10_000),
    "nanometer": Fraction(1, 1000),
    "micrometer": Fraction(1),
    "millimeter": Fraction(1000),
    "centimeter": Fraction(10_000),
    "meter": Fraction(1_000_000),
}
SHORT = {
    "å": "angstrom",
    "nm": "nanometer",
    "um": "micrometer",
    "\N{MICRO SIGN}m": "micrometer",
    "\N{GREEK SMALL LETTER MU}m": "micrometer",
    "micron": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
}


def micrometers(value: float, unit: str) -> float | None:
    """Return a length in micrometers; None where ``unit`` is not one of length.

    >>> micrometers(1170, "nm"), micrometers(0.00117, "Millimetres"), micrometers(1, "pixel")
    (1.17, 1.17, None)
    >>> micrometers(9e-6, "m"), micrometers(0.009, "mm")
    (9.0, 9.0)
    """
    name = unit.strip().lower().replace("metre", "meter")
    name = SHORT.get(name, name)
    if name not in MICROMETERS:
        name = SHORT.get(name.removesuffix("s"), name.removesuffix("s"))
    if name not in MICROMETERS or not math.isfinite(value):
        return None
    # The shortest decimal is what was meant: a scaled rounding error may be one bit too large.
    return float(Fraction(repr(float(value))) * MICROMETERS[name])

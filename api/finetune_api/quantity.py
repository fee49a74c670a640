"""Kubernetes quantities as numbers."""

from decimal import Decimal

_FACTORS = {"m": Decimal("1e-3"), "u": Decimal("1e-6"), "n": Decimal("1e-9"), "k": Decimal(1000), "": Decimal(1)}
_FACTORS |= {letter: Decimal(1000) ** power for power, letter in enumerate("KMGTPE", start=1)}
_FACTORS |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}


def parse_quantity(quantity: str | int) -> Decimal:
    """Return the number that a Kubernetes quantity such as 500m or 3Gi stands for. Raises ArithmeticError or
    KeyError when it is none; the schema lets none such through.
    """
    text = str(quantity)
    number = text.rstrip("munkKMGTPEi")
    return Decimal(number) * _FACTORS[text[len(number) :]]

"""p-values of several tests at once."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the chance of one false finding among all tests, in the order given.

    The k-th smallest of m is multiplied by m - k + 1, never falls below a smaller one, and is at most 1.

    References
    ----------
    Holm, A simple sequentially rejective multiple test procedure, Scand J Statist 1979, 6:65-70.
    """
    count = len(p_values)
    order = sorted(range(count), key=p_values.__getitem__)
    adjusted, largest = [1.0] * count, 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted

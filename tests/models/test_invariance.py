"""The claim of figure 9.9: pooled over filters of their own, units learn an invariance."""

from __future__ import annotations

import pytest

from benchmarks.rotations import changes


@pytest.mark.slow
def test_units_over_local_filters_become_invariant_to_rotations() -> None:
    """Those trained on rotated digits change less than half as much as those that never saw any."""
    learned, upright = changes("local", True, 0), changes("local", False, 0)
    for angle in (20, 30, 45):
        assert learned[angle] < 0.65 * upright[angle]
    assert learned[45] < 0.5 * upright[45]
    # with a shared kernel a unit has one filter, and large rotations leave it
    assert learned[45] < 0.8 * changes("shared", True, 0)[45]

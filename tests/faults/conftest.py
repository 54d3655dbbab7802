"""What the tests of faults share."""

from collections.abc import Callable

import pytest

Figure = Callable[[str], None]


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Figure:
    """Says what a test has measured, for the table of `make faults`."""
    return lambda text: record_property("figure", text)

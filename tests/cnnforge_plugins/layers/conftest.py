"""Fixtures of the tests of layers."""

import pytest

from cnnforge_plugins.layers import _fallback


@pytest.fixture
def fresh_warnings(monkeypatch):
    """Layers warn again of what no kernel fits, as in a new process."""
    monkeypatch.setattr(_fallback, "_said", set())

"""Tests mirror fly/: fly/acceptance/fly.py is tested by tests/acceptance/test_fly.py."""

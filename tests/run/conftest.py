"""Run folders written by hand, as in tests/report."""

from tests.report.conftest import evaluation, picture, run

__all__ = ["evaluation", "picture", "run"]

"""Fixtures of the integration tests; the logs of their nodes are shown when a test fails."""

from tests.integration.conftest import make_node, pytest_runtest_makereport, s3, ten, thumbnails

__all__ = ["make_node", "pytest_runtest_makereport", "s3", "ten", "thumbnails"]

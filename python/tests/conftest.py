"""What tests share: packages that are not everywhere."""

import importlib
import os

import pytest


def require(package, variable="MORAY_REQUIRE_TORCH"):
    """The package; without it a test or those of a file are skipped, or fail where the environment variable is set."""
    try:
        return importlib.import_module(package)
    except ImportError:
        if os.environ.get(variable):
            raise
        pytest.skip(f"skipped: no {package}", allow_module_level=True)

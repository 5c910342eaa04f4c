"""What tests share: packages that are not everywhere."""

import importlib
import os

import pytest


def require(package):
    """The package; without it a test or those of a file are skipped, or fail where `MORAY_REQUIRE_TORCH` is set."""
    try:
        return importlib.import_module(package)
    except ImportError:
        if os.environ.get("MORAY_REQUIRE_TORCH"):
            raise
        pytest.skip(f"skipped: no {package} (cargo xtask python torch installs it)", allow_module_level=True)

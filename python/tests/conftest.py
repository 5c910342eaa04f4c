"""What tests share: packages that are not everywhere, and threads."""

import importlib
import os
import threading

import pytest


def require(package, variable="MORAY_REQUIRE_TORCH"):
    """The package; without it a test or those of a file are skipped, or fail where the environment variable is set."""
    try:
        return importlib.import_module(package)
    except ImportError:
        if os.environ.get(variable):
            raise
        pytest.skip(f"skipped: no {package}", allow_module_level=True)


def in_eight_threads(work):
    """Calls work(0) to work(7) at once; those that did not return True."""
    right = set()

    def call(i):
        if work(i):
            right.add(i)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(set(range(8)) - right)

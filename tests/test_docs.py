"""The documentation is built without a warning."""

import os
import pathlib
import subprocess
import sys

import pytest
from filelock import FileLock

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built pages; of several processes that run tests one builds them."""
    shared = tmp_path_factory.getbasetemp()
    folder = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "docs"
    with FileLock(f"{folder}.lock"):
        if not (folder / "objects.inv").exists():
            command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", ROOT / "docs", folder]
            run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
            assert run.returncode == 0, run.stderr
    return folder


def test_the_pages_are_built(built):
    assert (built / "tasks" / "index.html").exists()

"""Every public name has types that a checker knows."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from sysconfig import get_path

import pytest

import repo_stream


@pytest.mark.long
def test_types_of_public_names_are_complete(tmp_path: Path) -> None:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("needs pyright, which is not installed")
    package = Path(repo_stream.__file__).parent
    pyright = (sys.executable, "-m", "pyright", "--pythonpath", sys.executable)
    done = subprocess.run(
        [*pyright, "--verifytypes", "repo_stream", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        # With the packages of the extras, whose classes are the bases of some.
        env=os.environ | {"PYTHONPATH": f"{package.parent}{os.pathsep}{get_path('purelib')}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    found = json.loads(done.stdout)["typeCompleteness"]
    assert Path(found["pyTypedPath"]).parent.samefile(package)
    # A class of Ray's is the base of one of ours, and the tests of Ray install it.
    absent = () if importlib.util.find_spec("ray") else ("repo_stream.ray.",)
    known = [s for s in found["symbols"] if not s["name"].startswith(absent)]
    incomplete = [s["name"] for s in known if not s["isTypeKnown"] and s["isExported"]]
    assert incomplete == []
    assert absent or found["completenessScore"] == 1

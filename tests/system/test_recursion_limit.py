"""Records of strangers do not end the process of a program that raised the limit on recursion."""

from __future__ import annotations

import subprocess
import sys

from support.packaging import needs

CHILD = """
import sys
from repo_stream import NestedTooDeep
from repo_stream.process import record

sys.setrecursionlimit(1_000_000)
for level in (b"\\x81", b"\\xa1aa"):
    for levels in (2_000, 1_000_000):
        try:
            record(b"\\xa1aa" + level * levels + b"\\0")
        except NestedTooDeep as error:
            print(error.maximum)
"""


def test_record_that_is_nested_far_too_deep_is_an_error_whatever_the_limit_on_recursion() -> None:
    needs("libipld")
    done = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, ["128"] * 4), done.stderr

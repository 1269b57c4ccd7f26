"""Programs that have to run in a process of their own, where no other test has left anything."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path


def told_by(program: str, **environment: str) -> str:
    """Run a Python program, which has to succeed, and return its standard output.

    Args:
        program: Its lines, indented as they may be.
        **environment: Variables beside those of this process.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[1],
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

"""What README promises is checked by the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")


def promises() -> list[tuple[str, str]]:
    """Return what is promised, and a test that is said to check it."""
    section = README.partition("## What vidbg guarantees")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!Promise )(.+?) \| (.*) \|$", section, re.MULTILINE)
    return [(promise, name) for promise, tests in rows for name in tests.split(", ")]


def test_there_are_promises() -> None:
    assert len(promises()) > 20


@pytest.mark.parametrize("name", sorted({name for _, name in promises()}))
def test_a_promise_names_a_test_that_there_is(name: str) -> None:
    file, _, function = name.strip("`").partition("::")
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

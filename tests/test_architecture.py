"""The package is built as docs/architecture.md draws it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))


def test_imports_point_downwards():
    """In a process of its own: the linter silences the loggers of the one that it runs in."""
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    found = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_source_file_is_named_in_the_drawing():
    drawing = (ROOT / "docs" / "architecture.md").read_text()
    unnamed = [path.name for path in SOURCES if path.name != "__init__.py" and path.name not in drawing]
    assert not unnamed, f"draw these in docs/architecture.md: {unnamed}"


def test_every_file_in_the_drawing_exists():
    drawing = (ROOT / "docs" / "architecture.md").read_text()
    drawn = {name for name in re.findall(r"\b[a-z_]+\.py\b", drawing) if not name.startswith("test_")}
    assert drawn <= {path.name for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_every_file_says_what_it_is(path):
    source = path.read_text()
    assert not source.strip() or ast.get_docstring(ast.parse(source))


def test_importing_the_package_loads_no_torch():
    command = "import sys, loomvideo, loomvideo.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


def test_every_test_file_has_a_name_of_its_own():
    """Two of one name cannot be collected together."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))

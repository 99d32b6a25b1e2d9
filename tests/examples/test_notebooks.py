"""The notebooks run from the first cell to the last, and are kept without outputs."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stripped(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.slow
def test_search_finds_the_person(tmp_path, monkeypatch):
    """Of the drawn street's people, the query is the first hit or the second."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOKS[0].with_name("search_photographs.ipynb"), as_version=4)
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": os.fspath(tmp_path)}}).execute()

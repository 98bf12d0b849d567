"""The package as users get it: a wheel by way of the sdist, holding every module, model and clip; docs that run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import serkit

ROOT = Path(__file__).parent.parent
FOLDERS = ("train", "convert", "edge", "benchmarks")
MODULES = sorted(m.name for m in pkgutil.walk_packages(serkit.__path__, "serkit.") if not m.name.endswith("__main__"))


def sources() -> set[str]:
    kept = {".py", ".toml", ".tflite", ".minisig", ".pub", ".flac", ".json", ".html", ".css", ".js", ".svg"}
    return {
        str(p.relative_to(ROOT))
        for folder in FOLDERS
        for p in (ROOT / folder).rglob("*")
        if p.suffix in kept and "__pycache__" not in p.parts and not p.name.startswith(".")
    }


@pytest.mark.slow
def test_the_wheel_made_from_the_sdist_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)  # builds the wheel from the sdist
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"serkit/{name}" for name in sources()} <= names
    assert {"serkit/__init__.py", "serkit/py.typed"} <= names
    with tarfile.open(sdist) as archive:
        assert any(n.endswith("/tests/conftest.py") for n in archive.getnames())
    code = f"import sys; sys.path.insert(0, {str(wheel)!r}); import serkit.edge.cli as c; print(c.__file__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert str(wheel) in found.stdout


def test_every_module_is_known_to_the_walk() -> None:
    assert len(MODULES) > 40
    assert {"serkit.edge.frontend", "serkit.train.zoo.cnn_bilstm", "serkit.convert.export"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_hold(module: str) -> None:
    loaded = importlib.import_module(module)
    result = doctest.testmod(loaded, extraglobs={"np": importlib.import_module("numpy")})
    assert result.failed == 0


def test_dependencies_point_one_way() -> None:
    allowed = {
        "edge": {"edge"},
        "train": {"train", "edge"},
        "convert": {"convert", "train", "edge"},
    }
    for folder, known in allowed.items():
        for path in (ROOT / folder).rglob("*.py"):
            used = set(re.findall(r"^\s*(?:from|import) serkit\.(\w+)", path.read_text(), re.MULTILINE))
            assert used <= known, path


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_readme_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_readme_commands_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from click.testing import CliRunner

    from serkit.edge.cli import main

    used = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("serkit ")}
    assert {"predict", "listen", "demo", "train", "evaluate", "convert"} <= used
    for command in used:
        assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0

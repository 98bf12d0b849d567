"""The Debian package, as far as it can be looked at unbuilt; `make deb-test` builds, installs, runs and purges it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from serkit import __version__
from serkit.edge.cli import main
from serkit.edge.settings import tomllib

ROOT = Path(__file__).parent.parent
DEBIAN = ROOT / "deploy" / "debian"
PYTHONS = ("3.10", "3.11", "3.13")
PINNED = re.compile(r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?: ; [^\\]*)?(?P<hashes>( --hash=sha256:[0-9a-f]{64})+)")


def locked(name: str) -> dict[str, str]:
    """Library to version; every line is one, with its hashes."""
    lines = (DEBIAN / "locks" / f"{name}.txt").read_text().replace("\\\n   ", "").splitlines()
    found = [PINNED.fullmatch(" ".join(line.split())) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {match["name"]: match["version"] for match in found if match}


def fields(name: str) -> list[dict[str, str]]:
    paragraphs = (DEBIAN / name).read_text().strip().split("\n\n")
    return [dict(re.findall(r"^(\S+):[ \n]*((?:.*\n?)(?:^ .*\n?)*)", p, re.MULTILINE)) for p in paragraphs]


@pytest.mark.parametrize("python", PYTHONS)
def test_what_a_device_needs_is_locked(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pins = locked(f"python{python}")
    for requirement in [*project["dependencies"], *extras["mqtt"], *extras["prometheus"], *extras["web"]]:
        wanted, _, marker = requirement.partition(";")
        name = re.split(r"[<>=]", wanted)[0].strip()
        if "platform_machine == 'armv7l'" in marker or ("< '3.11'" in marker and python != "3.10"):
            continue
        for operator, bound in re.findall(r"([<>=]=?)([\d.]+)", wanted):
            have, need = ([int(n) for n in re.findall(r"\d+", v)] for v in (pins[name], bound))
            assert operator == ">=", requirement
            assert have >= need, f"{requirement}: `deploy/debian/build lock` renews it"
    assert "tflite-runtime" not in pins  # LiteRT has wheels for both architectures


def test_the_tools_of_the_build_are_locked() -> None:
    assert {"uv", "hatchling", "click"} <= set(locked("tools"))


def test_the_build_knows_the_locks() -> None:
    build = (DEBIAN / "build").read_text()
    assert {p.stem for p in (DEBIAN / "locks").glob("python*.txt")} == {f"python{p}" for p in PYTHONS}
    assert f"for python in {' '.join(PYTHONS)}; do" in build
    assert set(re.findall(r"echo (3\.\d+) ;;", build)) == set(PYTHONS)


def test_control() -> None:
    source, package = fields("control")
    assert source["Source"].strip() == package["Package"].strip() == "serkit"
    assert package["Architecture"].split() == ["amd64", "arm64"]
    depends = package["Depends"]
    assert {"${python}", "${glibc}", "libportaudio2"} <= {d.strip() for d in depends.split(",")}


def test_the_build_reads_the_version() -> None:
    command = re.search(r"version=\$\((sed .*) \"\$repo/(\S+)\"\)", (DEBIAN / "build").read_text())
    assert command
    found = subprocess.run(
        ["sh", "-c", f"{command[1]} {ROOT / command[2]}"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == __version__


def test_what_is_installed_is_there() -> None:
    for line in (DEBIAN / "serkit.install").read_text().splitlines():
        source, target = line.split()
        assert (ROOT / source).is_file()
        assert target.startswith("etc/")  # so it is a conffile: debhelper marks all of /etc
    rules = (DEBIAN / "rules").read_text()
    for name in re.findall(r"debian/(launcher|manpage.py|serkit.links.in)", rules):
        assert (DEBIAN / name).is_file()
    unit = (ROOT / "deploy/systemd/serkit.service").read_text()
    program = re.search(r"^ExecStart=(\S+) serve$", unit, re.MULTILINE)
    assert program
    assert f"{program[1]} /usr/bin/serkit" in (DEBIAN / "serkit.links.in").read_text()


@pytest.mark.parametrize("script", ["build", "check", "rules", "serkit.postinst", "serkit.prerm", "serkit.postrm"])
def test_scripts_can_be_read(script: str) -> None:
    text = (DEBIAN / script).read_text()
    if script.startswith("serkit."):
        assert "#DEBHELPER#" in text
        subprocess.run(["sh", "-n", DEBIAN / script], check=True)
    else:
        assert (DEBIAN / script).stat().st_mode & 0o111
        assert script == "rules" or subprocess.run(["bash", "-n", DEBIAN / script]).returncode == 0


def test_the_manual_has_every_command_of_a_device() -> None:
    page = subprocess.run(
        [sys.executable, DEBIAN / "manpage.py"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert page.startswith(f'.TH SERKIT 1 "" "serkit {__version__}"')
    for command in ["demo", "devices", "listen", "model verify", "predict", "serve"]:
        assert f".SS serkit {command} " in page
    options = {o for p in main.commands["listen"].params for o in p.opts if o.startswith("--")}
    assert {o for o in options if o.replace("-", r"\-") in page} == options
    assert "train" not in re.findall(r"^\.SS serkit (\S+)", page, re.MULTILINE)


def test_the_containerfile_uses_what_the_build_makes() -> None:
    text = (ROOT / "deploy" / "jetson" / "Containerfile").read_text()
    assert "dist/serkit_*+py${PYTHON}_arm64.deb" in text
    assert "ARG PYTHON=3.10" in text
    assert text.index("ARG BASE=") < text.index("FROM ${BASE}")
    assert "+py$python\n" in (DEBIAN / "build").read_text()

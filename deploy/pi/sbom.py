"""List what an image holds, as a CycloneDX file: Debian's packages and the Python packages that serkit brings.

    python3 sbom.py ROOT.tar > image.cdx.json

Both come from the root's own records (dpkg's status, each wheel's METADATA), so nothing is guessed.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tarfile
import time
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

STATUS = "var/lib/dpkg/status"
RELEASE = "usr/lib/os-release"
_METADATA = re.compile(r"opt/serkit/.*\.dist-info/METADATA")


def read_members(root: Path) -> dict[str, str]:
    """The records of a root, path to text."""
    records = {}
    with tarfile.open(root) as archive:
        for member in archive:
            path = member.name.removeprefix("./")
            if path in (STATUS, RELEASE) or _METADATA.fullmatch(path):
                file = archive.extractfile(member)
                assert file is not None, path
                records[path] = file.read().decode(errors="replace")
    return records


def components(records: dict[str, str]) -> list[dict[str, Any]]:
    """One component per installed package, by name."""
    release = dict(line.split("=", 1) for line in records[RELEASE].splitlines() if "=" in line)
    found = []
    for paragraph in records[STATUS].strip().split("\n\n"):
        package = HeaderParser().parsestr(paragraph)
        if package["Status"] != "install ok installed":
            continue
        name, version, arch = package["Package"], package["Version"], package["Architecture"]
        distro = f"{release['ID']}-{release['VERSION_ID']}".replace('"', "")
        purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={arch}&distro={distro}"
        found.append(_component(name, version, purl))
    for path, text in records.items():
        if path.endswith("METADATA"):
            wheel = HeaderParser().parsestr(text)
            name = re.sub(r"[-_.]+", "-", wheel["Name"]).lower()
            component = _component(name, wheel["Version"], f"pkg:pypi/{name}@{quote(wheel['Version'])}")
            if licence := wheel["License-Expression"]:
                component["licenses"] = [{"expression": licence}]
            found.append(component)
    return sorted(found, key=lambda c: c["purl"])


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def document(found: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The CycloneDX document, dated by SOURCE_DATE_EPOCH."""
    built = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    version = next((c["version"] for c in found if c["purl"].startswith("pkg:deb/debian/serkit@")), "unknown")
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", built),
            "component": {"type": "operating-system", "name": name, "version": version},
        },
        "components": found,
    }


def main(root: Path) -> None:
    found = components(read_members(root))
    print(json.dumps(document(found, "serkit-pi"), indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

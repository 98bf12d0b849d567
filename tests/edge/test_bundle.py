from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.convert.bundle import write_bundle
from serkit.edge.bundle import DEFAULT_MODEL, bundled_models, read_bundle, read_signed
from serkit.edge.errors import ModelError
from serkit.edge.signature import config_folder, public_key_file, sign, signing_key, trust_folder, trusted_keys, verify

GRAPH = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4
INFO = {
    "schema": 1, "name": "toy", "labels": ["calm", "angry"], "frontend": {}, "window": {}, "temperature": 1.0,
    "format": "float32", "created": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "toy.tflite"
    write_bundle(path, GRAPH, INFO, "# toy\n", signing_key())
    return path


def test_a_bundle_comes_back_as_it_was_written(toy: Path) -> None:
    bundle = read_bundle(str(toy))
    assert bundle.data.startswith(GRAPH)
    assert (bundle.name, bundle.labels, bundle.card) == ("toy", ("calm", "angry"), "# toy\n")
    assert zipfile.ZipFile(toy).namelist() == ["model.json", "card.md"]
    assert sorted(p.name for p in toy.parent.iterdir()) == ["toy.tflite", "toy.tflite.minisig"]


def test_every_changed_byte_is_refused(toy: Path) -> None:
    whole = toy.read_bytes()
    for position in range(0, len(whole), 7):
        broken = bytearray(whole)
        broken[position] ^= 0x10
        toy.write_bytes(broken)
        with pytest.raises(ModelError, match="does not fit its signature"):
            read_bundle(str(toy))
    for length in (0, 1, 100, len(whole) - 1):
        toy.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="does not fit its signature"):
            read_bundle(str(toy))


def test_a_damaged_signature_is_refused(toy: Path) -> None:
    sidecar = toy.with_name("toy.tflite.minisig")
    text = sidecar.read_text()
    for broken in ("", "x\ny\nz\n", text[:80], text.replace("trusted comment: s", "trusted comment: S")):
        sidecar.write_text(broken)
        with pytest.raises(ModelError, match=r"signature file is damaged|does not fit its signature"):
            read_bundle(str(toy))
    sidecar.unlink()
    with pytest.raises(ModelError, match=r"no signature beside it; copy toy\.tflite\.minisig there too"):
        read_bundle(str(toy))


def test_a_stranger_is_not_trusted_until_the_owner_says_so(toy: Path) -> None:
    stranger = Ed25519PrivateKey.generate()
    write_bundle(toy, GRAPH, INFO, "", stranger)
    with pytest.raises(ModelError, match=r"does not trust; if you do, put the signer's \.pub file into"):
        read_bundle(str(toy))
    trusted = config_folder() / "trusted" / "stranger.pub"
    trusted.write_text(public_key_file(stranger))
    try:
        assert read_bundle(str(toy)).name == "toy"
    finally:
        trusted.unlink()


def test_what_is_signed_but_no_bundle_is_refused(toy: Path) -> None:
    for change, message in (
        ({"schema": 99}, "bundle schema 99, this serkit reads schema 1; update serkit"),
        ({"labels": []}, "no TFLite graph, labels or temperature"),
        ({"frontend": {"sample_rate": -1}}, "not a serkit model"),
        ({"window": {"speed": 1}}, "unknown setting 'speed'"),
    ):
        write_bundle(toy, GRAPH, INFO | change, "", signing_key())
        with pytest.raises(ModelError, match=message):
            read_bundle(str(toy))
    toy.write_bytes(GRAPH)
    toy.with_name("toy.tflite.minisig").write_text(sign(GRAPH, signing_key(), "x"))
    with pytest.raises(ModelError, match="not a serkit model"):
        read_bundle(str(toy))


def test_what_was_measured_of_sure_answers_and_enrolment_comes_along(toy: Path) -> None:
    n = len(INFO["labels"])
    for fields, expected in (
        ({}, (None, None, 0.0)),  # a bundle of before
        ({"unsure": None, "enrolment": None}, (2.0, None, 0.0)),
        (
            {"unsure": {"below": 0.4}, "enrolment": {"logits": [0.5] * n, "strength": 0.25}},
            (0.4, (0.5,) * n, 0.25),
        ),
    ):
        write_bundle(toy, GRAPH, INFO | fields, "", signing_key())
        bundle = read_bundle(str(toy))
        assert (bundle.sure_from, bundle.neutral_logits, bundle.enrolment) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"unsure": {}},
        {"unsure": [1]},
        {"enrolment": {"strength": 0.25}},
        {"enrolment": {"strength": 0.25, "logits": [0.0]}},
        {"enrolment": {"strength": 0.25, "logits": "no"}},
        {"enrolment": {"logits": [0.0] * len(INFO["labels"])}},
        {"enrolment": [0.25]},
    ],
)
def test_a_bundle_that_says_it_wrong_is_refused(toy: Path, fields: dict[str, Any]) -> None:
    write_bundle(toy, GRAPH, INFO | fields, "", signing_key())
    with pytest.raises(ModelError, match="not a serkit model"):
        read_bundle(str(toy))


def test_an_unknown_model_names_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"no model 'nonesuch'; give a \.tflite file or one of: default"):
        read_bundle("nonesuch")
    with pytest.raises(ModelError, match="a folder"):
        read_bundle("/")


def test_root_trusts_what_the_service_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERKIT_CONFIG")
    for user, folder in ((0, Path("/etc/serkit/trusted")), (1000, Path.home() / ".config" / "serkit" / "trusted")):
        monkeypatch.setattr("serkit.edge.signature.os.geteuid", lambda user=user: user)
        assert trust_folder() == folder


def test_the_signing_key_is_private_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERKIT_CONFIG", str(tmp_path / "own"))
    key = signing_key()
    assert stat.S_IMODE((tmp_path / "own" / "signing.key").stat().st_mode) == 0o600
    assert public_key_file(signing_key()) == public_key_file(key)
    assert public_key_file(key) in {p.read_text() for p in (tmp_path / "own" / "trusted").glob("*.pub")}
    (tmp_path / "own" / "signing.key").write_text("nonsense")
    with pytest.raises(ModelError, match="not an Ed25519 private key"):
        signing_key()


def test_a_full_disk_leaves_the_old_model(toy: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    before = toy.read_bytes()
    scratch = toy.parent / f".{toy.name}.{os.getpid()}"
    scratch.symlink_to("/dev/full")  # where the temporary file will be written
    with pytest.raises(ModelError, match=r"cannot be written \(No space left on device\); free some space"):
        write_bundle(toy, GRAPH * 2, INFO, "", signing_key())
    assert toy.read_bytes() == before
    assert read_bundle(str(toy)).name == "toy"


def test_minisign_agrees(toy: Path, tmp_path: Path) -> None:
    import subprocess

    if shutil.which("minisign") is None:
        pytest.skip("minisign is not installed")
    (tmp_path / "key.pub").write_text(public_key_file(signing_key()))
    command = ["minisign", "-V", "-p", str(tmp_path / "key.pub"), "-m", str(toy)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    toy.write_bytes(toy.read_bytes() + b"x")
    assert subprocess.run(command, capture_output=True).returncode != 0


def test_verify_names_the_key_and_the_comment() -> None:
    key = signing_key()
    found, comment = verify(b"data", sign(b"data", key, "model x"), trusted_keys(), "x")
    assert comment == "model x"
    assert found.name in public_key_file(key)


def test_shipped_models_are_signed_small_and_whole() -> None:
    models = bundled_models()
    assert DEFAULT_MODEL in models
    assert sum(p.stat().st_size for p in models.values()) < 6_000_000
    for name in models:
        bundle = read_bundle(name)
        assert bundle.name == name
        assert len(bundle.labels) == 8
        assert "non-commercial" in bundle.card


@pytest.mark.parametrize("folder", ["", ".", "/"])
def test_a_folder_is_no_model(folder: str) -> None:
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory\)"):
        read_signed(Path(folder))

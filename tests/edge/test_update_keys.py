from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serkit.edge.bundle import bundled_models, read_bundle
from serkit.edge.cli import main
from serkit.edge.errors import ModelError
from serkit.edge.signature import public_key_file, sign, signing_key, trusted_keys
from serkit.edge.store import ModelStore
from serkit.edge.update import install_key, install_model


def test_keys_are_rotated_and_revoked(stocked: ModelStore, new: Path, update: Any, made: Any, tmp_path: Path) -> None:
    state = stocked.folder.parent
    old_key = tmp_path / "old.pub"
    old_key.write_text(public_key_file(signing_key()))
    successor = Ed25519PrivateKey.generate()
    new_key = tmp_path / "new.pub"
    new_key.write_text(public_key_file(successor))

    def signed(path: Path, key: Ed25519PrivateKey, words: str) -> Path:
        name = path.read_text().splitlines()[0].split()[-1]
        path.with_name(path.name + ".minisig").write_text(sign(path.read_bytes(), key, f"serkit {words} key {name}"))
        return path

    def names() -> set[str]:
        return {key.name for key in trusted_keys(state)}

    before = names()
    assert "does not trust" in update(stocked, signed(new_key, successor, "trusts")).stderr
    result = CliRunner().invoke(main, ["model", "sign", str(new_key)])
    assert result.exit_code == 0
    assert "trusts key" in result.stdout
    assert "is trusted from now on" in update(stocked, new_key).stdout
    assert len(names() - before) == 1
    made(new, 2, successor)
    assert update(stocked, new).exit_code == 0

    # a revocation is no vouching, whatever its file is called
    assert "version 1" in str(stocked.state().previous)
    revocation = signed(old_key, successor, "revokes")
    assert "is revoked" in update(stocked, revocation).stdout
    assert len(before - names()) == 1
    assert "does not trust" in update(stocked, signed(new_key, signing_key(), "trusts")).stderr
    made(new, 3)
    assert "does not trust" in update(stocked, new).stderr
    assert "a key does not revoke itself" in update(stocked, signed(new_key, successor, "revokes")).stderr
    assert "its signature says" in update(stocked, signed(new_key, successor, "likes")).stderr
    assert set(bundled_models()) == {m for m in bundled_models() if read_bundle(m)}  # what came with serkit stays


def test_a_revoked_key_takes_along_what_it_vouched_for(stocked: ModelStore, update: Any, tmp_path: Path) -> None:
    state = stocked.folder.parent
    leaked, new, drawer, evil = keys = [Ed25519PrivateKey.generate() for _ in range(4)]
    names = [public_key_file(key).splitlines()[0].split()[-1] for key in keys]

    def signed(key: Ed25519PrivateKey, signer: Ed25519PrivateKey, words: str, path: Path = tmp_path / "a.pub") -> Path:
        path.write_text(public_key_file(key))
        text = sign(path.read_bytes(), signer, f"serkit {words} key {names[keys.index(key)]}")
        path.with_name(path.name + ".minisig").write_text(text)
        return path

    def trusted() -> list[bool]:
        known = {key.name for key in trusted_keys(state)}
        return [name in known for name in names]

    install_key(signed(leaked, signing_key(), "trusts"), stocked)
    for key in (new, drawer, evil):
        install_key(signed(key, leaked, "trusts"), stocked)
    assert trusted() == [True] * 4
    before = {p: p.read_bytes() for p in (state / "keys").iterdir()}
    install_key(signed(drawer, new, "trusts"), stocked)
    install_key(signed(drawer, new, "trusts"), stocked)  # once more changes nothing
    install_key(signed(leaked, new, "revokes"), stocked)
    assert trusted() == [False, True, True, False]
    assert {p: p.read_bytes() for p in before} == before  # nothing was overwritten
    assert len(list((state / "keys").iterdir())) == 2 * 6
    with pytest.raises(ModelError, match="was revoked here and does not come back; make a new one"):
        install_key(signed(leaked, new, "trusts"), stocked)
    for name, key, words in (("a", evil, "trusts"), ("0007", new, "revokes")):  # by the leaked key, and put there
        signed(key, leaked, words, state / "keys" / f"{name}.pub")
    assert trusted() == [False, True, True, False]
    assert json.loads(update(stocked, "--status", "--json").stdout)["keys"] == [k.name for k in trusted_keys(state)]
    assert f"trusted:  {names[1]} ({state / 'keys'}" in update(stocked, "--status").stdout


def test_the_key_of_the_model_in_use_is_not_revoked(
    stocked: ModelStore, update: Any, made: Any, tmp_path: Path
) -> None:
    other = Ed25519PrivateKey.generate()
    path = tmp_path / "other.pub"
    path.write_text(public_key_file(other))
    CliRunner().invoke(main, ["model", "sign", str(path)])
    install_key(path, stocked)
    bundle = tmp_path / "by-other.tflite"
    made(bundle, 2, other)
    install_model(bundle, stocked)
    CliRunner().invoke(main, ["model", "sign", "--revoke", str(path)])
    with pytest.raises(
        ModelError, match="toy version 2, which is in use, is signed by this key or one it vouched for; install"
    ):
        install_key(path, stocked)
    assert update(stocked, "--roll-back").exit_code == 0
    assert install_key(path, stocked)[1] is False


def test_keys_are_readable_for_the_service_and_stay_in_their_folder(
    stocked: ModelStore, update: Any, tmp_path: Path
) -> None:
    path = tmp_path / "other.pub"
    path.write_text(public_key_file(Ed25519PrivateKey.generate()))
    CliRunner().invoke(main, ["model", "sign", str(path)])
    folder, elsewhere = stocked.folder.parent / "keys", tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)
    assert "it must be a folder and no link to one" in update(stocked, path).stderr
    assert list(elsewhere.iterdir()) == []
    folder.unlink()
    umask = os.umask(0o077)
    try:
        assert update(stocked, path).exit_code == 0
    finally:
        os.umask(umask)
    assert {p.stat().st_mode & 0o777 for p in (folder, *folder.iterdir())} == {0o755, 0o644}


def test_a_planted_key_is_not_trusted(stocked: ModelStore) -> None:
    folder = stocked.folder.parent / "keys"
    folder.mkdir()
    before = trusted_keys(stocked.folder.parent)
    stranger = Ed25519PrivateKey.generate()
    (folder / "stranger.pub").write_text(public_key_file(stranger))
    (folder / "damaged.pub").write_text("x")
    assert trusted_keys(stocked.folder.parent) == before
    name = public_key_file(stranger).splitlines()[0].split()[-1]
    text = sign((folder / "stranger.pub").read_bytes(), stranger, f"serkit trusts key {name}")
    (folder / "stranger.pub.minisig").write_text(text)
    assert trusted_keys(stocked.folder.parent) == before

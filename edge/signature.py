"""Ed25519 signatures in minisign's format, so that `minisign -V -p serkit.pub -m model.tflite` agrees.

A signature file has four lines: a comment, the signature of the file, a trusted comment and the signature of both.
The format is minisign's prehashed one (``ED``): what is signed is the BLAKE2b-512 digest of the file. Private keys are
plain PKCS #8 PEM files.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from serkit.edge.disk import read_file
from serkit.edge.errors import ModelError

_LARGEST = 4096  # bytes of a key or a signature
SHIPPED_KEYS = Path(__file__).parent / "models"
#: How the signed comment of a public key begins, which says what its signer wants.
VOUCHES, REVOKES = "serkit trusts key ", "serkit revokes key "


@dataclass(frozen=True)
class PublicKey:
    """A key that may sign models.

    Attributes:
        key_id: 8 bytes that tell keys apart.
        raw: The Ed25519 public key, 32 bytes.
        source: Where it was read from, for messages.
    """

    key_id: bytes
    raw: bytes
    source: str

    @property
    def name(self) -> str:
        """The key id as minisign prints it."""
        return _key_name(self.key_id)


def _key_name(key_id: bytes) -> str:
    return key_id[::-1].hex().upper()


def config_folder() -> Path:
    """Where the signing key is: ``$SERKIT_CONFIG``, else ``~/.config/serkit``, else ``/etc/serkit``."""
    if folder := os.environ.get("SERKIT_CONFIG"):
        return Path(folder)
    try:
        return Path.home() / ".config" / "serkit"
    except RuntimeError:  # a service without a home
        return Path("/etc/serkit")


def trust_folder() -> Path:
    """Where this user's trusted keys are; root's, and with them ``sudo serkit update``'s, are those of the service."""
    if os.geteuid() == 0 and not os.environ.get("SERKIT_CONFIG"):
        return Path("/etc/serkit/trusted")
    return config_folder() / "trusted"


def state_folder() -> Path:
    """Where installed models and keys are: ``$STATE_DIRECTORY``, which systemd sets, else ``/var/lib/serkit``."""
    return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "/var/lib/serkit")


def read_public_key(path: Path) -> PublicKey:
    """A minisign public key file.

    Raises:
        ModelError: Not a public key, or it cannot be read.
    """
    try:
        line = read_file(path, _LARGEST).decode().splitlines()[1]
        raw = base64.b64decode(line, validate=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except (UnicodeDecodeError, IndexError, binascii.Error):
        raw = b""
    if len(raw) != 42 or raw[:2] != b"Ed":
        raise ModelError(f"{path}: not a minisign public key; copy it again, or remove it")
    return PublicKey(key_id=raw[2:10], raw=raw[10:], source=str(path))


def shipped_keys() -> list[PublicKey]:
    """serkit's own keys, with which it checks the models that come with it."""
    return [read_public_key(path) for path in sorted(SHIPPED_KEYS.glob("*.pub"))]


#: A key, the bytes of its file and the text of the signature that vouches for it or revokes it.
Statement = tuple[PublicKey, bytes, str]


def trusted_keys(state: Path | None = None, then: list[Statement] | None = None) -> list[PublicKey]:
    """The keys that may sign models, without those that a trusted key revoked.

    They are serkit's own, those in `trust_folder` and in /etc/serkit/trusted, and those a trusted
    key vouched for. What `serkit update` installed is gone through in that order, and counts where its signer was
    trusted then. With a revoked key go those that nobody else vouched for, but for the one that revoked it.

    Args:
        state: The folder whose ``keys`` holds what was installed; `state_folder` by default.
        then: What would be installed next.
    """
    keys = shipped_keys()
    for path in _own_keys():
        with suppress(ModelError):  # one bad file is no reason to trust nothing; `bad_keys` names it
            keys.append(read_public_key(path))
    vouchers = {key.key_id: {key.key_id} for key in keys}  # who stands for a key; these stand for themselves
    revoked: set[bytes] = set()
    installed = (_statement(path) for path in sorted(((state or state_folder()) / "keys").glob("*.pub")))
    for key, data, signature in (*installed, *(then or [])):
        try:
            signer, comment = verify(data, signature, keys, key.source)
        except ModelError:
            continue
        if comment == VOUCHES + key.name and key.key_id not in revoked:
            if key.key_id not in vouchers:
                keys.append(key)
            vouchers.setdefault(key.key_id, set()).add(signer.key_id)
        elif comment == REVOKES + key.name and signer.key_id != key.key_id:
            vouchers[signer.key_id].add(signer.key_id)
            revoked.add(key.key_id)
            gone = {key.key_id}
            while gone:
                vouchers = {k: by - gone for k, by in vouchers.items() if k not in gone}
                gone = {k for k, by in vouchers.items() if not by}
            keys = [k for k in keys if k.key_id in vouchers]
    return keys


def bad_keys() -> list[str]:
    """What is wrong with files among the trusted keys, which are left out."""
    lines = []
    for path in _own_keys():
        try:
            read_public_key(path)
        except ModelError as error:
            lines.append(str(error))
    return lines


def _own_keys() -> list[Path]:
    folders = dict.fromkeys((trust_folder(), Path("/etc/serkit/trusted")))
    return [path for folder in folders for path in sorted(folder.glob("*.pub"))]


def _statement(path: Path) -> Statement:
    """What was installed; a damaged one counts for nothing."""
    with suppress(OSError, ModelError):
        signature = read_file(path.with_name(path.name + ".minisig"), _LARGEST).decode(errors="replace")
        return read_public_key(path), read_file(path, _LARGEST), signature
    return PublicKey(b"", b"", str(path)), b"", ""


def verify(data: bytes, signature: str, keys: list[PublicKey], name: str) -> tuple[PublicKey, str]:
    """Check a signature file's text against the bytes it signs.

    Returns:
        The key that signed, and the trusted comment.

    Raises:
        ModelError: The signature is malformed, by a key that is not trusted, or does not fit the bytes.
    """
    lines = signature.replace("\r\n", "\n").split("\n")
    try:
        blob, outer = (base64.b64decode(lines[i], validate=True) for i in (1, 3))
        comment = lines[2].removeprefix("trusted comment: ")
        if [base64.b64encode(b).decode() for b in (blob, outer)] != [lines[1], lines[3]]:  # bits that carry nothing
            raise ValueError
    except (IndexError, ValueError):
        blob = outer = b""
        comment = ""
    if len(blob) != 74 or blob[:2] != b"ED" or len(outer) != 64:
        raise ModelError(f"{name}: its signature file is damaged; copy the model and its .minisig again")
    key = next((k for k in keys if k.key_id == blob[2:10]), None)
    if key is None:
        raise ModelError(
            f"{name}: signed by key {_key_name(blob[2:10])}, which this machine does not trust; if you do, "
            f"put the signer's .pub file into {trust_folder()}"
        )
    public = Ed25519PublicKey.from_public_bytes(key.raw)
    try:
        public.verify(blob[10:], hashlib.blake2b(data).digest())
        public.verify(outer, blob[10:] + comment.encode())
    except InvalidSignature:
        raise ModelError(
            f"{name}: does not fit its signature: it was changed or damaged; copy the model and its .minisig again"
        ) from None
    return key, comment


def signing_key() -> Ed25519PrivateKey:
    """This machine's signing key; made on first use, and then trusted by this machine."""
    from cryptography.hazmat.primitives import serialization  # a device only verifies, and this loads every cipher

    path = config_folder() / "signing.key"
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ModelError(f"{path}: not an Ed25519 private key; move it away, and a new one will be made")
        return key
    new = Ed25519PrivateKey.generate()
    pem = new.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    trusted = trust_folder()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        trusted.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
        (trusted / f"{_key_name(_public(new)[0])}.pub").write_text(public_key_file(new), encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"{path}: a signing key cannot be kept there ({error.strerror}); set SERKIT_CONFIG to another folder"
        ) from None
    return new


def _public(key: Ed25519PrivateKey) -> tuple[bytes, bytes]:
    raw = key.public_key().public_bytes_raw()
    return hashlib.blake2b(raw, digest_size=8).digest(), raw


def public_key_file(key: Ed25519PrivateKey) -> str:
    """The public half as a minisign ``.pub`` file."""
    key_id, raw = _public(key)
    blob = base64.b64encode(b"Ed" + key_id + raw).decode()
    return f"untrusted comment: minisign public key {_key_name(key_id)}\n{blob}\n"


def sign(data: bytes, key: Ed25519PrivateKey, comment: str) -> str:
    """A signature file's text; ``comment`` is signed as well and must be one line."""
    key_id, _ = _public(key)
    inner = key.sign(hashlib.blake2b(data).digest())
    outer = key.sign(inner + comment.encode())
    blob = base64.b64encode(b"ED" + key_id + inner).decode()
    return (
        f"untrusted comment: signature by serkit\n{blob}\ntrusted comment: {comment}\n"
        f"{base64.b64encode(outer).decode()}\n"
    )

"""The certificates that a UEFI variable store trusts: db of an OVMF variables file, read with every size bounded.

Layout: the UEFI Platform Initialization specification (firmware volume), edk2's VariableFormat.h (authenticated variables),
and the UEFI specification's EFI_SIGNATURE_LIST.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from h2k.base.errors import BadData

MAX_STORE = 16 * 1024 * 1024  # bytes; OVMF's have 128 and 528 KiB
MAX_VARIABLES = 4096
MAX_CERTIFICATES = 256
_STORE = uuid.UUID("AAF32C78-947B-439A-A180-2E144EC37792").bytes_le  # gEfiAuthenticatedVariableGuid
_SECURITY_DATABASE = uuid.UUID("D719B2CB-3D3A-4596-A3BC-DAD00E67656F").bytes_le
_X509 = uuid.UUID("A5C059A1-94E4-4AA7-87B5-AB155C2BF072").bytes_le
_SHA256 = uuid.UUID("C1C41626-504C-4092-ACA9-41F936934328").bytes_le
_START, _ADDED = 0x55AA, 0x3F
_VARIABLE = struct.Struct("<HBxIQ16sIII16s")  # start, state, attributes, count, time, key, name and data sizes, vendor
_LIST = struct.Struct("<16sIII")  # type, size of the list, of its header, of one entry
_OWNER = 16  # bytes before each entry's data


@dataclasses.dataclass(frozen=True)
class TrustedKeys:
    """What a variable store's db holds: the common names of its certificates in lower case, their SHA-256 thumbprints, and
    digests of single programs. `names` are for people."""

    names: tuple[str, ...]
    thumbprints: frozenset[str]
    programs: frozenset[str] = frozenset()

    def trusts(self, issuers: tuple[str, ...], thumbprints: tuple[str, ...]) -> bool:
        """Whether a chain (names of those who certify it, thumbprints of its certificates) leads to one of these."""
        known = {name.lower() for name in self.names}
        return bool(self.thumbprints & set(thumbprints)) or any(issuer.lower() in known for issuer in issuers)


def read_trusted(path: Path) -> TrustedKeys:
    """db of a variables file (OVMF_VARS*.fd); BadData when it is none that can be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_STORE + 1)
    except OSError as e:
        raise BadData(f"{path}: can't be read: {e.strerror}") from e
    if len(data) > MAX_STORE:
        raise BadData(f"{path}: more than {MAX_STORE} bytes: no variable store")
    return trusted(data, str(path))


def trusted(data: bytes, name: str) -> TrustedKeys:
    """db of the bytes of a variables file."""
    certificates: list[bytes] = []
    programs: set[str] = set()
    for kind, content in _signatures(_variable(data, "db", _SECURITY_DATABASE, name), name):
        if kind == _X509:
            certificates.append(content)
        elif kind == _SHA256:
            programs.add(content.hex())
        if len(certificates) > MAX_CERTIFICATES:
            raise BadData(f"{name}: more than {MAX_CERTIFICATES} certificates")
    thumbprints = frozenset(hashlib.sha256(c).hexdigest() for c in certificates)
    return TrustedKeys(tuple(_common_name(c, name) for c in certificates), thumbprints, frozenset(programs))


def _variable(data: bytes, wanted: str, vendor: bytes, name: str) -> bytes:
    """The content of a variable; none for one that is not set."""
    for at, state, title, content in _variables(data, name):
        if state == _ADDED and title == wanted and at == vendor:
            return content
    return b""


def _variables(data: bytes, name: str) -> Iterator[tuple[bytes, int, str, bytes]]:
    """(vendor, state, name, content) of each variable."""
    if data[40:44] != b"_FVH" or len(data) < 64:
        raise BadData(f"{name}: no firmware volume")
    at = int.from_bytes(data[48:50], "little")
    if data[at : at + 16] != _STORE:
        raise BadData(f"{name}: no store of authenticated variables")
    end = min(len(data), at + int.from_bytes(data[at + 16 : at + 20], "little"))
    at += 28
    for _ in range(MAX_VARIABLES):
        if at + _VARIABLE.size > end:
            return
        start, state, _, _, _, _, name_size, data_size, vendor = _VARIABLE.unpack_from(data, at)
        if start != _START:
            return
        at += _VARIABLE.size
        if name_size > end - at or data_size > end - at - name_size:
            raise BadData(f"{name}: a variable that reaches beyond its store at {at:#x}")
        title = data[at : at + (name_size & ~1)].decode("utf-16-le", "replace").rstrip("\0")
        yield vendor, state, title, data[at + name_size : at + name_size + data_size]
        at = (at + name_size + data_size + 3) & ~3


def _signatures(lists: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of each entry of the signature lists, one after another."""
    at = 0
    while at + _LIST.size <= len(lists):
        kind, size, header, entry = _LIST.unpack_from(lists, at)
        begin, end = at + _LIST.size + header, at + size
        if size < _LIST.size or end > len(lists) or entry <= _OWNER or begin > end:
            raise BadData(f"{name}: db holds no signature list at {at}")
        for place in range(begin, end - entry + 1, entry):
            yield kind, lists[place + _OWNER : place + entry]
        at = end


def _common_name(certificate: bytes, name: str) -> str:
    from asn1crypto import x509

    try:
        native: Any = x509.Certificate.load(certificate).subject.native
        text = native.get("common_name") or native.get("organizational_unit_name") or native.get("organization_name") or "?"
    # Whatever is wrong with ASN.1; asn1crypto has no error of its own.
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as e:
        raise BadData(f"{name}: db holds a certificate that can't be read: {str(e)[:80]}") from e
    text = text[-1] if isinstance(text, list) else text
    return "".join(c if c.isprintable() else "?" for c in str(text)[:100])

"""Who signed a driver package: the certificate that Windows up to 8.1 would ask its user about, out of the catalogue."""

from __future__ import annotations

import hashlib
import struct
from typing import Optional

MAX_CATALOGUE = 4 * 1024 * 1024  # bytes; virtio-win's have 10 to 20 KiB
# Below SOFTWARE: whom this Windows trusts as a publisher, a key for each, named by the SHA-1 of his certificate.
TRUSTED = "Microsoft\\SystemCertificates\\TrustedPublisher\\Certificates"
BLOB = "Blob"
SHA1_HASH, CERTIFICATE = 3, 32  # kinds of properties in a Blob
MICROSOFT = "Microsoft"  # in the signer's name or its issuer's: Windows trusts those itself


def catalogue_publisher(data: bytes) -> Optional[tuple[str, bytes]]:
    """(SHA-1 thumbprint, DER certificate) of the one who signed a .cat file; None for Microsoft's own, for one without a
    signature, and for what is no catalogue: Windows judges that itself."""
    from asn1crypto import cms

    if len(data) > MAX_CATALOGUE:
        return None
    try:
        signed = cms.ContentInfo.load(data)["content"]
        certificates = [c.chosen for c in signed["certificates"] if c.name == "certificate"]
        sid = signed["signer_infos"][0]["sid"]
        wanted = (sid.chosen["issuer"].hashable, sid.chosen["serial_number"].native)
        signer = next(c for c in certificates if (c.issuer.hashable, c.serial_number) == wanted)
        names = signer.subject.human_friendly + signer.issuer.human_friendly
        der = bytes(signer.dump())
    # Whatever is wrong with ASN.1 of a stranger; asn1crypto has no error of its own.
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, StopIteration):
        return None
    return None if MICROSOFT in names else (hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(), der)


def trusted_blob(thumbprint: str, der: bytes) -> bytes:
    """The value Blob of a trusted certificate: properties, the certificate the last of them. Each is its kind, 1, its
    length (DWORDs) and its bytes (MS-GPEF 2.2.1.1.1)."""
    properties = ((SHA1_HASH, bytes.fromhex(thumbprint)), (CERTIFICATE, der))
    return b"".join(struct.pack("<III", kind, 1, len(data)) + data for kind, data in properties)

"""Signatures against another program's: osslsigncode accepts what the tests make, and h2k reads what osslsigncode makes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from h2k.windows.signature import read_signatures
from tests.guests.pe import make_pe
from tests.guests.signing import CHAINS, chain, key, root, sign_pe

DRIVER = make_pe("amd64", b"made driver")


def pem(*certificates: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(c.public_bytes(Encoding.PEM) for c in certificates)  # type: ignore[attr-defined]


def osslsigncode(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["osslsigncode", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("by", CHAINS)
def test_another_program_verifies_what_is_made(by: str, tmp_path: Path) -> None:
    (tmp_path / "x.sys").write_bytes(sign_pe(DRIVER, by, ("sha1", "sha256")))
    (tmp_path / "root.pem").write_bytes(pem(root(by)))
    done = osslsigncode("verify", "-CAfile", str(tmp_path / "root.pem"), "-in", str(tmp_path / "x.sys"))
    assert done.returncode == 0 and "Number of verified signatures: 2" in done.stdout, done.stdout + done.stderr
    changed = bytearray((tmp_path / "x.sys").read_bytes())
    changed[600] ^= 1
    (tmp_path / "x.sys").write_bytes(changed)
    assert osslsigncode("verify", "-CAfile", str(tmp_path / "root.pem"), "-in", str(tmp_path / "x.sys")).returncode != 0


@pytest.mark.parametrize("digests", [("sha1",), ("sha256",), ("sha1", "sha256"), ("sha384",)])
def test_what_another_program_signs_is_read(digests: tuple[str, ...], tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    (tmp_path / "key.pem").write_bytes(key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "chain.pem").write_bytes(pem(*chain("cross")))
    (tmp_path / "0.sys").write_bytes(DRIVER)
    for number, digest in enumerate(digests):
        nested = ["-nest"] if number else []
        done = osslsigncode(
            "sign", "-certs", str(tmp_path / "chain.pem"), "-key", str(tmp_path / "key.pem"), "-h", digest, *nested,
            "-in", str(tmp_path / f"{number}.sys"), "-out", str(tmp_path / f"{number + 1}.sys"),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    found = read_signatures((tmp_path / f"{len(digests)}.sys").read_bytes(), "x.sys")
    assert [(s.digest, s.holds, s.signer, s.issuers) for s in found] == [
        (d, True, CHAINS["cross"][0], CHAINS["cross"][1:]) for d in digests
    ]

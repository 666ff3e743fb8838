"""What may be shown: nothing that steers a terminal, forges a line, or gives a secret away."""

from __future__ import annotations

import time
from typing import Any

import pytest

from h2k.base.errors import Refused
from h2k.base.files import json_text
from h2k.base.finding import Finding
from h2k.base.run import CommandFailed
from h2k.base.steps import Steps
from h2k.base.text import mask_argv, mask_secrets, printable, size_text, time_text

FORGED = "disk\x1b[2K\r\nh2k: READY: healthy\u202e\x9b1A\udc80"


def test_printable_is_one_line_of_what_can_be_printed() -> None:
    text = printable(FORGED)
    assert text.isprintable() and "h2k: READY" in text and len(text) == len(FORGED)
    assert printable("Ünïcode 日本 (x)") == "Ünïcode 日本 (x)"
    text.encode("utf-8")


def test_errors_and_findings_can_be_shown_whatever_is_in_them() -> None:
    assert str(Refused(FORGED, hint=FORGED)).isprintable()
    finding = Finding("hive-corrupt", "refused", FORGED, FORGED, FORGED)
    assert all(text.isprintable() for text in (finding.subject, finding.evidence, finding.repair))


def test_steps_can_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    Steps().say(f"unpacking {FORGED} from ssh://root:geheim@esx/x")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said[:-1].isprintable() and "geheim" not in said


def test_json_has_escapes_for_what_a_terminal_would_obey() -> None:
    import json

    text = json_text({"name": FORGED, "ü": [1]})
    assert text.replace("\n", "").isprintable() and "ü" in text
    assert json.loads(text) == {"name": FORGED, "ü": [1]}


@pytest.mark.parametrize(
    "text",
    [
        "vpx://root:S3cret@vc.example/DC/esxi?no_verify=1", "ssh://root:S3cret@esx/vmfs/x.vmx", "https://u:a@S3cret@h/x",
        "nbd://user:sla/S3cret@host/export", "https://host/x?sig=1&access_token=S3cret&v=2", "-oo token=S3cret",
        "-oo os-password=S3cret", "--key all:key:S3cret", "--object secret,id=sec0,data=S3cret", '{"file.password": "S3cret"}',
        "https://:S3cret@host/", "http:/user:S3cret@host/disk", "nbd:/user:sla/S3cret@host/export", "vddk-cookie=S3cret", "rhv_password='S3cret x'", "qemu+ssh://a:S3cret@b/system and http://c:S3cret@d",
    ],
)  # fmt: skip
def test_secrets_are_masked(text: str) -> None:
    assert "S3cret" not in mask_secrets(text) and "***" in mask_secrets(text)
    assert "S3cret" not in str(CommandFailed(["virt-v2v", text], 1, f"failed: {text}"))


@pytest.mark.parametrize(
    "text",
    [
        "nbd://host:10809/export@1", "ssh://root@esx:22/vmfs/x.vmx", "SYSTEM\\ControlSet001\\Services\\x Start: 3 → 0",
        "user@host:path", "C:/Windows/a:b", "disk:/dev/sda:1", "qemu+ssh://alice@kvm/system", "the passwords are in the file", "/etc/passwd: no disk image", "a token: none", "json:{\"driver\": \"raw\"}",
    ],
)  # fmt: skip
def test_what_holds_no_secret_stays(text: str) -> None:
    assert mask_secrets(text) == text


def test_a_word_that_sets_a_secret_is_masked_to_its_end() -> None:
    argv = ["virt-v2v", "-ic", "vpx://u:p1@h", "-oo", "token=p2,p3 p4&p5", "-oo", "password=p6;p7", "--password", "p8", "-on", "web"]
    assert mask_argv(argv) == [
        "virt-v2v", "-ic", "vpx://u:***@h", "-oo", "token=***", "-oo", "password=***", "--password", "***", "-on", "web",
    ]  # fmt: skip


@pytest.mark.parametrize("piece", ["://a:b", "@:/a:b", "a.", "://", "token", "secret,data", "x:key:"])
def test_hostile_text_takes_no_time(piece: str) -> None:
    began = time.process_time()
    mask_secrets(piece * (200_000 // len(piece)))
    assert time.process_time() - began < 60  # without a bound it takes minutes


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (4 * 1024**3, "4.0 GiB"), (2 * 1024**4, "2.0 TiB")])
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (3, "3 s"), (600, "10 min"), (3900, "65 min"), (7500, "2 h 05 min")])
def test_times(seconds: Any, text: str) -> None:
    assert time_text(seconds) == text

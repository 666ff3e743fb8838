"""Hooks that are programs: what they get, what becomes of their answer, and every answer that is none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Optional

import pytest

from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.finding import Finding
from h2k.base.run import CommandFailed
from h2k.config.driver_plan import load_plan
from h2k.engine import hook_program
from h2k.engine.hook_program import Program, describe
from h2k.engine.hooks import Hook, Options, propose
from h2k.guest.changes import DeleteKey, DeleteValue, SetValue, WriteFile
from h2k.windows import values
from tests.unit.memory_reader import windows_guest

META = {"name": "made", "summary": "a test", "answers": ["made-finding"]}
FINDING = {"id": "made-finding", "state": "broken", "subject": "x", "evidence": "y", "repair": "z"}
TEXT = """[$cs\\Services\\made]
"Start"=dword:00000003
"Big"=hex(b):01,00,00,00,01,00,00,00
"ImagePath"=expand:"x.sys"
"Group"="Filter"
"Raw"=hex:00,ff
"Many"=multi:["a","b"]
"Odd"=hex(9):01,02
[$cs\\Services\\made\\Below]
"""


class Host:
    """Runs no program: it keeps what one would get, and answers for it."""

    def __init__(self) -> None:
        self.stdout = b"{}"
        self.error: Optional[Exception] = None
        self.asked: list[tuple[list[str], Any, float]] = []

    def run(self, argv: Any, *, stdin: bytes, timeout: float) -> Any:
        self.asked.append((list(argv), json.loads(stdin) if stdin else None, timeout))
        if self.error is not None:
            raise self.error
        return subprocess.CompletedProcess(argv, 0, self.stdout, b"")

    def answer(self, **content: Any) -> None:
        self.stdout = json.dumps(content).encode()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host()
    monkeypatch.setattr(hook_program, "run", found.run)
    return found


def proposed(path: Path = Path("/hooks/50-made"), needs: Any = None, guest: Any = None) -> list[Any]:
    program = Program(path, {**META, "needs": needs or {}})
    return list(program.propose(guest or windows_guest(TEXT), {"bus": "sata"}))


def changed(host: Host, **change: Any) -> Any:
    host.answer(changes=[change])
    (found,) = proposed()
    return found


# What it gets


def test_a_program_gets_the_facts_the_options_and_what_it_needs(host: Host) -> None:
    guest = windows_guest(TEXT, files={"/Windows/System32/drivers/A.sys": b"12", "/Windows/System32/drivers/b.txt": b""})
    key, gone = "SYSTEM\\CurrentControlSet\\Services\\made", "SYSTEM\\Nowhere"
    files = {"/Windows/System32/drivers/*.SYS": [{"path": "/Windows/System32/drivers/A.sys", "size": 2}], "/nowhere/*": []}
    proposed(needs={"registry": [key, gone, "DRIVERS\\x"], "files": list(files)}, guest=guest)
    ((argv, given, seconds),) = host.asked
    assert argv == ["/hooks/50-made"] and seconds == 120
    assert given["options"] == {"bus": "sata"} and given["files"] == files
    assert given["registry"] == {
        key: {
            "values": {
                "Start": {"type": "DWORD", "data": 3},
                "Big": {"type": "QWORD", "data": (1 << 32) + 1},
                "ImagePath": {"type": "EXPAND_SZ", "data": "x.sys"},
                "Group": {"type": "SZ", "data": "Filter"},
                "Raw": {"type": "BINARY", "data": "00ff"},
                "Many": {"type": "MULTI_SZ", "data": ["a", "b"]},
                "Odd": {"type": "9", "data": "0102"},
            },
            "subkeys": ["Below"],
        },
        gone: None,
        "DRIVERS\\x": None,
    }
    assert (given["guest"]["firmware"], given["guest"]["control_sets"]["default"]) == ("uefi", 1)
    assert given["guest"]["windows"]["build"] in (20348, "20348") and given["guest"]["system_root"]


def test_so_many_facts_and_no_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/b/1.sys": b"", "/b/2.sys": b"", "/pagefile.sys": b"", "/b/3.inf": b""}
    guest = windows_guest(TEXT + "[$cs\\Services\\made\\Other]\n", files=files)
    key = "system\\ControlSet001\\Services\\made"
    needs = {"registry": [key], "files": ["\\B\\*.SYS", "/PAGEfile.sys"]}
    monkeypatch.setattr(hook_program, "MAX_ITEMS", 1)
    proposed(needs=needs, guest=guest)
    given = host.asked[0][1]
    assert list(given["registry"][key]["values"]) == ["Start"] and given["registry"][key]["subkeys"] == ["Below"]
    assert given["files"] == {
        "\\B\\*.SYS": [{"path": "/b/1.sys", "size": 0}], "/PAGEfile.sys": [{"path": "/pagefile.sys", "size": 0}],
    }  # fmt: skip


# What becomes of its answer


def test_findings_come_first_then_the_changes(host: Host) -> None:
    host.answer(findings=[FINDING], changes=[{"change": "delete_key", "hive": "SOFTWARE", "key": "A"}])
    assert proposed() == [Finding(**FINDING), DeleteKey("SOFTWARE", "A")]


@pytest.mark.parametrize(
    ("kind", "data", "value"),
    [
        (None, "text", values.text("text")),
        ("SZ", "text", values.text("text")),
        ("EXPAND_SZ", "%x%", values.expand("%x%")),
        ("DWORD", 7, values.dword(7)),
        ("QWORD", 1 << 40, values.qword(1 << 40)),
        ("BINARY", "00ff", values.binary(b"\0\xff")),
        ("MULTI_SZ", ["a", "b"], values.multi(["a", "b"])),
    ],
)
def test_a_value_of_each_type(host: Host, kind: Optional[str], data: Any, value: Any) -> None:
    more = {"type": kind} if kind is not None else {}
    found = changed(host, change="set_value", hive="SOFTWARE", key="A", name="B", data=data, **more)
    assert found == SetValue("SOFTWARE", "A", "B", value)


@pytest.mark.parametrize(
    ("kind", "data"), [("DWORD", "many"), ("DWORD", None), ("DWORD", 1 << 32), ("DWORD", -1), ("BINARY", "0g"), ("MULTI_SZ", 5), ("SZ", 5), ("EXPAND_SZ", None)]
)  # fmt: skip
def test_a_value_that_is_none_of_its_type(host: Host, kind: str, data: Any) -> None:
    with pytest.raises(H2kError, match=rf"50-made: A B: .* is no {kind}"):
        changed(host, change="set_value", hive="SOFTWARE", key="A", name="B", type=kind, data=data)


def test_the_current_control_set_is_the_one_that_will_be_started(host: Host) -> None:
    for spelt in ("CurrentControlSet", "currentcontrolset"):
        found = changed(host, change="delete_value", hive="SYSTEM", key=f"{spelt}\\Services\\made", name="Start")
        assert found == DeleteValue("SYSTEM", "ControlSet001\\Services\\made", "Start")
    found = changed(host, change="delete_key", hive="SOFTWARE", key="CurrentControlSet\\A")
    assert found == DeleteKey("SOFTWARE", "CurrentControlSet\\A")


def test_a_file_that_lies_beside_the_hook(host: Host, tmp_path: Path) -> None:
    (tmp_path / "x.sys").write_bytes(b"new")
    host.answer(changes=[{"change": "write_file", "path": "/Windows/x.sys", "source": "x.sys"}])
    guest = windows_guest()
    assert proposed(tmp_path / "50-made", guest=guest) == [WriteFile(guest.volume, "/Windows/x.sys", b"new", "x.sys")]
    (tmp_path / "x.sys").unlink()
    with pytest.raises(H2kError, match=r"x\.sys: No such file.*the hook 50-made names it"):
        proposed(tmp_path / "50-made")


def test_a_file_that_is_too_large_is_not_read(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_program, "FILE_LIMIT", 3)
    host.answer(changes=[{"change": "write_file", "path": "/Windows/x.sys", "source": "x.sys"}])
    (tmp_path / "x.sys").write_bytes(b"123")
    assert len(proposed(tmp_path / "50-made")) == 1
    (tmp_path / "x.sys").write_bytes(b"1234")
    with pytest.raises(H2kError, match="larger than 3 bytes"):
        proposed(tmp_path / "50-made")


# Answers that are none


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (CommandFailed(["/hooks/50-made"], None, "no answer within 120 s"), r"50-made: .*timed out"),
        (CommandFailed(["/hooks/50-made"], 7, "boom"), r"50-made: .*ended with status 7: boom"),
        (PermissionError(13, "Permission denied"), "50-made: .*Permission denied"),
        (OSError(8, "Exec format error"), "50-made: .*Exec format error"),
    ],
)
def test_a_program_that_fails_is_named(host: Host, error: Exception, said: str) -> None:
    host.error = error
    with pytest.raises(H2kError, match=said):
        proposed()
    with pytest.raises(UsageError, match=r"/hooks/50-made: this hook can't be loaded: .*--describe"):
        describe(Path("/hooks/50-made"))


@pytest.mark.parametrize("answer", [b"", b"nonsense", b"{", b"\xff\xfe\xff", b"[" * 200_000])
def test_what_is_no_json(host: Host, answer: bytes) -> None:
    host.stdout = answer
    with pytest.raises(H2kError, match="50-made: its answer is no JSON"):
        proposed()


FAULTS = [
    ([], "the answer: .* is not of type 'object'"),
    ({"more": 1}, "the answer: .*'more' was unexpected"),
    ({"findings": [{**FINDING, "state": "bad"}]}, "findings/0/state: 'bad' is not one of"),
    ({"findings": [{**FINDING, "more": 1}]}, "findings/0: .*'more' was unexpected"),
    ({"findings": [{"id": "x"}]}, "findings/0: 'state' is a required property"),
    ({"findings": [{**FINDING, "id": "No Id"}]}, "findings/0/id"),
    ({"findings": [{**FINDING, "subject": "x" * 4097}]}, "findings/0/subject"),
    ({"changes": [{"change": "format"}]}, "changes/0"),
    ({"changes": [{"change": "delete_key", "hive": "SYSTEM"}]}, "changes/0"),
    ({"changes": [{"change": "delete_key", "hive": "SYSTEM", "key": "A", "name": "B"}]}, "changes/0"),
    ({"changes": [{"change": "set_value", "hive": "SYSTEM", "key": "A", "name": "B", "type": "LINK", "data": ""}]}, "changes/0"),
]


@pytest.mark.parametrize(("answer", "said"), FAULTS)
def test_an_answer_against_the_schema_says_where(host: Host, answer: Any, said: str) -> None:
    host.stdout = json.dumps(answer).encode()
    with pytest.raises(H2kError, match=f"50-made: {said}"):
        proposed()


def test_what_is_wrong_is_told_in_one_line_of_some_length(host: Host) -> None:
    host.answer(findings=[{**FINDING, "state": "x" * 1000}])
    with pytest.raises(H2kError) as caught:
        proposed()
    assert len(caught.value.message) == len("50-made: findings/0/state: ") + 200
    with pytest.raises(H2kError) as caught:
        changed(host, change="set_value", hive="SYSTEM", key="A", name="B", type="DWORD", data="x" * 1000)
    assert caught.value.message == f"/hooks/50-made: A B: '{'x' * 79} is no DWORD"


def test_an_answer_that_is_too_long(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_program, "OUTPUT_LIMIT", 2)
    assert proposed() == []
    host.stdout = b"{} "
    with pytest.raises(H2kError, match="answered with 3 bytes"):
        proposed()


def test_an_id_that_meta_does_not_announce(host: Host) -> None:
    host.answer(findings=[{**FINDING, "id": "unknown-id"}])
    program = Program(Path("/hooks/50-made"), META)
    hook = Hook("made", program.path, "", ("made-finding",), False, lambda guest, options: program.propose(guest, {}))
    with pytest.raises(H2kError, match="hook made: it reports unknown-id"):
        propose([hook], windows_guest(), Options(load_plan()))


def test_a_directory_that_can_not_be_listed_has_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = windows_guest()

    def unreadable(*_: Any) -> Any:
        raise BadData("index: bad")

    monkeypatch.setattr(guest.reader, "listdir", unreadable)
    assert hook_program._files(guest, "/Windows/*") == []


# What it says of itself


def test_a_program_describes_itself(host: Host) -> None:
    described = {**META, "needs": {"registry": ["SYSTEM\\A"], "files": []}, "gate": True}
    host.answer(**described)
    assert describe(Path("/hooks/50-made")) == Program(Path("/hooks/50-made"), described)
    assert host.asked == [(["/hooks/50-made", "--describe"], None, 10)]


@pytest.mark.parametrize("fault", [{"name": "Upper"}, {"summary": 5}, {"needs": {"disks": []}}, {"options": {}}, {"answers": "x"}])
def test_a_description_that_is_none(host: Host, fault: dict[str, Any]) -> None:
    host.answer(**{**META, **fault})
    with pytest.raises(UsageError, match=r"/hooks/50-made: this hook can't be loaded: 50-made"):
        describe(Path("/hooks/50-made"))

"""Hooks: found by path, in the order of their names, overridden and masked; what one says reaches the proposal."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from h2k.base.errors import BadData, H2kError, Refused, UsageError
from h2k.base.finding import Finding
from h2k.config.driver_plan import load_plan
from h2k.disk.reader import VolumeRef
from h2k.engine import hooks
from h2k.engine.hooks import Document, Hook, Options, Proposal, Setting, find_hooks, propose
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword
from tests.unit.hooks import options, packaged
from tests.unit.memory_reader import MemoryReader, driver, make_disk, windows_guest

META = 'META = {{"name": "{name}", "summary": "made", "answers": ("some-finding",), "gate": {gate}}}\n'
SET = SetValue("SYSTEM", "A", "Start", dword(0))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """(packaged, local, extra), all empty."""
    found = tmp_path / "packaged", tmp_path / "local", tmp_path / "extra"
    for place in found:
        place.mkdir()
    monkeypatch.setattr(hooks, "PACKAGED", (found[0],))
    monkeypatch.setattr(hooks, "LOCAL", found[1])
    return found


def write(directory: Path, file: str, name: str = "", gate: bool = False, body: str = "def propose(g, o): yield from ()\n") -> Path:
    path = directory / file
    path.write_text(META.format(name=name or path.stem.lstrip("0123456789-") or "x", gate=gate) + body)
    path.chmod(0o644)
    return path


def made(name: str, *items: Any, gate: bool = False, error: Any = None) -> Hook:
    """A hook that yields these items, and then raises."""

    def say(guest: Any, options: Options) -> Iterator[Any]:
        yield from items
        if error is not None:
            raise error

    return Hook(name, Path(name), "", ("x", "y", "z", "later"), gate, say)


def ask(*hooks: Hook, accept: tuple[str, ...] = (), skip: tuple[str, ...] = ()) -> Proposal:
    return propose(hooks, None, Options(load_plan(), accept=frozenset(accept)), skip)  # type: ignore[arg-type]


def finding(name: str, state: str = "broken") -> Finding:
    return Finding(name, state, "subject", "evidence")


# Finding them


def test_a_hook_without_its_run_bit_is_told_and_what_lies_beside_hooks_is_not(places: tuple[Path, Path, Path]) -> None:
    _, _, extra = places
    for name in ("10-notes.md", "10-old.py.bak", "hook", "20-x.dpkg-old"):
        (extra / name).write_text("")
    (extra / "30-directory").mkdir()
    assert find_hooks([extra]) == ()
    (extra / "40-mine").write_text("#!/bin/sh\n")
    (extra / "40-mine").chmod(0o644)
    with pytest.raises(UsageError, match=r"40-mine: .*not executable.*chmod \+x"):
        find_hooks([extra])


def test_in_the_order_of_their_names_from_all_places(places: tuple[Path, Path, Path]) -> None:
    packaged, local, extra = places
    write(packaged, "20-b.py")
    write(local, "10-a.py")
    write(extra, "15-c.py")
    write(packaged, "README.py")
    write(packaged, "30-notes.txt")
    assert [h.path for h in find_hooks([extra])] == [local / "10-a.py", extra / "15-c.py", packaged / "20-b.py"]


def test_a_later_place_overrides_by_name(places: tuple[Path, Path, Path]) -> None:
    extra = places[2]
    for place, name in zip(places, ("packaged", "local", "extra")):
        write(place, "20-b.py", name)
    assert [h.name for h in find_hooks([extra])] == ["extra"]
    assert [h.name for h in find_hooks()] == ["local"]


def test_a_link_to_dev_null_masks(places: tuple[Path, Path, Path]) -> None:
    packaged, local, _ = places
    write(packaged, "20-b.py")
    write(packaged, "30-c.py")
    (local / "20-b.py").symlink_to("/dev/null")
    assert [h.path.name for h in find_hooks()] == ["30-c.py"]


def test_a_missing_directory(places: tuple[Path, Path, Path]) -> None:
    with pytest.raises(UsageError, match="/nowhere: no such hook directory"):
        find_hooks([Path("/nowhere")])


@pytest.mark.parametrize(
    "body",
    ["import no_such_module\n", "def broken(:\n", "1 / 0\n", "unknown_name\n", "raise ValueError('x')\n", ""],
)
def test_a_hook_that_can_not_be_loaded_is_named(places: tuple[Path, Path, Path], body: str) -> None:
    path = write(places[0], "20-b.py", body=body)
    with pytest.raises(UsageError, match=f"{path}: this hook can't be loaded: "):
        find_hooks()


def test_a_python_hook_knows_where_it_lies_and_leaves_nothing_there(places: tuple[Path, Path, Path]) -> None:
    body = "import pathlib\nBESIDE = pathlib.Path(__file__).with_name('note').read_text()\n"
    (places[0] / "note").write_text("x")
    write(places[0], "20-b.py", body=f"{body}def propose(g, o): yield BESIDE\n")
    (hook,) = find_hooks()
    assert list(hook.propose(None, None)) == ["x"]  # type: ignore[arg-type]
    assert sorted(p.name for p in places[0].iterdir()) == ["20-b.py", "note"]


def test_a_program_is_asked_what_it_is_and_told_what_is_wished(places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Program:
        """One that says what it was given."""

        meta: ClassVar[dict[str, Any]] = {"name": "mine", "summary": "made", "answers": ["x", "y"]}

        def propose(self, guest: Any, wishes: dict[str, Any]) -> Iterator[Any]:
            yield from (guest, wishes["bus"], wishes["phase"], wishes["policy"]["writer"])

    monkeypatch.setattr(hooks, "describe", lambda path: Program() if path.name == "40-mine" else None)
    (places[2] / "40-mine").write_text("#!/bin/sh\n")
    (places[2] / "40-mine").chmod(0o755)
    (hook,) = find_hooks([places[2]])
    assert (hook.name, hook.summary, hook.answers, hook.gate) == ("mine", "made", ("x", "y"), False)
    assert list(hook.propose("guest", Options(load_plan(), bus="sata", phase="source"))) == ["guest", "sata", "source", "auto"]  # type: ignore[arg-type]


META_FAULTS = {
    "META = None": "META: all of it: None is not of type 'object'",
    "META = {}": "META: all of it: 'name' is a required property",
    "META = object()": "Object of type object is not JSON serializable",
    "META['name'] = 'Upper'": "META: name: 'Upper' does not match",
    "META['summary'] = 7": "META: summary: 7 is not of type 'string'",
    "META['answers'] = 'some-finding'": "META: answers: 'some-finding' is not of type 'array'",
    "META['answers'] = ['No Id']": "META: answers/0: 'No Id' does not match",
    "META['gate'] = 1": "META: gate: 1 is not of type 'boolean'",
    "META['options'] = {}": "META: .*'options' was unexpected",
    "META['needs'] = {'files': []}": "META: .*'needs' was unexpected",
}


@pytest.mark.parametrize("fault", META_FAULTS)
def test_meta_is_checked_as_a_program_s_is(places: tuple[Path, Path, Path], fault: str) -> None:
    path = write(places[0], "20-b.py", body=f"{fault}\ndef propose(g, o): yield from ()\n")
    with pytest.raises(UsageError, match=f"{path}: this hook can't be loaded: .*{META_FAULTS[fault]}"):
        find_hooks()


def test_a_link_to_nothing(places: tuple[Path, Path, Path]) -> None:
    (places[1] / "20-b.py").symlink_to("gone.py")
    with pytest.raises(UsageError, match=r"20-b\.py: can't read this hook"):
        find_hooks()


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_as_root_a_hook_that_others_can_write_is_refused(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    write(places[1], "20-b.py").chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match=r"20-b\.py: others can write to it; a hook is there that root is to obey \(chmod go-w"):
        find_hooks()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert len(find_hooks()) == 1


def test_as_root_a_directory_of_hooks_that_others_can_write_is_refused(
    places: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even while no hook is in it: who can write there says which hooks run, and masks others."""
    places[1].chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(Refused, match=r"others can write to it; hooks is there that root is to obey"):
        find_hooks()


# What they say


def test_everything_reaches_the_proposal_once() -> None:
    bus, file = Setting("bus", "sata", "why"), Document("x.json", {"a": 1})
    found = ask(made("a", finding("x"), SET, bus, file), made("b", finding("x"), SET, Setting("bus", "ide", "later")))
    assert found.findings == (finding("x"),)
    assert found.changes == (SET,)
    assert found.documents == (file,)
    assert (found.setting("bus", ""), found.setting("nic", "e1000e")) == ("ide", "e1000e")


def test_broken_and_refused() -> None:
    found = ask(made("a", finding("x", "broken"), finding("y", "refused"), finding("z", "warning")))
    assert ([f.id for f in found.broken], [f.id for f in found.refused]) == (["x"], ["y"])


def test_no_refusal_hides_another() -> None:
    later = made("later", finding("later", "refused"), SET)
    for first in (made("gate", finding("x", "refused"), gate=True), made("a", finding("x", "refused"))):
        found = ask(first, later)
        assert [f.id for f in found.refused] == ["x", "later"] and found.changes == (SET,)


@pytest.mark.parametrize("error", [Refused("no Windows here"), UsageError("it failed"), ZeroDivisionError("division by zero")])
def test_behind_a_gate_s_refusal_a_hook_that_fails_is_left_out(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "h2k.hook")
    failing = made("failing", finding("y", "refused"), error=error)
    found = ask(made("gate", finding("x", "refused"), gate=True), failing, made("later", finding("later", "refused")))
    assert [f.id for f in found.refused] == ["x", "y", "later"]  # and what it said before it failed
    assert "hook failing is left out" in caplog.text
    for open_gate in (made("gate", finding("x", "broken"), gate=True), made("a", finding("x", "refused"))):
        with pytest.raises(H2kError, match="hook failing"):
            ask(open_gate, failing)


def test_a_finding_that_meta_does_not_announce_names_its_hook() -> None:
    with pytest.raises(H2kError, match=r"hook a: it reports nosuch, which the answers of its META do not announce .*in a\)"):
        ask(made("a", finding("nosuch", "warning")))


def test_an_accepted_refusal_is_a_warning_and_stops_nothing() -> None:
    found = ask(made("gate", finding("x", "refused"), gate=True), made("later", finding("later")), accept=("x",))
    assert [(f.id, f.state) for f in found.findings] == [("x", "warning"), ("later", "broken")]


def test_a_hook_that_is_skipped_says_nothing() -> None:
    assert ask(made("a", finding("x")), made("b", finding("y")), skip=("a",)).findings == (finding("y"),)


def test_an_expected_failure_names_its_hook() -> None:
    with pytest.raises(H2kError, match="hook a: it failed"):
        ask(made("a", SET, error=UsageError("it failed")))


def test_what_can_not_be_read_is_a_refusal_told_once() -> None:
    unsound = made("a", error=BadData("SYSTEM: bad cell"))
    found = ask(unsound, made("b", error=BadData("SYSTEM: another bad cell")), made("c", finding("later", "refused")))
    assert [(f.id, f.subject) for f in found.refused] == [("hive-corrupt", "SYSTEM"), ("later", "subject")]
    assert found.refused[0].evidence == "SYSTEM: bad cell (met by the hook a)"
    assert [f.id for f in ask(unsound, made("b", error=BadData("BCD: bad cell"))).refused] == ["hive-corrupt", "bcd-corrupt"]
    assert [f.id for f in ask(made("a", error=BadData("/x/y.sys: short"))).refused] == ["file-unreadable"]


@pytest.mark.parametrize(("hint", "repair"), [("", "restore it from a backup of the source"), ("run chkdsk", "run chkdsk")])
def test_the_way_out_of_what_can_not_be_read(hint: str, repair: str) -> None:
    assert [f.repair for f in ask(made("a", error=BadData("SYSTEM: bad cell", hint=hint))).refused] == [repair]


def test_what_a_gate_has_refused_is_not_told_again_by_who_can_not_read_it() -> None:
    for told in (Finding("x", "refused", "/Windows/System32/config/SYSTEM", "no root key"), Finding("x", "refused", "volume", "SYSTEM: bad")):
        found = ask(made("gate", told, gate=True), made("b", error=BadData("SYSTEM: bad")), made("c", finding("later", "refused")))
        assert found.refused == (told, finding("later", "refused"))


@pytest.mark.parametrize("subject", ["BCD", "/Windows/zz", "volume"])
def test_what_is_refused_elsewhere_hides_nothing_that_can_not_be_read(subject: str) -> None:
    told = Finding("x", "refused", subject, "no root key")
    assert len(ask(made("gate", told, gate=True), made("b", error=BadData("SYSTEM: bad"))).refused) == 2


def test_a_hook_that_fails_behind_what_can_not_be_read_is_left_out() -> None:
    found = ask(made("a", error=BadData("SYSTEM: bad")), made("b", error=ZeroDivisionError()), made("c", finding("later", "refused")))
    assert [f.id for f in found.refused] == ["hive-corrupt", "later"]


def test_one_thing_told_in_two_spellings_is_told_once() -> None:
    spellings = [Finding("x", "refused", subject, "no store") for subject in ("/EFI/Boot/BCD", "/efi/boot/bcd")]
    assert ask(made("a", spellings[0]), made("b", spellings[1])).findings == (spellings[0],)


def test_a_hook_that_crashes_is_named_and_stops_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "h2k.hook")
    with pytest.raises(H2kError, match=r"^hook a failed: ZeroDivisionError: division by zero \(--h2k-skip a; h2k -v shows where"):
        ask(made("a", error=ZeroDivisionError("division by zero")))
    assert "Traceback" in caplog.text


# The packaged ones

PACKAGED = sorted((Path(__file__).resolve().parents[2] / "hooks").glob("[0-9]*.py"))


def test_the_packaged_hooks_load() -> None:
    found = find_hooks()
    assert [h.path for h in found] == PACKAGED
    assert len({h.name for h in found}) == len(found)


@pytest.mark.parametrize("path", PACKAGED, ids=[p.stem for p in PACKAGED])
def test_a_packaged_hook_knows_neither_guestfs_nor_libvirt_and_has_its_duty_in_its_first_line(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {m for m in imported if m.split(".")[0] in ("guestfs", "libvirt", "subprocess", "hivex", "click")}
    assert not {m for m in imported if m in ("h2k.engine.pipeline", "h2k.convert", "h2k.cli", "h2k.engine.apply")}


# All of them, on guests that must be refused: every reason at once, and nothing that only follows from one

WINDOWS = VolumeRef(0, 2)


def refusals(guest: Guest) -> list[tuple[str, str]]:
    return [(f.id, f.subject) for f in propose(find_hooks(), guest, Options(load_plan())).refused]


def spoilt(guest: Guest, path: str, data: bytes) -> Guest:
    assert isinstance(guest.reader, MemoryReader)
    guest.reader.files[WINDOWS][path] = data
    return guest


def test_hibernated_and_without_drivers_and_a_store() -> None:
    said = refusals(windows_guest(files={"hiberfil.sys": b"HIBR"}))
    assert {i for i, _ in said} >= {"volume-hibernated", "driver-package-missing", "boot-manager-missing", "bcd-missing"}


def test_an_encrypted_system_volume_alone() -> None:
    assert refusals(Guest(MemoryReader([make_disk(0, ["fat", "bitlocker"])], {}))) == [
        ("volume-encrypted", "disk 0 partition 2")
    ]


def test_two_windows_systems_alone() -> None:
    one = windows_guest().reader
    assert isinstance(one, MemoryReader)
    two = make_disk(0, ["ntfs", "ntfs"])
    guest = Guest(MemoryReader([two], {v.ref: one.files[WINDOWS] for v in two.volumes}))
    assert refusals(guest) == [("boot-disk-ambiguous", "/dev/sda1, /dev/sda2")]


@pytest.mark.parametrize("hive", ["SYSTEM", "SOFTWARE"])
@pytest.mark.parametrize("data", [b"", b"regf", b"regf" + bytes(8188), b"x" * 8192])
def test_a_hive_that_is_none_is_told_once_and_so_is_what_lies_elsewhere(hive: str, data: bytes) -> None:
    guest = spoilt(windows_guest(files={"hiberfil.sys": b"HIBR"}), f"/Windows/System32/config/{hive}", data)
    said = refusals(guest)
    assert said[0][0] == "volume-hibernated" and len(said) == len({i for i, _ in said})
    assert [i for i, _ in said[1:] if i.startswith("hive-")] in (["hive-corrupt"], ["hive-unrecoverable"])


def test_what_a_hook_can_t_read_is_a_finding_and_stops_the_run() -> None:
    guest = windows_guest(driver("viostor"))
    assert isinstance(guest.reader, MemoryReader)
    path = "/Windows/System32/config/SOFTWARE"
    guest.reader.files[WINDOWS][path] = b"regf" + bytes(8188)
    proposal = propose([packaged()["boot-filters"], packaged()["domains"]], guest, options())
    assert [(f.id, f.state) for f in proposal.findings] == [("hive-corrupt", "refused")]
    assert isinstance(proposal.findings[0], Finding) and "boot-filters" in proposal.findings[0].evidence

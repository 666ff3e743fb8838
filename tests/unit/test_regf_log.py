"""Log replay: against python-registry on real and made logs, and stopping exactly where it should."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from h2k.base.errors import BadData
from h2k.windows import regf
from h2k.windows.regf_log import MAX_LOG, Replay, marvin32, replay
from tests.corpus import corpus
from tests.guests.hivelog import entry, make_dirty_pair, marvin, new_log, old_log, steps
from tests.guests.rawhive import Node, RawHive, resum
from tests.guests.regfile import build_hive, make_dirty

SEQUENCE = 40


def made(generation: int, sequence: int = SEQUENCE, keys: int = 30) -> bytes:
    """A sound hive, of which a later generation has more keys, and other data in each."""
    below = [Node(f"Key{n:04d}", values=[("Data", 3, bytes([generation]) * 600)]) for n in range(keys + 4 * generation)]
    return RawHive(Node("ROOT", keys=below)).data(sequence)


# Five hives in a row, each sound in itself: what a log holds after 1, 2, 3 and 4 entries.
STATES = [made(generation) for generation in range(5)]
DIRTY = make_dirty(STATES[0])


def bins(data: bytes) -> bytes:
    """The hive bins, which is all of a hive but the base block and padding."""
    return data[4096 : 4096 + struct.unpack_from("<I", data, 40)[0]]


def is_state(result: Replay, number: int) -> bool:
    """Whether the replay gave a clean hive with exactly the content after `number` entries."""
    return regf.state(result.data) == "clean" and bins(result.data) == bins(STATES[number])


def at_entry(log: bytes, number: int) -> int:
    """Where entry `number` (from 0) begins."""
    at = 512
    for _ in range(number):
        at += struct.unpack_from("<I", log, at + 4)[0]
    return at


def with_field(log: bytes, number: int, place: int, content: bytes, hashes: bool = True) -> bytes:
    """The log with bytes of an entry replaced, and the hashes made to fit again."""
    at, changed = at_entry(log, number), bytearray(log)
    changed[at + place : at + place + len(content)] = content
    if hashes:
        (size,) = struct.unpack_from("<I", log, at + 4)
        changed[at + 24 : at + 32] = marvin(bytes(changed[at + 40 : at + size]))
        changed[at + 32 : at + 40] = marvin(bytes(changed[at : at + 32]))
    return bytes(changed)


def refused(hive: bytes, logs: Mapping[str, bytes]) -> str:
    """The message of the BadData that a replay ends with."""
    with pytest.raises(BadData) as bad:
        replay(hive, logs, "SYSTEM")
    assert bad.value.message.startswith("SYSTEM: ") and "\n" not in str(bad.value) and bad.value.hint
    return bad.value.message


# Against other code


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_marvin32_agrees_with_the_reference(data: bytes) -> None:
    data = data[: len(data) & ~3]
    assert marvin32(data).to_bytes(8, "little") == marvin(data)


def oracle(hive: bytes, logs: Mapping[str, bytes]) -> bytes:
    """The hive as python-registry recovers it, with the file type set back to 0, which it leaves at the log's 6.

    Its two replay functions leave it to their caller which log goes first: the eligible one with the earlier entries;
    with an unsound base block the later one alone.
    """
    registry_log = pytest.importorskip("Registry.RegistryLog")
    file = io.BytesIO(hive)

    def opened(log: bytes) -> Any:
        file.seek(0)
        return registry_log.RegistryLog(file, io.BytesIO(log))

    ordered = sorted((opened(log) for log in logs.values()), key=lambda log: bool(log.first_log_sequence()))
    if len(ordered) == 2 and not ordered[0].is_starting_log(ordered[1]):
        ordered.reverse()
    ordered = [log for log in ordered if log.is_eligible_log()]
    if not regf.base_is_sound(hive):
        ordered = ordered[-1:]
    last = ordered[0].recover_hive()
    for log in ordered[1:]:
        log.reload_primary_regf()
        log.recover_hive_continue((last + 1) % 2**32)
    recovered = bytearray(file.getvalue())
    recovered[28:32] = bytes(4)
    return resum(bytes(recovered))


@pytest.mark.parametrize(("name", "first", "last", "entries"), [("dirty-1", 566, 588, 23), ("dirty-2", 287, 300, 14)])
def test_real_logs_give_the_bytes_that_python_registry_gives(name: str, first: int, last: int, entries: int) -> None:
    hive, logs = corpus(f"{name}.hive"), {log: corpus(f"{name}.{log}") for log in ("LOG1", "LOG2")}
    result = replay(hive, logs, name)
    assert result.data == oracle(hive, logs)
    assert (result.applied[0].sequence, result.applied[-1].sequence, len(result.applied)) == (first, last, entries)
    assert result.stopped == ""


@pytest.mark.parametrize(("name", "latest"), [("dirty-1", "LOG1"), ("dirty-2", "LOG2")])
def test_real_logs_with_an_unsound_base_block(name: str, latest: str) -> None:
    hive, logs = bytearray(corpus(f"{name}.hive")), {log: corpus(f"{name}.{log}") for log in ("LOG1", "LOG2")}
    hive[:512] = bytes(512)
    hive[:4] = b"regf"
    result = replay(bytes(hive), logs, name)
    assert result.data == oracle(bytes(hive), logs)
    assert {entry.log for entry in result.applied} == {latest} and f"{latest} alone counts" in result.stopped


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_made_logs_give_the_bytes_that_python_registry_gives(cut: int) -> None:
    logs = {"LOG1": new_log(STATES[: cut + 1], SEQUENCE), "LOG2": new_log(STATES[cut:], SEQUENCE + cut)}
    result = replay(DIRTY, logs, "SYSTEM")
    assert result.data == oracle(DIRTY, logs)
    assert is_state(result, 4)


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_changes_in_any_number_of_entries_agree_with_python_registry(data: st.DataObject) -> None:
    hives = [made(0)]
    for generation in range(data.draw(st.integers(2, 5))):
        hives.append(made(generation, keys=data.draw(st.integers(20, 80))))
    hives.sort(key=len)  # a hive never shrinks
    cut = data.draw(st.integers(1, len(hives) - 1))
    logs = {"LOG1": new_log(hives[: cut + 1], SEQUENCE)}
    if cut < len(hives) - 1:
        logs["LOG2"] = new_log(hives[cut:], SEQUENCE + cut)
    if data.draw(st.booleans()) and len(logs) == 2:
        logs = {"LOG1": logs["LOG2"], "LOG2": logs["LOG1"]}
    result = replay(make_dirty(hives[0]), logs, "SYSTEM")
    assert result.data == oracle(make_dirty(hives[0]), logs)
    assert bins(result.data) == bins(hives[-1])


def test_python_registry_takes_our_writers_entries_for_sound() -> None:
    registry_log = pytest.importorskip("Registry.RegistryLog")
    log = registry_log.RegistryLog(io.BytesIO(DIRTY), io.BytesIO(new_log(STATES, SEQUENCE)))
    entries = list(log._regf.log_entries())
    assert [e.sequence() for e in entries] == [40, 41, 42, 43] and all(e.validate_log_entry() for e in entries)


# The new format: what is applied


def test_a_clean_hive_is_given_back_whatever_the_logs_hold() -> None:
    assert replay(STATES[0], {"LOG1": new_log(STATES, SEQUENCE)}, "SYSTEM") == Replay(STATES[0], (), "")


def test_every_entry_of_both_logs_is_applied_in_whichever_file_the_first_is() -> None:
    early, late = new_log(STATES[:3], SEQUENCE), new_log(STATES[2:], SEQUENCE + 2)
    for logs in ({"LOG1": early, "LOG2": late}, {"LOG1": late, "LOG2": early}, {"LOG2": early, "LOG1": late, "LOG": b""}):
        result = replay(DIRTY, logs, "SYSTEM")
        assert is_state(result, 4) and result.stopped == ""
        assert [e.sequence for e in result.applied] == [40, 41, 42, 43]
        assert result.data[4:12] == struct.pack("<II", 43, 43)
        assert result.pages == sum(e.pages for e in result.applied) > 3
        assert result.size == sum(e.size for e in result.applied) > 4 * 4096


def test_the_hive_grows_to_the_entrys_size() -> None:
    assert len(STATES[4]) > len(STATES[0])
    result = replay(DIRTY, {"LOG1": new_log([STATES[0], STATES[4]], SEQUENCE)}, "SYSTEM")
    assert result.data[40:44] == STATES[4][40:44] and len(result.data) == len(STATES[4])


def test_padding_after_the_bins_is_kept_and_bins_may_grow_into_it() -> None:
    padded = DIRTY + b"junk" * 16384
    result = replay(padded, {"LOG1": new_log(STATES, SEQUENCE)}, "SYSTEM")
    assert is_state(result, 4) and len(result.data) == len(padded)


def test_bit_0_of_the_flags_comes_from_the_entry_and_the_others_from_the_hive() -> None:
    hive = bytearray(DIRTY)
    hive[144] = 0b110
    for flag in (0, 1):
        result = replay(resum(bytes(hive)), {"LOG1": new_log(STATES, SEQUENCE, flags=flag)}, "SYSTEM")
        assert result.data[144] == 0b110 | flag


def test_a_gap_before_the_first_entry_is_a_partial_write_of_windows_and_no_fault() -> None:
    result = replay(DIRTY, {"LOG1": new_log(STATES, SEQUENCE + 31)}, "SYSTEM")
    assert is_state(result, 4) and result.stopped == ""


def test_sequences_wrap() -> None:
    last = 2**32 - 2
    dirty = make_dirty(made(0, sequence=last))
    logs = {"LOG1": new_log(STATES[2:], 0), "LOG2": new_log(STATES[:3], last)}
    result = replay(dirty, logs, "SYSTEM")
    assert [e.sequence for e in result.applied] == [last, last + 1, 0, 1] and is_state(result, 4)


def test_an_old_entry_after_the_last_is_no_fault() -> None:
    applied_long_ago = entry(STATES[1], STATES[0], SEQUENCE - 9)
    result = replay(DIRTY, {"LOG1": new_log(STATES, SEQUENCE, leftover=applied_long_ago)}, "SYSTEM")
    assert is_state(result, 4) and result.stopped == ""


def test_an_already_applied_log_is_left_out() -> None:
    logs = {"LOG1": new_log(STATES, SEQUENCE), "LOG2": new_log(STATES[::-1][:2], SEQUENCE - 7)}
    result = replay(DIRTY, logs, "SYSTEM")
    assert is_state(result, 4) and {e.log for e in result.applied} == {"LOG1"}


def test_with_an_unsound_base_block_it_comes_from_the_later_log_which_alone_is_used() -> None:
    torn = DIRTY[:40] + b"\xff\xff" + DIRTY[42:]
    logs = {"LOG1": new_log(STATES[:3], SEQUENCE), "LOG2": new_log([STATES[0], STATES[4]], SEQUENCE + 2)}
    result = replay(torn, logs, "SYSTEM")
    assert is_state(result, 4) and [e.log for e in result.applied] == ["LOG2"]
    assert result.stopped == "LOG1 not used: with an unsound base block LOG2 alone counts"
    assert result.data[28:32] == bytes(4) and result.data[36:40] == DIRTY[36:40]


def test_a_base_block_that_is_gone_comes_from_the_log_too() -> None:
    result = replay(bytes(512) + DIRTY[512:], {"LOG1": new_log(STATES, SEQUENCE)}, "SYSTEM")
    assert is_state(result, 4)


# The new format: where it stops

FULL = new_log(STATES, SEQUENCE)


def _gap(log: bytes) -> bytes:
    return with_field(log, 2, 12, struct.pack("<I", SEQUENCE + 3))


STOPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "torn: cut off": (lambda: FULL[: at_entry(FULL, 2) + 1024], "1024 are left"),
    "torn: the end was not written": (lambda: FULL[: at_entry(FULL, 2) + 512].ljust(len(FULL), b"\0"), "hash 1"),
    "a missing sequence": (lambda: _gap(FULL), "sequence 43 where 42"),
    "a repeated sequence": (lambda: with_field(FULL, 2, 12, struct.pack("<I", SEQUENCE + 1)), "sequence 41 where 42"),
    "hash 1 wrong": (lambda: with_field(FULL, 2, 24 + 512, b"\xaa\xbb", hashes=False), "hash 1"),
    "hash 2 wrong": (lambda: with_field(FULL, 2, 33, b"\xaa\xbb", hashes=False), "hash 2"),
    "the flags changed": (lambda: with_field(FULL, 2, 8, b"\1", hashes=False), "hash 2"),
    "hive bins of an odd size": (lambda: with_field(FULL, 2, 16, struct.pack("<I", 4096 * 9 + 512)), "hive bins"),
    "hive bins without end": (lambda: with_field(FULL, 2, 16, struct.pack("<I", 0x7FFFF000)), "hive bins"),
    "no pages": (lambda: with_field(FULL, 2, 20, bytes(4)), "0 pages"),
    "more pages than fit": (lambda: with_field(FULL, 2, 20, b"\xff\xff\xff\x0f"), "pages"),
    "a page beyond the bins": (lambda: with_field(FULL, 2, 40, struct.pack("<I", 0x7FFF000)), "for offset 0x7fff000"),
    "a page longer than the entry": (lambda: with_field(FULL, 2, 44, struct.pack("<I", 0x7FFF000)), "a page of"),
    "a page of an odd size": (lambda: with_field(FULL, 2, 44, struct.pack("<I", 100)), "a page of 100"),
    "an entry of an odd size": (lambda: with_field(FULL, 2, 4, struct.pack("<I", 1000), hashes=False), "1000 bytes"),
    "an entry of size 0": (lambda: with_field(FULL, 2, 4, bytes(4), hashes=False), "0 bytes"),
}


@pytest.mark.parametrize("fault", STOPS)
def test_stops_before_the_faulty_entry_and_keeps_what_came_before(fault: str) -> None:
    log, why = STOPS[fault]
    result = replay(DIRTY, {"LOG1": log()}, "SYSTEM")
    assert [e.sequence for e in result.applied] == [SEQUENCE, SEQUENCE + 1] and is_state(result, 2)
    assert why in result.stopped and f"LOG1, entry at {at_entry(FULL, 2):#x}" in result.stopped


@pytest.mark.parametrize("fault", STOPS)
def test_a_faulty_entry_ends_both_logs(fault: str) -> None:
    further = [*STATES, made(5)]
    result = replay(DIRTY, {"LOG1": STOPS[fault][0](), "LOG2": new_log(further[4:], SEQUENCE + 4)}, "SYSTEM")
    assert is_state(result, 2) and {e.log for e in result.applied} == {"LOG1"} and result.stopped


@pytest.mark.parametrize("fault", ["a missing sequence", "hash 1 wrong", "hash 2 wrong", "torn: the end was not written"])
def test_python_registry_stops_there_too(fault: str) -> None:
    logs = {"LOG1": STOPS[fault][0]()}
    assert replay(DIRTY, logs, "SYSTEM").data == oracle(DIRTY, logs)


@pytest.mark.parametrize("gap", [-1, 1])
def test_a_second_log_that_does_not_follow_is_not_used(gap: int) -> None:
    logs = {"LOG1": new_log(STATES[:3], SEQUENCE), "LOG2": new_log(STATES[2:], SEQUENCE + 2 + gap)}
    result = replay(DIRTY, logs, "SYSTEM")
    assert is_state(result, 2)
    assert result.stopped == f"LOG2 begins at sequence {SEQUENCE + 2 + gap}, {SEQUENCE + 2} would follow"


# What cannot be replayed


def _base_field(log: bytes, place: int, content: bytes) -> bytes:
    return resum(log[:place] + content + log[place + len(content) :])


OTHER_NAME = "\\REGISTRY\\SOFTWARE".encode("utf-16-le")
USELESS: dict[str, tuple[Mapping[str, bytes], str]] = {
    "no logs": ({}, "there is none"),
    "empty logs": ({"LOG1": b"", "LOG2": b""}, "LOG1 is empty; LOG2 is empty"),
    "too short": ({"LOG1": FULL[:500]}, "no sound base block"),
    "wrong checksum": ({"LOG1": FULL[:100] + b"!" + FULL[101:]}, "no sound base block"),
    "being written": ({"LOG1": _base_field(FULL, 4, struct.pack("<I", SEQUENCE + 1))}, "was being written"),
    "a hive": ({"LOG1": STATES[1]}, "no known log"),
    "sectors of 4096 bytes": ({"LOG1": _base_field(FULL, 44, b"\x08")}, "no known log"),
    "another hive's, by its sequences": ({"LOG1": new_log(STATES, SEQUENCE - 20)}, "which the hive has been past"),
    "another hive's, by its name": ({"LOG1": _base_field(FULL, 48, OTHER_NAME)}, "another hive (software, not rawhiv)"),
    "no entry": ({"LOG1": FULL[:512]}, "no entry"),
    "no signature": ({"LOG1": FULL[:512] + bytes(4096)}, "no signature"),
    "first entry torn": ({"LOG1": FULL[:1024].ljust(len(FULL), b"\0")}, "hash 1"),
    "first entry is not the announced": ({"LOG1": _base_field(FULL, 4, struct.pack("<II", 50, 50))}, "sequence 40 where 50"),
}


@pytest.mark.parametrize("case", USELESS)
def test_useless_logs_are_refused_with_the_reason(case: str) -> None:
    logs, why = USELESS[case]
    message = refused(DIRTY, logs)
    assert why in message and f"dirty (sequences {SEQUENCE + 1}/{SEQUENCE})" in message


def test_another_hives_log_with_fitting_sequences_is_found_by_what_it_makes_of_the_hive() -> None:
    foreign = [RawHive(Node("R", keys=[Node(f"Other{n}", values=[("V", 1, bytes(1000 + k))]) for n in range(40)])).data()
               for k in (8, 200)]  # fmt: skip
    assert "after replaying LOG1 to sequence 40" in refused(DIRTY, {"LOG1": new_log(foreign, SEQUENCE)})


def test_a_log_that_leaves_a_hive_unsound_is_refused() -> None:
    broken = bytearray(STATES[1])
    broken[4096:4100] = b"hbim"
    assert "no hive bin header at hive bin offset 0x0, after" in refused(DIRTY, {"LOG1": new_log([STATES[0], bytes(broken)], 40)})


def test_a_hive_too_short_for_a_base_block() -> None:
    assert "too few" in refused(b"regf", {"LOG1": FULL})


def test_an_oversized_log_is_not_read() -> None:
    assert f"more than {MAX_LOG}" in refused(DIRTY, {"LOG1": bytes(MAX_LOG + 1)})


# The old format


def test_an_old_log_gives_all_its_pages() -> None:
    result = replay(DIRTY, {"LOG1": old_log(DIRTY, STATES[4])}, "SYSTEM")
    assert is_state(result, 4) and result.stopped == ""
    assert result.data[4:12] == struct.pack("<II", SEQUENCE + 1, SEQUENCE + 1)
    assert [(e.log, e.pages * 512) for e in result.applied] == [("LOG1", result.size)] and len(result.data) == len(STATES[4])


def test_a_single_page_of_512_bytes_may_be_dirty() -> None:
    changed = bytearray(STATES[0])
    spot = (changed.index(bytes(600), 4096) + 511) // 512 * 512  # a page that begins inside a value's data
    changed[spot : spot + 8] = b"new data"
    page = (spot - 4096) // 512
    vector = b"DIRT" + (1 << page).to_bytes(len(bins(DIRTY)) // 4096, "little")
    log = old_log(DIRTY, bytes(changed))[:512] + vector.ljust(512, b"\0") + changed[spot : spot + 512]
    result = replay(DIRTY, {"LOG1": log}, "SYSTEM")
    assert bins(result.data) == bins(bytes(changed)) and result.size == 512


def test_the_first_applicable_old_log_is_used_and_no_other() -> None:
    stale = _base_field(old_log(DIRTY, STATES[1]), 12, struct.pack("<Q", 77))
    for logs, state, name in (
        ({"LOG1": old_log(DIRTY, STATES[2]), "LOG2": old_log(DIRTY, STATES[3])}, 2, "LOG1"),
        ({"LOG1": stale, "LOG2": old_log(DIRTY, STATES[3])}, 3, "LOG2"),
        ({"LOG1": b"", "LOG2": b"", "LOG": old_log(DIRTY, STATES[4])}, 4, "LOG"),
    ):
        result = replay(DIRTY, logs, "SYSTEM")
        assert is_state(result, state) and [e.log for e in result.applied] == [name]


def test_an_old_log_for_an_unsound_base_block_goes_by_the_time_in_the_first_bin() -> None:
    torn = DIRTY[:12] + bytes(8) + DIRTY[20:]
    result = replay(torn, {"LOG1": old_log(DIRTY, STATES[4])}, "SYSTEM")
    assert is_state(result, 4) and result.data[12:20] == DIRTY[12:20] and result.data[28:32] == bytes(4)
    late = _base_field(old_log(DIRTY, STATES[4]), 12, struct.pack("<Q", 77))
    assert "last-written times differ" in refused(torn, {"LOG1": late})


def test_an_old_log_stops_at_the_first_dirty_bin_without_a_sound_header() -> None:
    before = RawHive(Node("R", keys=[Node(f"K{n:02d}", values=[("V", 3, bytes(3900))]) for n in range(12)])).data(SEQUENCE)
    after = bytearray(before)
    for bin_number in (1, 3, 5):  # bins of 4096 bytes with one value's data each
        at = 4096 * (1 + bin_number)
        assert after[at : at + 4] == b"hbin"
        after[at + 2000 : at + 2004] = b"new!"
    whole = replay(make_dirty(before), {"LOG1": old_log(make_dirty(before), bytes(after))}, "SYSTEM")
    assert bins(whole.data) == bins(bytes(after)) and whole.stopped == ""
    after[4096 * 4 : 4096 * 4 + 4] = b"hbim"
    result = replay(make_dirty(before), {"LOG1": old_log(make_dirty(before), bytes(after))}, "SYSTEM")
    assert result.stopped == "LOG1: no sound hive bin at 0x3000"
    assert [bins(result.data)[4096 * n + 2000 :][:4] for n in (1, 3, 5)] == [b"new!", bytes(4), bytes(4)]


OLD = old_log(DIRTY, STATES[4])
OLD_USELESS: dict[str, tuple[bytes, str]] = {
    "for another state": (_base_field(OLD, 12, struct.pack("<Q", 77)), "last-written times differ"),
    "pages missing": (OLD[:-512], "marks"),
    "no vector": (OLD[:512] + b"DIRE" + OLD[516:], "no dirty vector"),
    "vector cut off": (old_log(DIRTY, STATES[0], every=True)[:518], "no dirty vector"),
    "nothing dirty": (OLD[:516] + bytes(len(OLD) - 516), "marks 0 pages"),
    "hive bins of an odd size": (_base_field(OLD, 40, b"\1"), "hive bins"),
    "hive bins without end": (_base_field(OLD, 40, struct.pack("<I", 0x7FFFF000)), "hive bins"),
    "being written": (_base_field(OLD, 4, b"\x99"), "was being written"),
    "first dirty bin unsound": (OLD.replace(b"hbin", b"hbim", 1), "no sound hive bin at 0x0"),
}


@pytest.mark.parametrize("case", OLD_USELESS)
def test_useless_old_logs_are_refused_with_the_reason(case: str) -> None:
    log, why = OLD_USELESS[case]
    assert why in refused(DIRTY, {"LOG1": log})


# Dirty hives as made guests have them


@pytest.mark.parametrize("fmt", ["new", "old"])
def test_a_made_dirty_hive_becomes_the_newer_one(fmt: str) -> None:
    clean = build_hive('[ControlSet001\\Services\\disk]\n"Start"=dword:0\n')
    many = "".join(f'[Software\\Key{n}]\n"Value"="{n:0400d}"\n' for n in range(60))
    newer = build_hive(f'[ControlSet001\\Services\\inlog]\n"Start"=dword:3\n{many}', clean)
    dirty, logs = make_dirty_pair(clean, newer, fmt)
    assert regf.state(dirty) == "dirty" and bins(dirty) == bins(clean) and set(logs) == {"LOG1", "LOG2"}
    assert regf.Hive.parse(dirty).key("ControlSet001\\Services\\inlog") is None
    result = replay(dirty, logs, "SYSTEM")
    assert bins(result.data) == bins(newer) and result.stopped == ""
    assert len(result.applied) == (4 if fmt == "new" else 1)
    assert {e.log for e in result.applied} == ({"LOG1", "LOG2"} if fmt == "new" else {"LOG1"})


def test_steps_lead_from_one_hive_to_the_other() -> None:
    states = steps(STATES[0], STATES[4], 3)
    assert states[0] == STATES[0] and bins(states[-1]) == bins(STATES[4]) and len({bins(s) for s in states}) == 4


# Hostile bytes


@settings(deadline=None)
@given(st.binary(max_size=5000), st.binary(max_size=1500))
def test_any_bytes_end_in_a_clean_hive_or_in_bad_data(hive: bytes, log: bytes) -> None:
    _ends_well(hive, {"LOG1": log})
    _ends_well(DIRTY, {"LOG1": resum(log.ljust(512, b"\0"))})


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([FULL, OLD]), st.booleans(),
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=8),
)  # fmt: skip
def test_mutated_logs_end_in_a_clean_hive_or_in_bad_data(log: bytes, sound: bool, changes: list[tuple[int, bytes]]) -> None:
    mutated = bytearray(log)
    for place, content in changes:
        at = place % (1024 if place & 1 else len(mutated) - 8)
        mutated[at : at + len(content)] = content
    _ends_well(DIRTY if sound else bytes(512) + DIRTY[512:], {"LOG1": resum(bytes(mutated))})


def _ends_well(hive: bytes, logs: Mapping[str, bytes]) -> None:
    try:
        result = replay(hive, logs, "x")
    except BadData:
        return
    assert regf.state(result.data) == "clean" and len(result.data) <= len(hive) + 4096 + sum(map(len, logs.values()))


def test_memory_is_bounded_by_the_input() -> None:
    bombs = [
        {"LOG1": with_field(FULL, 0, 16, struct.pack("<I", 0x7FFFF000))},
        {"LOG1": with_field(FULL, 0, 20, b"\xff\xff\xff\x0f")},
        {"LOG1": _base_field(OLD, 40, struct.pack("<I", 0x7FFFF000))},
    ]
    tracemalloc.start()
    for logs in bombs:
        refused(DIRTY, logs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * (len(DIRTY) + len(FULL))


def test_a_replay_needs_little_more_than_one_copy_of_the_hive() -> None:
    hive = made(0, keys=9000)
    newer = bytearray(hive)
    at = newer.rindex(bytes(600))  # a value's data
    newer[at : at + 8] = b"new data"
    dirty, log = make_dirty(hive), new_log([hive, bytes(newer)], SEQUENCE)
    tracemalloc.start()
    result = replay(dirty, {"LOG1": log}, "SYSTEM")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bins(result.data) == bins(bytes(newer)) and peak < 2 * len(hive)

"""Registry transaction logs for tests, written as Windows leaves them; shares no code with h2k's replay."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from tests.guests.rawhive import resum
from tests.guests.regfile import make_dirty

BLOCK = 4096  # Windows notes what is dirty by 4096 bytes


def make_dirty_pair(clean: bytes, newer: bytes, fmt: str) -> tuple[bytes, dict[str, bytes]]:
    """(a dirty hive, its logs "LOG1" and "LOG2"): the hive holds what `clean` does, with its logs what `newer` does.

    `fmt` is "new" (four entries over both logs, the first log ending in an old, already applied entry) or "old" (all in
    the first log; the second was written for an earlier state).
    """
    dirty = make_dirty(clean)
    if fmt == "old":
        stale = bytearray(old_log(dirty, clean, every=True))
        stale[12:20] = struct.pack("<Q", struct.unpack_from("<Q", stale, 12)[0] - 10_000_000)
        return dirty, {"LOG1": old_log(dirty, newer), "LOG2": resum(bytes(stale))}
    (sequence,) = struct.unpack_from("<I", clean, 4)
    states = steps(clean, newer, 4)
    applied = entry(newer, clean, sequence - 1)
    first, second = new_log(states[:3], sequence, leftover=applied), new_log(states[2:], sequence + 2)
    return dirty, {"LOG1": first, "LOG2": second}


def steps(before: bytes, after: bytes, count: int) -> list[bytes]:
    """`count` + 1 hives from `before` to `after`, with a share of the changed blocks more in each."""
    changed = _changed(before, after, every=False, single=True)
    states, now = [before], bytearray(before[:BLOCK] + before[BLOCK:].ljust(len(after) - BLOCK, b"\0"))
    now[40:44] = after[40:44]
    for number in range(1, count + 1):
        for offset, data in changed[len(changed) * (number - 1) // count : len(changed) * number // count]:
            now[BLOCK + offset : BLOCK + offset + len(data)] = data
        states.append(bytes(now))
    return states


def new_log(states: Sequence[bytes], first_sequence: int, flags: int = 0, leftover: bytes = b"") -> bytes:
    """A log of the format of Windows 8.1 and later: one entry for each step from a hive of `states` to the next one."""
    base = bytearray(states[0][:512])
    struct.pack_into("<II", base, 4, first_sequence % 2**32, first_sequence % 2**32)
    base[28], base[40:44] = 6, states[1][40:44]
    log = bytearray(resum(bytes(base)))
    for number, (before, after) in enumerate(zip(states, states[1:])):
        log += entry(before, after, (first_sequence + number) % 2**32, flags, place=len(log))
    return bytes(log) + leftover


def entry(before: bytes, after: bytes, sequence: int, flags: int = 0, place: int = 0) -> bytes:
    """One HvLE entry that makes `before` into `after`; at `place`, it ends where a block of the log does."""
    pages = _changed(before, after, every=False) or [(0, after[BLOCK : 2 * BLOCK])]
    content = b"".join(struct.pack("<II", offset, len(data)) for offset, data in pages) + b"".join(d for _, d in pages)
    size = -(-(place + 40 + len(content)) // BLOCK) * BLOCK - place
    content = content.ljust(size - 40, b"\0")
    (bins,) = struct.unpack_from("<I", after, 40)
    head = struct.pack("<4sIIIII", b"HvLE", size, flags, sequence % 2**32, bins, len(pages)) + marvin(content)
    return head + marvin(head) + content


def old_log(before: bytes, after: bytes, every: bool = False) -> bytes:
    """A log of the format up to Windows 8: all that `after` has and `before` has not (or `every` block of it)."""
    pages = dict(_changed(before, after, every, single=True))
    blocks = struct.unpack_from("<I", after, 40)[0] // BLOCK
    base = bytearray(before[:512])
    base[8:12], base[28], base[40:44] = base[4:8], 1, after[40:44]
    vector = b"DIRT" + bytes(255 if number * BLOCK in pages else 0 for number in range(blocks))
    return resum(bytes(base)) + vector.ljust(-(-len(vector) // 512) * 512, b"\0") + b"".join(pages.values())


def _changed(before: bytes, after: bytes, every: bool, single: bool = False) -> list[tuple[int, bytes]]:
    """(hive bin offset, data) of the runs of blocks that differ, or of `single` blocks."""
    runs: list[tuple[int, bytes]] = []
    for at in range(BLOCK, BLOCK + struct.unpack_from("<I", after, 40)[0], BLOCK):
        block = after[at : at + BLOCK]
        if not every and block == before[at : at + BLOCK]:
            continue
        if runs and not single and runs[-1][0] + len(runs[-1][1]) == at - BLOCK:
            runs[-1] = (runs[-1][0], runs[-1][1] + block)
        else:
            runs.append((at - BLOCK, block))
    return runs


def marvin(data: bytes) -> bytes:
    """The Marvin32 hash of whole DWORDs, as its published reference has it: eight bytes, with the logs' seed."""
    state = [0x7A4E55C5, 0x82EF4D88]

    def turn(value: int, bits: int) -> int:
        return (value << bits | value >> (32 - bits)) % 2**32

    def block(word: int) -> None:
        state[0] = (state[0] + word) % 2**32
        state[1] ^= state[0]
        state[0] = (turn(state[0], 20) + state[1]) % 2**32
        state[1] = turn(state[1], 9) ^ state[0]
        state[0] = (turn(state[0], 27) + state[1]) % 2**32
        state[1] = turn(state[1], 19)

    for at in range(0, len(data), 4):
        block(int.from_bytes(data[at : at + 4], "little"))
    block(0x80)
    block(0)
    return struct.pack("<II", *state)

"""What the parsers' tests share: Windows versions, hives from text, damaged copies of sound bytes."""

from __future__ import annotations

import functools
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Optional

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from h2k.windows.regf import Hive
from h2k.windows.version import WindowsVersion
from tests.corpus import corpus
from tests.guests.regfile import build_hive, fix_dirty

# Tests do not assert times; what must be quick is bounded by the code, and tests/fuzz.py has a limit for each case.
many = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
few = settings(many, max_examples=40)


def windows(
    version: tuple[int, int] = (10, 0), build: int = 20348, arch: str = "amd64", server: bool = True
) -> WindowsVersion:
    """The facts of a Windows, without its hives."""
    name = f"Windows {version[0]}.{version[1]} {arch} build {build}"
    return WindowsVersion("Windows", version, build, arch, server, "", "Server" if server else "Client", name)


@functools.lru_cache(maxsize=64)
def hive(text: str, name: str = "SYSTEM") -> Hive:
    """A hive from the text that tests/guests/regfile.py describes."""
    return Hive.parse(build_hive(text), name)


@functools.lru_cache(maxsize=4)
def corpus_hive(name: str) -> Hive:
    """A real hive, made clean; the test is skipped where there is none."""
    return Hive.parse(fix_dirty(corpus(name)), name)


def damaged(sound: bytes, reach: Optional[int] = None) -> st.SearchStrategy[bytes]:
    """Copies of sound bytes with some of them (of the first `reach`) changed, and perhaps an end that is missing."""
    last = min(len(sound), reach or len(sound)) - 1
    edits = st.lists(st.tuples(st.integers(0, last), st.integers(0, 255)), max_size=12)
    return st.builds(_damage, st.just(sound), edits, st.one_of(st.none(), st.integers(0, len(sound))))


def _damage(sound: bytes, edits: list[tuple[int, int]], end: Optional[int]) -> bytes:
    data = bytearray(sound)
    for place, value in edits:
        data[place] = value
    return bytes(data[:end])


def ended(argv: Sequence[str], status: int, stdout: str = "", stderr: str = "", **options: Any) -> subprocess.CompletedProcess[Any]:
    """What subprocess.run returns for a program that ended so, by the options that it was called with."""
    said: list[Any] = [stdout, stderr] if options.get("text") else [stdout.encode(), stderr.encode()]
    if not options.get("capture_output"):
        said = [None, None]
    done = subprocess.CompletedProcess(argv, status, *said)
    if options.get("check"):
        done.check_returncode()
    return done


SECONDS = 60.0  # of the processor: what has no bound takes minutes, and a slow machine is no failure


@contextmanager
def in_time() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS

"""An engine on guests in memory: a run whose disks, reader and writer are the test's own, and hooks made for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.finding import Finding
from h2k.base.steps import Steps
from h2k.config.driver_plan import load_plan
from h2k.domain.facts import DiskFacts, DomainFacts, NicFacts
from h2k.domain.guest_files import GuestFiles
from h2k.engine.hooks import Hook, Options
from h2k.engine.request import Request, Tools
from h2k.engine.runs import Parts, Run
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.windows.values import dword
from tests.unit.memory_reader import MemoryReader, windows_guest

KEY = "ControlSet001\\Services\\made"
START = SetValue("SYSTEM", KEY, "Start", dword(0))
FOUND = Finding("driver-not-boot-start", "broken", "made", "Start is 3", "set Start to 0")


def made_guest(start: int, **more: Any) -> Guest:
    """A Windows whose driver `made` has that Start."""
    return windows_guest(f'[{KEY}]\n"Start"=dword:{start:08x}\n', firmware="bios", **more)


def made_hook(propose: Callable[[Guest, Options], Iterable[Any]], name: str = "made", gate: bool = False) -> Hook:
    """A hook of the test's own."""
    answers = ("driver-not-boot-start", "volume-encrypted", "boot-disk-ambiguous", "made-of-the-test")
    return Hook(name, Path(f"/hooks/{name}.py"), f"{name}, for a test", answers, gate, propose)


def wants_boot_start(guest: Guest, options: Options) -> Iterator[Any]:
    """The driver `made` starts at boot."""
    if not START.holds(guest):
        yield FOUND
        yield START


class Disks:
    """A disk set in memory. `done` is what was asked of it, in order; `fails` names a step that raises its error."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.state_dir = world.files.state

    def _mark(self, name: str) -> None:
        self.world.done.append(name)
        if name in self.world.fails:
            raise self.world.fails[name]

    @contextmanager
    def held(self) -> Iterator[None]:
        """The locks."""
        self._mark("held")
        yield
        self.world.done.append("released")

    def require_unused(self) -> None:
        """Nobody uses the images."""
        self._mark("require-unused")

    def recover(self) -> str:
        """Nothing was left, unless the test says so."""
        self._mark("recover")
        return self.world.left

    def create_overlays(self) -> tuple[Path, ...]:
        """One overlay, which holds what the image holds."""
        self._mark("create-overlays")
        self.world.overlay = self.world.image
        return (Path("/overlay"),)

    def discard(self) -> None:
        """The overlay goes."""
        self._mark("discard")
        self.world.overlay = None

    def commit(self, on_step: Callable[[str], None]) -> None:
        """The image is what the overlay was."""
        self._mark("commit")
        assert self.world.overlay is not None
        self.world.image = self.world.overlay


@dataclasses.dataclass
class World:
    """The guest on its image, what the writer makes of it, and a run that works on both."""

    state: Path
    image: Guest = dataclasses.field(default_factory=lambda: made_guest(3))
    written: Guest = dataclasses.field(default_factory=lambda: made_guest(0))
    hooks: Sequence[Hook] = (made_hook(wants_boot_start),)
    domain: Optional[DomainFacts] = None
    request: Request = Request(bus="sata")
    left: str = "clean"
    damage: str = ""
    dry_run: bool = False
    fails: dict[str, Exception] = dataclasses.field(default_factory=dict)
    done: list[str] = dataclasses.field(default_factory=list)
    overlay: Optional[Guest] = None

    @property
    def files(self) -> GuestFiles:
        """The guest's one image, and its report directory."""
        return GuestFiles(((Path("/image"), "qcow2"),), self.state, self.domain)

    def open_reader(self, images: Sequence[tuple[Path, Optional[str]]]) -> MemoryReader:
        """What the image, or the overlay, holds at this moment."""
        guest = self.overlay if str(images[0][0]) == "/overlay" else self.image
        self.done.append(f"read {images[0][0]}")
        assert guest is not None and isinstance(guest.reader, MemoryReader)
        return guest.reader

    def apply(self, overlays: Sequence[Path], guest: Guest, changes: Sequence[Any], backups: Any, *writer: Any) -> str:
        """What the writer makes of the overlay, whatever it was asked to."""
        self.done.append("apply")
        if "apply" in self.fails:
            raise self.fails["apply"]
        self.overlay = self.written
        return "made"

    def run(self, command: str = "h2k fix") -> Run:
        """A run on this world."""
        parts = Parts(self.open_reader, lambda images, state: Disks(self), self.apply)
        tools = Tools(self.request, tuple(self.hooks), load_plan(), None, None)
        return Run(
            command, steps=Steps(quiet=True), files=self.files, tools=tools, parts=parts, dry_run=self.dry_run,
            on_step=lambda name: self.done.append(f"told {name}"),
        )


def made_domain(name: str = "made", disks: int = 1, **more: Any) -> DomainFacts:
    """A BIOS machine with that many disks and one card."""
    found = tuple(DiskFacts(Path(f"/image{n}"), "qcow2", "sata", f"sd{chr(97 + n)}") for n in range(disks))
    facts = DomainFacts(name, 1 << 30, 2, found, (NicFacts("52:54:00:00:00:01"),))
    return dataclasses.replace(facts, **more)

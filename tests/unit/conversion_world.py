"""A conversion whose guest, disks and tools are the test's own: what h2k-v2v and h2k-qemu-img do, without a process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from h2k.base.errors import H2kError
from h2k.base.finding import Finding
from h2k.base.steps import Steps
from h2k.config.driver_plan import load_plan
from h2k.domain.guest_files import GuestFiles
from h2k.engine.hooks import Hook, Options
from h2k.engine.request import Request, Tools
from h2k.engine.runs import Parts, Run
from h2k.guest.guest import Guest
from tests.unit.engine_world import Disks, World, made_domain, made_hook


@dataclasses.dataclass
class Conversion(World):
    """A world with virt-v2v or qemu-img in it: `status` is how that ends, `tool` notes each call of it."""

    status: int = 0
    tool: list[list[str]] = dataclasses.field(default_factory=list)
    requests: list[Request] = dataclasses.field(default_factory=list)
    runs: list[Run] = dataclasses.field(default_factory=list)
    source: Optional[GuestFiles] = None
    why: str = ""

    def pass_through(self, argv: Sequence[str], env: Any = None) -> int:
        """The tool, without a process."""
        self.tool.append(list(argv))
        self.done.append(argv[0])
        return self.status

    def new_run(self, command: str, argv: Sequence[str]) -> Run:
        """What takes the place of the class Run."""
        parts = Parts(self.open_reader, lambda images, state: Disks(self), self.apply)
        run = Run(command, argv, steps=Steps(quiet=True), parts=parts)
        self.runs.append(run)
        return run

    @contextmanager
    def open_tools(self, request: Request) -> Iterator[Tools]:
        """This world's hooks, and no drivers."""
        self.requests.append(request)
        self.done.append("open-tools")
        yield Tools(dataclasses.replace(request, bus=request.bus or "sata"), tuple(self.hooks), load_plan(), None, None)

    @contextmanager
    def open_source(self, command: Any, say: Any) -> Iterator[tuple[Optional[GuestFiles], str]]:
        """The source, or why it can't be read."""
        self.done.append("open-source")
        if "open-source" in self.fails:
            raise self.fails["open-source"]
        yield self.source, self.why

    def steps_of(self, *names: str) -> list[str]:
        """Those steps that were done, in their order."""
        return [step for step in self.done if step in names]


class Output:
    """An output that is asked for what h2k-v2v asks of one, and whose result is the world's image."""

    def __init__(self, world: Conversion) -> None:
        self.world = world

    def _mark(self, name: str) -> None:
        self.world.done.append(name)
        if name in self.world.fails:
            raise self.world.fails[name]

    def fails_at_once(self) -> bool:
        return False

    def require(self) -> None:
        self._mark("require")

    def begin(self, disks: Optional[int]) -> None:
        self._mark("begin")

    def state(self, name: str) -> Path:
        return self.world.state

    def earlier(self, name: str) -> Optional[GuestFiles]:
        self._mark("earlier")
        return self.world.files

    def replaced(self, name: str) -> Sequence[Path]:
        return [Path(f"/{name}-sda")]

    def result(self, name: Optional[str]) -> GuestFiles:
        self._mark(f"result {name}")
        return self.world.files

    def accepts(self, domains: Any) -> None:
        self._mark("accepts")

    def finish(self, target: GuestFiles, report: Any, say: Any) -> None:
        self._mark("finish")


def encrypted(guest: Guest, options: Options) -> Iterator[Any]:
    """A refusal."""
    yield Finding("volume-encrypted", "refused", "C:", "BitLocker", "decrypt it")


REFUSING: list[Hook] = [made_hook(encrypted)]


def failure(status: int = 1) -> H2kError:
    """A failure with that status."""
    error = H2kError("made to fail")
    error.exit_status = status
    return error


def source_files(name: str = "web") -> GuestFiles:
    """A source of one disk."""
    return GuestFiles(((Path("/source.vmdk"), "vmdk"),), Path("/"), made_domain(name))

"""One run of one command on one guest: what it was given, what it works with, and what it has found so far."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

from h2k.base.errors import H2kError
from h2k.base.option_table import spelled
from h2k.base.steps import Steps
from h2k.disk.open_reader import open_reader
from h2k.domain.facts import DomainFacts
from h2k.domain.guest_files import GuestFiles
from h2k.domain.handles import known_bus
from h2k.engine.examination import Examination
from h2k.engine.report import Report
from h2k.engine.request import Tools


def _disk_set(*arguments: Any) -> Any:
    from h2k.disk.overlay import DiskSet  # not before something is to be written: most runs only look

    return DiskSet(*arguments)


def _apply(*arguments: Any) -> str:
    from h2k.engine.apply import apply  # as above

    return apply(*arguments)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the engine reads and writes disks with. Tests of the engine put their own in place of these."""

    open_reader: Callable[..., Any] = open_reader
    disk_set: Callable[..., Any] = _disk_set
    apply: Callable[..., str] = _apply


def _nothing(name: str) -> None:
    """Nobody listens to the steps."""


def _all(domains: dict[str, bytes]) -> None:
    """Every domain can be used."""


@dataclasses.dataclass
class Run:
    """A run. `command` is as the user knows it ("h2k fix", "h2k-v2v"), `argv` its arguments.

    `as_json`: standard output gets the record and nothing else; `aside`: it belongs to another program, and people
    read standard error. `show_plan`: the changes are told one by one. `records` is the directory that gets a record
    of this run (None: a run that only looks). `committed` says what was written to the guest, once it was: from
    there on nothing is a refusal. `source_domain` describes the machine that was converted, where one was.
    `wants_page`: what the policy of a run without tools says of the guest's page; None: the host's policy decides. `on_step` hears the name of each step that the engine is about to take.
    `seen` is the last examination of the guest, `error` what ended the run, if an
    error did: one line on standard error where the guest was not examined yet. `accepts` is asked about the two domains before the first write, and raises Refused for what it can't use.
    """

    command: str
    argv: Sequence[str] = ()
    steps: Steps = dataclasses.field(default_factory=Steps)
    as_json: bool = False
    aside: bool = False
    show_plan: bool = False
    dry_run: bool = False
    source: str = ""
    records: Optional[Path] = None
    tools: Optional[Tools] = None
    files: Optional[GuestFiles] = None
    parts: Parts = Parts()
    on_step: Callable[[str], None] = _nothing
    accepts: Callable[[dict[str, bytes]], None] = _all
    report: Report = dataclasses.field(default_factory=Report)
    seen: Optional[Examination] = None
    committed: str = ""
    source_domain: Optional[DomainFacts] = None
    wants_page: Optional[bool] = None
    error: Optional[H2kError] = None
    started: datetime.datetime = dataclasses.field(default_factory=lambda: datetime.datetime.now(datetime.timezone.utc))

    @property
    def opened(self) -> Tools:
        """The tools; they are open from the moment that a run looks at a guest."""
        assert self.tools is not None
        return self.tools

    @property
    def guest_files(self) -> GuestFiles:
        """The guest's files; they are known from the moment that a run looks at a guest."""
        assert self.files is not None
        return self.files

    @property
    def domain(self) -> Optional[DomainFacts]:
        """The guest's description, where there is one."""
        return self.files.domain if self.files is not None else None

    def know_the_bus(self) -> None:
        """Without --bus a result is judged for the bus that it was made for, as its description or record says."""
        if self.files is not None:
            self.use_bus(known_bus(self.files))

    def use_bus(self, bus: str) -> None:
        """The bus of this guest's disks, unless --bus says another one."""
        if self.opened.request.bus is None:
            self.tools = dataclasses.replace(self.opened, request=dataclasses.replace(self.opened.request, bus=bus))

    def commit(self, what: str) -> None:
        """From here on something is written, and nothing is a refusal: `what` was done."""
        self.committed = what

    def spelled(self, text: str) -> str:
        """A text with the options as this command spells them."""
        return spelled(text, self.command)

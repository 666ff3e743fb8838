"""Hooks: found by path, ordered by name, loaded by this one loader; each proposes findings and changes, and writes nothing."""

from __future__ import annotations

import dataclasses
import importlib.machinery
import importlib.util
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional, Union

from h2k.base import paths
from h2k.base.errors import BadData, H2kError, UsageError
from h2k.base.files import require_trusted
from h2k.base.finding import Finding
from h2k.config.driver_plan import Plan
from h2k.config.policy import Policy
from h2k.domain.facts import DomainFacts
from h2k.domain.uefi_variables import TrustedKeys
from h2k.engine.hook_program import META, describe, first_fault
from h2k.guest.changes import Change
from h2k.guest.guest import Guest
from h2k.guest.virtio_win import DriverSource
from h2k.windows.first_boot import Runner

log = logging.getLogger("h2k.hook")

PACKAGED = (paths.HOOKS,)
LOCAL = paths.LOCAL / "hooks.d"
# What lies beside hooks and is none: notes and data, and what editors and package managers leave behind.
_BESIDE = (".txt", ".md", ".json", ".yaml", "~", ".bak", ".orig", ".rpmnew", ".rpmsave", ".dpkg-dist", ".dpkg-new", ".dpkg-old")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A hook's decision about the domains ("bootstrap-bus" → "sata"), with the reason."""

    name: str
    value: str
    why: str


@dataclasses.dataclass(frozen=True)
class Document:
    """A file that a hook hands to the report directory, beside report.json: `name` "network.json", `content` JSON."""

    name: str
    content: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """What the user and the plan ask for, the same for every hook of a run.

    `phase` is "source" before virt-v2v's copy and "result" after it; `drivers` is None when no virtio-win was found.
    `keys`: virt-v2v was given keys of encrypted volumes. `runner` is the program of this host that runs a first boot as a
    service, None where it has none. `trusted`: what the variables of the domain's firmware trust under Secure Boot, None
    without it or where they can't be read. `source`: what the hooks settled about the source, by the settings' names, when
    the copy was made in the same run; virt-v2v overwrites some of it.
    """

    plan: Plan
    bus: str = "virtio"
    drivers: Optional[DriverSource] = None
    phase: str = "result"
    domain: Optional[DomainFacts] = None
    accept: frozenset[str] = frozenset()
    policy: Policy = Policy()
    keys: bool = False
    runner: Optional[Runner] = None
    trusted: Optional[TrustedKeys] = None
    source: Mapping[str, str] = dataclasses.field(default_factory=dict)


Proposed = Union[Finding, Change, Setting, Document]


@dataclasses.dataclass(frozen=True)
class Hook:
    """One loaded hook: META, and `propose`, which looks at a guest and yields what it found. Behind a gate's refusal the
    guest may be unreadable, and a later hook that fails is left out."""

    name: str
    path: Path
    summary: str
    answers: tuple[str, ...]
    gate: bool
    propose: Callable[[Guest, Options], Iterable[Proposed]] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """All that the hooks said about one guest."""

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    settings: tuple[Setting, ...]
    documents: tuple[Document, ...] = ()

    @property
    def refused(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.state == "refused")

    @property
    def broken(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.state == "broken")

    def setting(self, name: str, default: str) -> str:
        """The last value that a hook gave to a setting."""
        return next((s.value for s in reversed(self.settings) if s.name == name), default)


def find_hooks(extra: Sequence[Path] = ()) -> tuple[Hook, ...]:
    """Load every hook, in name order: packaged, then local, then `extra` directories; a same name overrides,
    a link to /dev/null masks. UsageError for a missing directory or a hook that can't be loaded."""
    for directory in extra:
        if not directory.is_dir():
            raise UsageError(f"{directory}: no such hook directory")
    files: dict[str, Path] = {}
    for directory in (*PACKAGED, LOCAL, *extra):
        if directory.is_dir():
            require_trusted(directory, "hooks")
            files.update({entry.name: entry for entry in sorted(directory.iterdir()) if _is_hook(entry)})
    masked = {name for name, path in files.items() if path.is_symlink() and path.resolve() == Path("/dev/null")}
    return tuple(load_hook(files[name]) for name in sorted(files) if name not in masked)


def _is_hook(entry: Path) -> bool:
    """Whether a file of a hook directory is a hook: its name begins with two digits. UsageError for one that can't be
    run, for its guarantee would be missing without a word."""
    if not entry.name[:2].isdigit() or entry.name.endswith(_BESIDE) or entry.is_dir():
        return False
    if entry.suffix == ".py" or entry.is_symlink() or os.access(entry, os.X_OK):
        return True
    raise UsageError(f"{entry}: a hook by its name, and not executable", hint=f"chmod +x {entry}, or rename it")


def load_hook(path: Path) -> Hook:
    """One hook from its file, Python or any other executable; UsageError when it can't be loaded, Refused when others
    could have written it."""
    if not path.exists():
        raise UsageError(f"{path}: can't read this hook: no such file")
    require_trusted(path, "a hook")
    return _load_python(path) if path.suffix == ".py" else _load_program(path)


def _load_program(path: Path) -> Hook:
    program = describe(path)

    def propose(guest: Guest, options: Options) -> Iterable[Proposed]:
        wishes = {"bus": options.bus, "phase": options.phase, "policy": dataclasses.asdict(options.policy)}
        return program.propose(guest, wishes)

    return _hook(path, program.meta, propose)


def _hook(path: Path, meta: Mapping[str, Any], propose: Callable[[Guest, Options], Iterable[Proposed]]) -> Hook:
    return Hook(meta["name"], path, meta["summary"], tuple(meta["answers"]), meta.get("gate", False), propose)


class _Source(importlib.machinery.SourceFileLoader):
    """Reads compiled code and writes none: in directories of packages it would stay behind them."""

    def set_data(self, path: Any, data: Any, **_: Any) -> None:
        """Nothing is kept."""


def _load_python(path: Path) -> Hook:
    name = "h2k_hook_" + path.stem.replace("-", "_")
    loader = _Source(name, str(path))
    spec = importlib.machinery.ModuleSpec(name, loader, origin=str(path))
    spec.has_location = True  # the hook may ask for its __file__
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        meta, propose = json.loads(json.dumps(module.META)), module.propose
    except Exception as e:  # a hook may be anybody's, and importing it runs it
        raise UsageError(f"{path}: this hook can't be loaded: {type(e).__name__}: {e}") from e
    fault = first_fault(meta, META, "all of it")
    if fault is not None:
        raise UsageError(f"{path}: this hook can't be loaded: META: {fault}", hint="docs/writing-a-hook.md has the keys")
    return _hook(path, meta, propose)


def propose(hooks: Iterable[Hook], guest: Guest, options: Options, skip: Sequence[str] = ()) -> Proposal:
    """Ask every hook that is not skipped; an accepted refusal becomes a warning.

    A refusal stops no other hook, so that all of them are told at once. But behind a gate's refusal, and behind guest
    content that could not be read, a hook may fail for that same reason: it is then left out.
    """
    heard = _Heard(options)
    for hook in hooks:
        if hook.name not in skip:
            heard.ask(hook, guest)
    return Proposal(
        tuple(heard.findings.values()), tuple(dict.fromkeys(heard.changes)), tuple(heard.settings), tuple(heard.documents)
    )


class _Heard:
    """What the hooks have said so far. `closed`: a gate refused, or something of the guest could not be read."""

    def __init__(self, options: Options) -> None:
        self.options, self.closed = options, False
        self.findings: dict[tuple[str, ...], Finding] = {}
        self.changes: list[Change] = []
        self.settings: list[Setting] = []
        self.documents: list[Document] = []

    def ask(self, hook: Hook, guest: Guest) -> None:
        try:
            for item in hook.propose(guest, self.options):
                self._hear(hook, item)
        except BadData as bad:
            self._unread(hook, bad)
        except Exception as e:  # a hook may be anybody's: its failure is named, and stops everything before a write
            log.debug("hook %s", hook.name, exc_info=True)
            if self.closed:
                log.debug("hook %s is left out: it can't read a guest that is refused", hook.name)
            elif isinstance(e, H2kError):
                e.message = f"hook {hook.name}: {e.message}"
                raise
            else:
                failure = f"hook {hook.name} failed: {type(e).__name__}: {e}"
                raise H2kError(failure, hint=f"--h2k-skip {hook.name}; h2k -v shows where") from e

    def _hear(self, hook: Hook, item: Proposed) -> None:
        if isinstance(item, Setting):
            self.settings.append(item)
        elif isinstance(item, Document):
            self.documents.append(item)
        elif not isinstance(item, Finding):
            self.changes.append(item)
        elif item.id not in hook.answers:
            raise H2kError(
                f"it reports {item.id}, which the answers of its META do not announce",
                hint=f"add it to the answers in {hook.path}",
            )
        else:
            finding = _accepted(item, self.options)
            self.closed = self.closed or (hook.gate and finding.state == "refused")
            self.findings.setdefault((finding.id, finding.state, finding.subject.lower(), finding.evidence), finding)

    def _unread(self, hook: Hook, bad: BadData) -> None:
        """Guest content that a hook could not read on its way: told once, by the first that met it."""
        log.debug("hook %s is left out: %s", hook.name, bad.message)
        self.closed = True
        name = bad.message.split(":", 1)[0]
        for told in self.findings.values():
            if told.state == "refused" and (told.evidence.startswith(bad.message) or _last(told.subject) == _last(name)):
                return
        finding = _unsound(hook, name, bad)
        self.findings[finding.id, finding.state, finding.subject.lower(), finding.evidence] = finding


def _last(path: str) -> str:
    """The last part of a guest's path, or the name of a hive: what two findings about one file have in common."""
    return path.rsplit("/", 1)[-1].lower()


def _accepted(finding: Finding, options: Options) -> Finding:
    if finding.state == "refused" and finding.id in options.accept:
        return dataclasses.replace(finding, state="warning", repair="accepted by --h2k-accept")
    return finding


def _unsound(hook: Hook, name: str, bad: BadData) -> Finding:
    """The refusal for guest content that is unsound; errors about a hive begin with its name."""
    found = {"SYSTEM": "hive-corrupt", "SOFTWARE": "hive-corrupt", "DRIVERS": "hive-corrupt", "BCD": "bcd-corrupt"}
    evidence = f"{bad.message} (met by the hook {hook.name})"
    repair = bad.hint or "restore it from a backup of the source"
    return Finding(found.get(name, "file-unreadable"), "refused", name, evidence, repair)

"""First boot: stages the runner with what drivers, network, disks and the owner's policy leave for it to do."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Optional, TypeVar

from h2k.base.finding import Finding
from h2k.config.driver_plan import Role
from h2k.engine.hooks import Options, Proposed, Setting
from h2k.guest.changes import DeleteValue, SetValue, WriteFile
from h2k.guest.disks_online import kept_back, to_bring_online
from h2k.guest.driver_repairs import GUESTOR, first_boot_mark, installed, moving, placeholder, service_key, staged_first_boot
from h2k.guest.guest import FILE_LIMIT, Guest
from h2k.guest.network_driver import NetworkDriver, network_drivers
from h2k.guest.nics import carry
from h2k.guest.san_policy import offline_sets
from h2k.guest.virt_v2v_first_boot import DIRECTORY as VIRT_V2V
from h2k.guest.virt_v2v_first_boot import DISABLED, MAX_TRIES, bounded, loops, virt_v2v_first_boot
from h2k.guest.virt_v2v_first_boot import SERVICE as THEIR_SERVICE
from h2k.guest.virtio_win import DriverPackage, PackageBad, PackageMissing
from h2k.windows import first_boot, pnp
from h2k.windows.first_boot import DIRECTORY, FirstBoot, Package, Publisher, Runner
from h2k.windows.first_boot_steps import BOUNDED, budget
from h2k.windows.network import Route
from h2k.windows.network_carry import Settings
from h2k.windows.publisher import BLOB, TRUSTED, catalogue_publisher, trusted_blob
from h2k.windows.services import control_set_name
from h2k.windows.values import binary, dword

META = {
    "name": "first-boot",
    "summary": "Stages the first-boot runner and its steps; reports what may hold the first boot up",
    "answers": ["first-boot-loop", "guestor-leftover", "reboot-pending", "driver-package-missing"],
}

UNINSTALL = ("Microsoft\\Windows\\CurrentVersion\\Uninstall", "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall")
# QEMU's e1000e, as pci.sys names it: the card of a bootstrap that has another one than production.
E1000E = "VEN_8086&DEV_10D3&SUBSYS_00008086&REV_00"
RENAMES = "Control\\Session Manager"
PENDING_KEYS = (
    "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\RebootPending",
    "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate\\Auto Update\\RebootRequired",
)
CERTIFICATE = "publisher.cer"
AUTO_REBOOT = "auto-reboot"
T = TypeVar("T")


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    yield from _reboot_pending(guest)
    yield from _guestor(guest)
    yield from _loops(guest, options)
    if options.phase == "source":
        yield from _auto_reboot_setting(guest)
        return  # virt-v2v has yet to write what these changes would go by
    over = first_boot_mark(guest)
    if over and not moving(guest, options.plan, options.bus):
        yield from _restart_again(guest, options)
        return
    secure_boot = options.domain is not None and options.domain.secure_boot
    network = network_drivers(guest, options.plan, options.drivers, secure_boot, options.accept)
    packages = _packages(guest, options, network)
    wanted = _wanted(guest, options, packages, network)
    if not wanted.needed:
        yield from _restart_again(guest, options)
        return
    yield from _lacking(packages)
    stale = {role for role, found in network.items() if found.stale}
    yield from _files(guest, options, wanted, packages, stale)
    if over or guest.stat(f"{DIRECTORY}/done/drivers") is None:
        yield from _trust(guest, wanted, packages)
    yield from _service(guest, options)
    if over:
        # The mark of an earlier conversion of the same disk; without it the runner starts anew.
        yield DeleteValue("SOFTWARE", first_boot.MARK_KEY, first_boot.MARK_VALUE)


# What may hold the first boot up


def _reboot_pending(guest: Guest) -> Iterator[Finding]:
    found = []
    renames = f"{control_set_name(guest.control_sets.default)}\\{RENAMES}"
    waiting = guest.system.multi(renames, "PendingFileRenameOperations", ())
    if waiting:
        found.append((f"SYSTEM\\{renames}", f"PendingFileRenameOperations, the first of {waiting[0][:80]}"))
    software = guest.hive("SOFTWARE")
    found += [(f"SOFTWARE\\{key}", "the key is there") for key in PENDING_KEYS if software.key(key) is not None]
    pending = guest.stat(f"{guest.system_root}/WinSxS/pending.xml")
    if pending is not None:
        found.append((pending.path, f"{pending.size} bytes of servicing to do"))
    for subject, evidence in found:
        repair = "restart the source once before the move; h2k's own steps don't wait for it, virt-v2v's may loop on it"
        yield Finding("reboot-pending", "warning", subject, evidence, repair)


def _loops(guest: Guest, options: Options) -> Iterator[Proposed]:
    """virt-v2v's own scripts that would be tried for ever, and before the copy a runner that this Windows can't start."""
    runner = options.runner
    if options.phase == "source" and runner is not None and not runner.runs_on(guest.windows.arch):
        evidence = f"this host's {runner.name} is for {runner.machine}, Windows is {guest.windows.arch}: it can't start it"
        repair = f"put the 32-bit {runner.name} where virt-v2v looks, or its first-boot scripts never run"
        yield Finding("first-boot-loop", "warning", runner.name, evidence, repair)
    staged = virt_v2v_first_boot(guest)
    if staged is not None:
        yield from _their_runner(guest)
    for loop in loops(guest, staged) if staged is not None and options.phase != "source" else ():
        evidence = "virt-v2v's script asks for another try at each boot, without limit (exit status 249)"
        repair = f"bounded: {MAX_TRIES} tries"
        if loop.without:
            left = "; ".join(f"{name}: {why}" for name, why in loop.without[:4])
            evidence += f", and {len(loop.without)} of the drivers that it installs can't go in: {left}"
            repair += ", without these drivers"
        yield Finding("first-boot-loop", "broken", loop.script, evidence, repair)
        for path, data in bounded(loop).items():
            yield WriteFile(guest.volume, path, data, "h2k, in place of virt-v2v's script")


def _their_runner(guest: Guest) -> Iterator[Proposed]:
    """The program that starts virt-v2v's scripts in this guest: one of another machine type never starts, and what
    comes after these scripts must not wait for them."""
    for name in ("rhsrvany.exe", "pvvxsvc.exe"):
        facts, _ = guest.pe(f"{VIRT_V2V}/{name}")
        if facts is not None and not Runner(name, b"", facts.machine).runs_on(guest.windows.arch):
            evidence = f"it is for {facts.machine}, Windows is {guest.windows.arch}: virt-v2v's first-boot scripts never run"
            repair = f"its service is switched off, and nothing waits for it; to run them put the 32-bit {name} there and set Start 2"
            yield Finding("first-boot-loop", "broken", f"{VIRT_V2V}/{name}", evidence, repair)
            for number in guest.control_sets.boot:
                if guest.service(number, THEIR_SERVICE) is not None:
                    yield SetValue("SYSTEM", service_key(number, THEIR_SERVICE), "Start", dword(DISABLED))


def _guestor(guest: Guest) -> Iterator[Finding]:
    if _has_guestor(guest):
        subject = f"SYSTEM\\{pnp.DATABASE}\\DriverInfFiles\\{GUESTOR}"
        evidence = "virt-v2v's placeholder package, which blocks upgrades of the real driver and pnputil /enum-drivers"
        yield Finding("guestor-leftover", "warning", subject, evidence, "removed at first boot, once the real driver is bound")


def _has_guestor(guest: Guest) -> bool:
    return guest.system.key(f"{pnp.DATABASE}\\DriverInfFiles\\{GUESTOR}") is not None


# What there is to do


def _packages(guest: Guest, options: Options, network: Mapping[Role, NetworkDriver]) -> dict[Role, DriverPackage]:
    """The packages that Windows has yet to install: storage of the chosen bus, network where Windows would load it, and
    the plan's smaller ones."""
    found: dict[Role, DriverPackage] = {}
    for role in options.plan.roles if options.drivers is not None else ():
        if not role.stage or (role.kind == "storage" and role.bus != options.bus) or installed(guest, role):
            continue
        if role in network and network[role].offered is not None and network[role].package is None:
            continue  # the hook of the network says why
        try:
            assert options.drivers is not None
            found[role] = options.drivers.find(options.plan, role, guest.windows)
        except (PackageMissing, PackageBad):
            continue  # the hooks of storage and network say so; what else is missing is optional
    return found


def _wanted(
    guest: Guest, options: Options, packages: dict[Role, DriverPackage], network: Mapping[Role, NetworkDriver]
) -> FirstBoot:
    """The first boot that this guest needs; what is staged already stays in it, though its source may be gone, but for
    a network driver that Windows would not load."""
    staged = _without(staged_first_boot(guest) or FirstBoot(options.bus), network)
    needed = [role for role in packages if role.kind in ("storage", "network") and not packages[role].missing]
    # Smaller drivers come along with the needed ones; on their own they are no reason to touch a guest.
    coming = [r for r in packages if not packages[r].missing] if needed or staged.drivers else []
    drivers = [Package(f"{r.driver}\\{packages[r].inf.name}", r.kind in ("storage", "network")) for r in coming]
    leftovers = [GUESTOR] if _has_guestor(guest) else []
    if pnp.uses_driver_database(guest.system):
        leftovers += [placeholder(role) for role in needed if role.kind == "storage"]
    cards = _cards(guest, options, staged)
    offline = offline_sets(guest) if options.policy.san == "online" and moving(guest, options.plan, options.bus) else []
    san = [] if kept_back(guest) else offline
    agent = _agent(guest, options)
    return FirstBoot(
        bus=options.bus,
        retries=options.policy.retries,
        drivers=_union(tuple(p for p in staged.drivers if _staged_file(guest, p.inf)), drivers),
        network_service=staged.network_service or _network_service(guest, packages, network),
        cards=cards,
        routes=_routes(guest, options, cards),
        san=staged.san or tuple(san),
        bound=_union(staged.bound, [r.service for r in needed if r.kind == "storage"] if leftovers else []),
        leftovers=_union(staged.leftovers, leftovers),
        tools=_union(staged.tools, list(_tools(guest, options))),
        agent=agent[0] if agent is not None else staged.agent,
        bootstrap_cards=(E1000E,) if options.policy.bootstrap_nic == "e1000e" and all(f.serves for f in network.values()) else (),
        limits=tuple((name, budget(options.policy.timeouts[name])) for name in BOUNDED),
        publishers=_union(
            tuple(p for p in staged.publishers if _staged_file(guest, p.file)),
            [Publisher(sha1, f"{r.driver}\\{CERTIFICATE}") for r in coming for sha1, _ in _publisher(guest, packages[r]) if not _trusts(guest, sha1)],
        ),
        disks=staged.disks or (to_bring_online(guest) if staged.san or offline else ()),
        auto_reboot=staged.auto_reboot or tuple(_auto_reboot(guest, options)),
    )


def _without(staged: FirstBoot, network: Mapping[Role, NetworkDriver]) -> FirstBoot:
    """The staged first boot without the network drivers that Windows would not load."""
    gone = tuple(f"{role.driver}\\".lower() for role, found in network.items() if not found.serves)
    if not gone:
        return staged
    return dataclasses.replace(
        staged,
        drivers=tuple(p for p in staged.drivers if not p.inf.lower().startswith(gone)),
        publishers=tuple(p for p in staged.publishers if not p.file.lower().startswith(gone)),
        network_service="",
    )


def _staged_file(guest: Guest, path: str) -> bool:
    return guest.stat(f"{DIRECTORY}/drivers/{path}") is not None


def _publisher(guest: Guest, package: DriverPackage) -> Iterator[tuple[str, bytes]]:
    """(thumbprint, certificate) of a package's signer, where Windows would ask whether to trust him: up to 8.1."""
    catalogues = [data for name, data in sorted(package.files.items()) if name.lower().endswith(".cat")]
    for data in catalogues if guest.windows.version <= (6, 3) else ():
        found = catalogue_publisher(data)
        if found is not None:
            yield found
            return


def _trusts(guest: Guest, thumbprint: str) -> bool:
    return guest.hive("SOFTWARE").key(f"{TRUSTED}\\{thumbprint}") is not None


def _trust(guest: Guest, wanted: FirstBoot, packages: dict[Role, DriverPackage]) -> Iterator[SetValue]:
    """The publishers whom the first boot takes out again are trusted before it: virt-v2v's own script, which starts by
    itself, installs packages of theirs too, and would wait for an answer that nobody gives."""
    staged = {publisher.thumbprint for publisher in wanted.publishers}
    for package in packages.values():
        for thumbprint, certificate in _publisher(guest, package):
            if thumbprint in staged:
                yield SetValue("SOFTWARE", f"{TRUSTED}\\{thumbprint}", BLOB, binary(trusted_blob(thumbprint, certificate)))


def _auto_reboot(guest: Guest, options: Options) -> Iterator[tuple[int, int]]:
    """What each control set's CrashControl had: h2k-qemu-img switches it off after this look, virt-v2v before it."""
    had = options.source.get(AUTO_REBOOT, "").split(",")
    for number in guest.control_sets.boot:
        if _restarts(guest, number) or str(number) in had:
            yield number, 1


def _auto_reboot_setting(guest: Guest) -> Iterator[Setting]:
    on = [str(number) for number in guest.control_sets.boot if _restarts(guest, number)]
    if on:
        yield Setting(AUTO_REBOOT, ",".join(on), "these control sets restart Windows after a crash; virt-v2v switches it off")


def _restart_again(guest: Guest, options: Options) -> Iterator[SetValue]:
    """No first boot gives back what virt-v2v switched off: Windows restarts after a crash, as it did on the source."""
    for number, had in _auto_reboot(guest, options):
        if not _restarts(guest, number):
            yield SetValue("SYSTEM", _crash_control(number), "AutoReboot", dword(had))


def _restarts(guest: Guest, number: int) -> bool:
    return guest.system.dword(_crash_control(number), "AutoReboot") == 1


def _crash_control(number: int) -> str:
    return f"{control_set_name(number)}\\Control\\CrashControl"


def _cards(guest: Guest, options: Options, staged: FirstBoot) -> tuple[Settings, ...]:
    """What each card gets. The adapters of the source are gone once a first boot is staged: what they had is in it. One that
    the policy keeps has lost its addresses, and has its other settings still: the staged addresses are not given up for these."""
    now = carry(guest, options.domain, options.policy).settings
    if options.policy.addresses == "override":
        return now
    earlier = staged.cards if options.policy.addresses == "preserve" else tuple(Settings(c.mac, c.name) for c in staged.cards)
    found = {card.mac: card for card in earlier if card.worth_setting}
    static = {card.mac for card in found.values() if card.static}
    found.update({card.mac: card for card in now if card.static or (card.required and card.mac not in static) or card.mac not in found})
    return tuple(found.values())


def _union(earlier: tuple[T, ...], now: list[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys((*earlier, *now)))


def _network_service(guest: Guest, packages: dict[Role, DriverPackage], network: Mapping[Role, NetworkDriver]) -> str:
    """The service that will drive the final cards; '' when they are left to an inbox driver."""
    there = [role for role, found in network.items() if role in packages or installed(guest, role)]
    return next((role.service for role in there if network[role].serves), "")


def _routes(guest: Guest, options: Options, cards: tuple[Settings, ...]) -> tuple[Route, ...]:
    """Persistent routes lie in the registry and belong to no card; one that had no card yet is made active again."""
    if options.policy.addresses != "preserve" or not any(card.addresses for card in cards):
        return ()
    return carry(guest, options.domain, options.policy).network.routes


def _tools(guest: Guest, options: Options) -> Iterator[str]:
    """Product codes of other hypervisors' tools, when the owner wants them removed."""
    software = guest.hive("SOFTWARE")
    for place in UNINSTALL if options.policy.tools == "remove" else ():
        key = software.key(place)
        for entry in key.subkeys() if key is not None else ():
            name = entry.text("DisplayName", "")
            if any(name.startswith(tools.programs) for tools in options.plan.tools):
                code = first_boot.product_code(entry.name)
                if code is not None:
                    yield code


def _agent(guest: Guest, options: Options) -> Optional[tuple[str, bytes]]:
    if options.policy.agent != "install" or options.drivers is None:
        return None
    return options.drivers.guest_agent_msi(guest.windows.arch)


# How it is staged


def _lacking(packages: dict[Role, DriverPackage]) -> Iterator[Finding]:
    for role, package in packages.items():
        if package.missing and role.kind != "other":
            evidence = f"{package.directory} lacks {', '.join(package.missing[:4])}: Windows can't install the package"
            repair = "the staged driver runs as it is; get a whole virtio-win to have it installed"
            yield Finding("driver-package-missing", "warning", role.inf, evidence, repair)


def _files(
    guest: Guest, options: Options, wanted: FirstBoot, packages: dict[Role, DriverPackage], stale: Collection[Role]
) -> Iterator[Proposed]:
    """What is staged; a package that is there already stays as it is, unless Windows would not load its driver."""

    def write(name: str, data: bytes, source: str) -> WriteFile:
        return WriteFile(guest.volume, f"{DIRECTORY}/{name}", data, source)

    for name, data in first_boot.scripts().items():
        yield write(name, data, "h2k")
    yield write("settings.txt", first_boot.settings_text(wanted), f"this guest's facts and the policy ({wanted.summary()})")
    staged = staged_first_boot(guest)
    infs = {package.inf for package in wanted.drivers}
    for role, package in packages.items():
        inf = f"{role.driver}\\{package.inf.name}"
        there = staged is not None and guest.stat(f"{DIRECTORY}/drivers/{inf}") is not None
        if inf in infs and (not there or role in stale):
            for name, data in sorted(package.files.items()):
                yield write(f"drivers/{role.driver}/{name}", data, f"{package.directory}/{name}")
            for _, certificate in _publisher(guest, package):
                yield write(f"drivers/{role.driver}/{CERTIFICATE}", certificate, f"the signer's, out of {package.directory}")
    agent = _agent(guest, options)
    if agent is not None:
        yield write(agent[0], agent[1], "virtio-win's guest-agent")
    runner = _runner(guest, options)
    if runner is not None:
        yield write(first_boot.RUNNER, runner, "this host")


def _runner(guest: Guest, options: Options) -> Optional[bytes]:
    """rhsrvany.exe: the one that is staged already, else the host's, where this Windows can start it; None without."""
    stat = guest.stat(f"{DIRECTORY}/{first_boot.RUNNER}")
    if staged_first_boot(guest) is not None:
        return guest.reader.read(guest.volume, stat.path, FILE_LIMIT) if stat is not None else None
    runner = options.runner
    fits = runner is not None and runner.name == first_boot.RUNNER and runner.runs_on(guest.windows.arch)
    return runner.data if runner is not None and fits else None


def _service(guest: Guest, options: Options) -> Iterator[SetValue]:
    drive = guest.hive("SOFTWARE").text("Microsoft\\Windows NT\\CurrentVersion", "SystemRoot", "")[:2]
    values = first_boot.service_values(_runner(guest, options) is not None, drive if re.fullmatch("[A-Za-z]:", drive) else "C:")
    for number in guest.control_sets.boot:
        for entry in values:
            key = service_key(number, first_boot.SERVICE) + (f"\\{entry.key}" if entry.key else "")
            yield SetValue("SYSTEM", key, entry.name, entry.value)

"""The same disks and letters as on the source: no SAN policy takes data disks offline when their bus changes."""

from __future__ import annotations

from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.base.steps import counted
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import SetValue
from h2k.guest.disks_online import kept_back
from h2k.guest.drive_letters import MAX_LETTERS, drive_letters
from h2k.guest.driver_repairs import moving
from h2k.guest.guest import Guest
from h2k.guest.san_policy import ONLINE, brings_online, cluster_member, offline_sets, policy_key, shown
from h2k.windows.services import control_set_name
from h2k.windows.values import dword

META = {
    "name": "disks",
    "summary": "Keeps data disks online through the change of their bus, and checks the drive letters",
    "answers": ["disks-offline-policy", "drive-letter-unresolved", "cluster-member", "page-file-misplaced"],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    yield from _san_policy(guest, options)
    yield from _letters(guest)
    yield from _page_files(guest)


def _san_policy(guest: Guest, options: Options) -> Iterator[Proposed]:
    member = cluster_member(guest)
    if member is not None:
        evidence = "a node of a failover cluster: its disks may be shared, and must not all come online"
        repair = "no SAN policy is changed; take the node out of the cluster, or move the whole cluster"
        yield Finding("cluster-member", "warning", member, evidence, repair)
        return
    if not moving(guest, options.plan, options.bus):
        return
    kept = kept_back(guest)
    for number, policy in offline_sets(guest):
        subject = f"{policy_key(number)} SanPolicy"
        others = counted(len(guest.disks) - 1 - len(kept), "data disk")
        evidence = f"{shown(policy)}: {others} would come up offline on the new bus"
        if options.policy.san == "keep":
            yield Finding("disks-offline-policy", "warning", subject, evidence, "kept, as the policy says")
            continue
        if kept:
            evidence += f"; its owner kept offline or read-only: {', '.join(kept[:4])}"
            repair = "the policy stays, so that this stays so; the first boot brings the others online: restart what started before and needs them"
            yield Finding("disks-offline-policy", "warning", subject, evidence, repair)
            continue
        repair = "1, online all; first boot brings them online and restores it"
        yield Finding("disks-offline-policy", "broken", subject, evidence, repair)
        yield SetValue("SYSTEM", policy_key(number), "SanPolicy", dword(ONLINE))
    for disk in kept if brings_online(guest) else ():
        evidence = "its owner kept it offline or read-only; the SAN policy brings it online, and writable, on its new bus"
        repair = "on the source, before the move: diskpart, san policy=OfflineAll; or set it offline again after the first boot"
        yield Finding("disks-offline-policy", "warning", f"disk {disk}", evidence, repair)


def _letters(guest: Guest) -> Iterator[Finding]:
    """Letters that lead to no partition of these disks."""
    for letter in drive_letters(guest):
        if letter.missing is not None:
            repair = "a removed disk or a dynamic volume needs nothing; else give h2k all disks of the guest"
            yield Finding("drive-letter-unresolved", "warning", letter.name, letter.missing, repair)


def _page_files(guest: Guest) -> Iterator[Finding]:
    """Page files on a drive that will not be there: Azure's temporary disk, D:, is none of the guest's own."""
    key = f"{control_set_name(guest.control_sets.default)}\\Control\\Session Manager\\Memory Management"
    drives = {letter.name.upper(): letter.missing is None for letter in drive_letters(guest)}
    for entry in guest.system.multi(key, "PagingFiles", ())[:MAX_LETTERS]:
        letter = entry.strip()[:2].upper()
        own = letter == guest.hive("SOFTWARE").text("Microsoft\\Windows NT\\CurrentVersion", "SystemRoot", "C:")[:2].upper()
        if letter[1:] == ":" and letter[0].isalpha() and not own and drives and not drives.get(letter, False):
            evidence = f"the page file {entry.strip()[:80]!r} lies on {letter}, which is on none of these disks"
            repair = "Windows makes a small one on C:; set it there on the source, or afterwards"
            yield Finding("page-file-misplaced", "warning", f"SYSTEM\\{key} PagingFiles", evidence, repair)

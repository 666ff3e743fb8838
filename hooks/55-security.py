"""Security settings that the move meets: virtualization-based security, and what keeps first-boot scripts from running."""

from __future__ import annotations

from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.guest import Guest
from h2k.windows.services import control_set_name

META = {
    "name": "security",
    "summary": "Tells of virtualization-based security, and of policies that keep first-boot scripts from running",
    "answers": ["security-virtualization", "scripts-restricted"],
}

DISABLED = 4
DEVICE_GUARD = "Policies\\Microsoft\\Windows\\DeviceGuard"
HVCI = "Control\\DeviceGuard\\Scenarios\\HypervisorEnforcedCodeIntegrity"
POWERSHELL_POLICY = "Policies\\Microsoft\\Windows\\PowerShell"
POWERSHELL = "Microsoft\\PowerShell\\1\\ShellIds\\Microsoft.PowerShell"
APPLOCKER = "Policies\\Microsoft\\Windows\\SrpV2"
# AppLocker's collections that a runner of .cmd files and its programs meet; 1 is "enforce", 0 "audit only".
COLLECTIONS = ("Exe", "Script")
SOFTWARE_RESTRICTION = "Policies\\Microsoft\\Windows\\Safer\\CodeIdentifiers"
DISALLOWED = 0  # DefaultLevel of software restriction policies
CONSTRAINED = 4  # __PSLockdownPolicy: constrained language mode
# Services of endpoint protection that were seen to stop or delete scripts of a service, by vendor.
PROTECTION = {
    "CSFalconService": "CrowdStrike Falcon", "SentinelAgent": "SentinelOne", "CbDefense": "Carbon Black", "CylanceSvc": "Cylance",
    "mfemms": "Trellix (McAfee)", "SepMasterService": "Symantec Endpoint Protection", "Sophos Endpoint Defense Service": "Sophos",
    "ds_agent": "Trend Micro Deep Security", "ekrn": "ESET", "xagt": "Trellix (FireEye)", "cyserver": "Palo Alto Cortex XDR",
}  # fmt: skip


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    if not guest.windows.supported:
        return
    yield from _virtualization(guest)
    yield from _scripts(guest)


def _virtualization(guest: Guest) -> Iterator[Finding]:
    base = control_set_name(guest.control_sets.default)
    system, software = guest.system, guest.hive("SOFTWARE")
    on = [
        (f"SYSTEM\\{base}\\Control\\DeviceGuard EnableVirtualizationBasedSecurity",
         system.dword(f"{base}\\Control\\DeviceGuard", "EnableVirtualizationBasedSecurity")),
        (f"SYSTEM\\{base}\\{HVCI} Enabled", system.dword(f"{base}\\{HVCI}", "Enabled")),
        (f"SYSTEM\\{base}\\Control\\Lsa LsaCfgFlags", system.dword(f"{base}\\Control\\Lsa", "LsaCfgFlags")),
        (f"SOFTWARE\\{DEVICE_GUARD} EnableVirtualizationBasedSecurity",
         software.dword(DEVICE_GUARD, "EnableVirtualizationBasedSecurity")),
        (f"SOFTWARE\\{DEVICE_GUARD} LsaCfgFlags", software.dword(DEVICE_GUARD, "LsaCfgFlags")),
    ]  # fmt: skip
    for place, value in on:
        if value:
            yield Finding(
                "security-virtualization",
                "warning",
                place,
                f"{value}: Windows runs itself in a hypervisor of its own; vioscsi was seen to stop the guest there",
                "let the guest have nested virtualization, prefer --h2k-bus virtio, or turn it off on the source",
            )


def _scripts(guest: Guest) -> Iterator[Finding]:
    for place, why in (*_powershell(guest), *_applocker(guest), *_protection(guest)):
        repair = "allow C:\\Program Files\\h2k and C:\\Program Files\\Guestfs for the first boots"
        yield Finding("scripts-restricted", "warning", place, f"{why}: first-boot scripts may not run", repair)


def _powershell(guest: Guest) -> Iterator[tuple[str, str]]:
    software = guest.hive("SOFTWARE")
    for key in (POWERSHELL_POLICY, POWERSHELL):
        policy = software.text(key, "ExecutionPolicy", "")
        if policy.lower() in ("allsigned", "restricted") and (key == POWERSHELL_POLICY or policy.lower() == "allsigned"):
            yield f"SOFTWARE\\{key} ExecutionPolicy", f"PowerShell's execution policy is {policy}"
    environment = f"{control_set_name(guest.control_sets.default)}\\Control\\Session Manager\\Environment"
    if guest.system.text(environment, "__PSLockdownPolicy", "") == str(CONSTRAINED):
        yield f"SYSTEM\\{environment} __PSLockdownPolicy", "PowerShell runs in constrained language mode"


def _applocker(guest: Guest) -> Iterator[tuple[str, str]]:
    software = guest.hive("SOFTWARE")
    for collection in COLLECTIONS:
        key = f"{APPLOCKER}\\{collection}"
        if software.dword(key, "EnforcementMode") == 1:
            yield f"SOFTWARE\\{key} EnforcementMode", f"AppLocker enforces its {collection} rules"
    if software.dword(SOFTWARE_RESTRICTION, "DefaultLevel") == DISALLOWED:
        yield f"SOFTWARE\\{SOFTWARE_RESTRICTION} DefaultLevel", "software restriction policies disallow what no rule allows"


def _protection(guest: Guest) -> Iterator[tuple[str, str]]:
    for name, product in PROTECTION.items():
        service = guest.service(guest.control_sets.default, name)
        if service is not None and service.start is not None and service.start < DISABLED:
            yield f"SYSTEM\\{service.key}", f"{product} watches scripts"

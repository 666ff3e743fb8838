"""Security settings that the move meets: told, never changed."""

from __future__ import annotations

import pytest

from h2k.guest.virt_v2v_first_boot import DIRECTORY as VIRT_V2V
from h2k.windows.first_boot import DIRECTORY
from tests.unit.hooks import ask
from tests.unit.memory_reader import windows_guest

GUARD, LSA = "$cs\\Control\\DeviceGuard", "$cs\\Control\\Lsa"
HVCI = f"{GUARD}\\Scenarios\\HypervisorEnforcedCodeIntegrity"
POLICIES = "Policies\\Microsoft\\Windows"
ENVIRONMENT = "$cs\\Control\\Session Manager\\Environment"


@pytest.mark.parametrize("value", [0, 1, 2])
@pytest.mark.parametrize(
    ("system", "software"),
    [
        (f'[{GUARD}]\n"EnableVirtualizationBasedSecurity"=', ""),
        (f'[{HVCI}]\n"Enabled"=', ""),
        (f'[{LSA}]\n"LsaCfgFlags"=', ""),
        ("", f'[{POLICIES}\\DeviceGuard]\n"EnableVirtualizationBasedSecurity"='),
        ("", f'[{POLICIES}\\DeviceGuard]\n"LsaCfgFlags"='),
    ],
)
def test_virtualization_based_security(system: str, software: str, value: int) -> None:
    number = f"dword:{value:08x}\n"
    guest = windows_guest(system + number if system else "", software + number if software else "")
    said = ask("security", guest)
    assert said.states() == ({"security-virtualization": {"warning"}} if value else {}) and said.changes == ()


@pytest.mark.parametrize(
    ("system", "software", "found"),
    [
        ("", f'[{POLICIES}\\PowerShell]\n"ExecutionPolicy"="AllSigned"\n', True),
        ("", f'[{POLICIES}\\PowerShell]\n"ExecutionPolicy"="Restricted"\n', True),
        ("", f'[{POLICIES}\\PowerShell]\n"ExecutionPolicy"="RemoteSigned"\n', False),
        ("", '[Microsoft\\PowerShell\\1\\ShellIds\\Microsoft.PowerShell]\n"ExecutionPolicy"="AllSigned"\n', True),
        # The default of a client: -ExecutionPolicy Bypass of the scripts overrides it.
        ("", '[Microsoft\\PowerShell\\1\\ShellIds\\Microsoft.PowerShell]\n"ExecutionPolicy"="Restricted"\n', False),
        (f'[{ENVIRONMENT}]\n"__PSLockdownPolicy"="4"\n', "", True),
        (f'[{ENVIRONMENT}]\n"__PSLockdownPolicy"="0"\n', "", False),
        ("", f'[{POLICIES}\\SrpV2\\Script]\n"EnforcementMode"=dword:00000001\n', True),
        ("", f'[{POLICIES}\\SrpV2\\Exe]\n"EnforcementMode"=dword:00000000\n', False),
        ("", f'[{POLICIES}\\SrpV2\\Appx]\n"EnforcementMode"=dword:00000001\n', False),
        ("", f'[{POLICIES}\\Safer\\CodeIdentifiers]\n"DefaultLevel"=dword:00000000\n', True),
        ("", f'[{POLICIES}\\Safer\\CodeIdentifiers]\n"DefaultLevel"=dword:00040000\n', False),
        ('[$cs\\Services\\CSFalconService]\n"Start"=dword:00000002\n', "", True),
        ('[$cs\\Services\\CSFalconService]\n"Start"=dword:00000003\n', "", True),
        ('[$cs\\Services\\CSFalconService]\n"Start"=dword:00000004\n', "", False),
        ('[$cs\\Services\\CSFalconService]\n"Type"=dword:00000010\n', "", False),
    ],
)
def test_what_keeps_scripts_from_running(system: str, software: str, found: bool) -> None:
    said = ask("security", windows_guest(system, software))
    assert said.states() == ({"scripts-restricted": {"warning"}} if found else {}) and said.changes == ()


def test_each_thing_that_keeps_scripts_from_running_is_named_with_the_directories_to_allow() -> None:
    system = f'[{ENVIRONMENT}]\n"__PSLockdownPolicy"="4"\n'
    system += "".join(f'[$cs\\Services\\{name}]\n"Start"=dword:00000002\n' for name in ("SentinelAgent", "CSFalconService"))
    local = "Microsoft\\PowerShell\\1\\ShellIds\\Microsoft.PowerShell"
    software = f'[{POLICIES}\\PowerShell]\n"ExecutionPolicy"="Restricted"\n[{local}]\n"ExecutionPolicy"="AllSigned"\n'
    software += "".join(f'[{POLICIES}\\SrpV2\\{kind}]\n"EnforcementMode"=dword:00000001\n' for kind in ("Exe", "Script"))
    software += f'[{POLICIES}\\Safer\\CodeIdentifiers]\n"DefaultLevel"=dword:00000000\n'
    findings = ask("security", windows_guest(system, software)).findings
    assert [(f.subject, f.evidence.removesuffix(": first-boot scripts may not run")) for f in findings] == [
        (f"SOFTWARE\\{POLICIES}\\PowerShell ExecutionPolicy", "PowerShell's execution policy is Restricted"),
        (f"SOFTWARE\\{local} ExecutionPolicy", "PowerShell's execution policy is AllSigned"),
        ("SYSTEM\\ControlSet001\\Control\\Session Manager\\Environment __PSLockdownPolicy", "PowerShell runs in constrained language mode"),
        (f"SOFTWARE\\{POLICIES}\\SrpV2\\Exe EnforcementMode", "AppLocker enforces its Exe rules"),
        (f"SOFTWARE\\{POLICIES}\\SrpV2\\Script EnforcementMode", "AppLocker enforces its Script rules"),
        (f"SOFTWARE\\{POLICIES}\\Safer\\CodeIdentifiers DefaultLevel", "software restriction policies disallow what no rule allows"),
        ("SYSTEM\\ControlSet001\\Services\\CSFalconService", "CrowdStrike Falcon watches scripts"),
        ("SYSTEM\\ControlSet001\\Services\\SentinelAgent", "SentinelOne watches scripts"),
    ]
    ours, theirs = (f"C:{path}".replace("/", "\\") for path in (DIRECTORY, VIRT_V2V.rpartition("/")[0]))
    assert {f.repair for f in findings} == {f"allow {ours} and {theirs} for the first boots"}

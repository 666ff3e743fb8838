"""Security settings that the move meets: told, never changed."""

from __future__ import annotations

import pytest

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
        ('[$cs\\Services\\CSFalconService]\n"Start"=dword:00000004\n', "", False),
    ],
)
def test_what_keeps_scripts_from_running(system: str, software: str, found: bool) -> None:
    said = ask("security", windows_guest(system, software))
    assert said.states() == ({"scripts-restricted": {"warning"}} if found else {}) and said.changes == ()

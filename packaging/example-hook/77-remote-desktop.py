"""An example of a guarantee that another package brings: Remote Desktop answers after the move."""

from collections.abc import Iterator

from h2k.base.finding import Finding
from h2k.engine.hooks import Options, Proposed
from h2k.guest.changes import SetValue
from h2k.guest.guest import Guest
from h2k.windows.regf import REG_DWORD

META = {
    "name": "remote-desktop",
    "summary": "Turns Remote Desktop on",
    "answers": ["remote-desktop-off"],
}


def propose(guest: Guest, options: Options) -> Iterator[Proposed]:
    for number in guest.control_sets.boot:
        key = f"ControlSet{number:03d}\\Control\\Terminal Server"
        value = guest.system.value(key, "fDenyTSConnections")
        if value is None or value.dword() != 0:
            yield Finding("remote-desktop-off", "broken", key, "fDenyTSConnections is not 0", "fDenyTSConnections = 0")
            yield SetValue("SYSTEM", key, "fDenyTSConnections", REG_DWORD, bytes(4))

"""Wine's cmd.exe as the second interpreter of the first-boot scripts: a prefix, stand-ins for Windows' programs, one run."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from h2k.windows.first_boot import scripts

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "x86_64-w64-mingw32-gcc"
PROGRAMS = ("netsh.exe", "pnputil.exe", "route.exe", "diskpart.exe", "msiexec.exe", "icacls.exe", "sc.exe", "mode.com", "certutil.exe")
HELPERS = ("findstr.exe", "ping.exe")
POWERSHELL = "WindowsPowerShell/v1.0/powershell.exe"  # Wine's own is an empty one
KEY = "HKEY_LOCAL_MACHINE\\"
# What a test may leave in the registry; Wine's own keys below CurrentControlSet stay.
OURS = (
    "SOFTWARE\\h2k", "SOFTWARE\\Microsoft\\SystemCertificates\\TrustedPublisher\\Certificates", "SYSTEM\\CurrentControlSet\\Services\\netkvm", "SYSTEM\\CurrentControlSet\\Services\\viostor",
    "SYSTEM\\CurrentControlSet\\Services\\firstboot", "SYSTEM\\CurrentControlSet\\Services\\NetBT", "SYSTEM\\CurrentControlSet\\Enum\\PCI",
    "SYSTEM\\CurrentControlSet\\Services\\disk", "SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters\\Interfaces",
    "SYSTEM\\CurrentControlSet\\Control\\Class\\{4D36E972-E325-11CE-BFC1-08002BE10318}", "SYSTEM\\ControlSet009",
    "SYSTEM\\CurrentControlSet\\Control\\Class\\{4d36e97b-e325-11ce-bfc1-08002be10318}", "SYSTEM\\DriverDatabase",
)  # fmt: skip
ONE_STEP = r"""@echo off
regedit /S C:\stub\before.reg
set "H2K=C:\Program Files\h2k\"
set "SYS=C:\windows\system32"
set "RUNS=0"
set "BUDGET={budget}"
set "LAST={last}"
set "STEP={step}"
set "DETAIL="
set "RESULT=1"
if not exist "%H2K%tries" mkdir "%H2K%tries"
if exist "%H2K%run*.rc" del /q "%H2K%run*.rc"
cd /d C:\windows\system32
call "%H2K%{step}.cmd" >C:\stub\output.txt 2>&1
>C:\stub\left.txt echo %BUDGET%
>C:\stub\result.txt echo %RESULT% %DETAIL%
"""
SCRIPT = """@echo off
regedit /S C:\\stub\\before.reg
call "{path}" >C:\\stub\\output.txt 2>&1
>C:\\stub\\result.txt echo %ERRORLEVEL%
"""


class Wine:
    """A Wine prefix in which the scripts run; `rules` are (program, part of its arguments, exit status, what it prints)."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.drive = prefix / "drive_c"
        self.h2k = self.drive / "Program Files" / "h2k"
        self.stub = self.drive / "stub"
        self.env = {**os.environ, "WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": f"mscoree,mshtml=;winedbg.exe=d;{','.join((*PROGRAMS, *HELPERS, 'powershell.exe'))}=n"}
        self.env.pop("DISPLAY", None)

    def make(self) -> None:
        """Create the prefix once, and put the stand-ins into it; it is this process' own until close()."""
        self.prefix.parent.mkdir(parents=True, exist_ok=True)
        self.lock = self.prefix.with_suffix(".lock").open("w")
        fcntl.flock(self.lock, fcntl.LOCK_EX)
        if not (self.prefix / "ready").exists():
            shutil.rmtree(self.prefix, ignore_errors=True)
            self.prefix.mkdir(parents=True)
            self._run("wine", "wineboot", "--init")
            (self.prefix / "ready").touch()
        stub = self.prefix / "stub.exe"
        subprocess.run([COMPILER, "-O1", "-s", "-o", stub, Path(__file__).with_name("wine_stub.c")], check=True)
        for name in (*PROGRAMS, *HELPERS, POWERSHELL):
            target = self.drive / "windows" / "system32" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy(stub, target)

    def close(self) -> None:
        """End what still runs in the prefix."""
        self._run("wine", "wineboot", "--kill")
        self.lock.close()

    def _run(self, *argv: str) -> None:
        subprocess.run(argv, env=self.env, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)

    def fresh(self, settings: str, registry: str = "", rules: Sequence[tuple[str, str, object, str]] = (), waits: bool = False) -> None:
        """A machine whose first boot is staged with these settings; `registry` is the body of a .reg file. `waits`: the
        scripts wait as often as they do in a guest."""
        shutil.rmtree(self.h2k, ignore_errors=True)
        shutil.rmtree(self.stub, ignore_errors=True)
        shutil.rmtree(self.drive / "Program Files" / "Guestfs", ignore_errors=True)
        self.h2k.mkdir(parents=True)
        self.stub.mkdir()
        for name, data in scripts().items():
            # Nothing comes up later here: one more look is enough.
            (self.h2k / name).write_bytes(data if waits else re.sub(rb'set "WAIT=[0-9]+"', b'set "WAIT=1"', data))
        text = "h2k 1\n" + settings.strip() + "\n"
        (self.h2k / "settings.txt").write_bytes(text.replace("\n", "\r\n").encode("ascii"))
        gone = "".join(f"[-{KEY}{key}]\n" for key in OURS)
        self._write_reg("before.reg", gone + registry.replace("[", f"[{KEY}"))
        self.answer(rules)

    def answer(self, rules: Sequence[tuple[str, str, object, str]]) -> None:
        """What the stand-ins say from now on."""
        lines = []
        for number, (program, part, status, shown) in enumerate(rules):
            file = f"shown{number}.txt"
            (self.stub / file).write_text(shown, encoding="ascii")
            lines.append(f"{program}\t{part}\t{status}\tC:\\stub\\{file}\n" if shown else f"{program}\t{part}\t{status}\t-\n")
        (self.stub / "rules.txt").write_text("".join(lines), encoding="ascii")

    def _write_reg(self, name: str, body: str) -> None:
        (self.stub / name).write_text("Windows Registry Editor Version 5.00\n\n" + body, encoding="ascii", newline="\r\n")

    def step(self, step: str, last: bool = False, budget: int = 600) -> tuple[str, str]:
        """Run one step; (RESULT, DETAIL)."""
        return self._batch(ONE_STEP.format(step=step, last="1" if last else "", budget=budget))

    def script(self, path: str) -> str:
        """Run a batch file; its exit status, which Wine 8 tells as 0 or 1."""
        return self._batch(SCRIPT.format(path=path))[0]

    def _batch(self, text: str) -> tuple[str, str]:
        (self.stub / "test.cmd").write_text(text, encoding="ascii", newline="\r\n")
        (self.stub / "result.txt").unlink(missing_ok=True)
        self._run("wine", "cmd", "/d", "/c", "C:\\stub\\test.cmd")
        result, _, detail = (self.stub / "result.txt").read_text(encoding="ascii").strip().partition(" ")
        return result, detail.strip()

    def boot(self) -> list[str]:
        """Run the runner as its service does; the lines that it logged as signals."""
        self._batch('@echo off\nregedit /S C:\\stub\\before.reg\ncall "C:\\Program Files\\h2k\\runner.cmd"\n>C:\\stub\\result.txt echo 0\n')
        log = (self.h2k / "firstboot.log").read_text(encoding="ascii", errors="replace").splitlines()
        (self.h2k / "firstboot.log").unlink()
        self._write_reg("before.reg", "")
        return [line for line in log if line.startswith("h2k-boot ")]

    @property
    def calls(self) -> list[str]:
        """What the stand-ins were called with, one line each."""
        file = self.stub / "calls.txt"
        return [" ".join(line.split()) for line in file.read_text(encoding="ascii").splitlines()] if file.exists() else []

    @property
    def left(self) -> int:
        """What the step left of its budget, in seconds."""
        return int((self.stub / "left.txt").read_text(encoding="ascii"))

    @property
    def output(self) -> str:
        """What the step printed."""
        return (self.stub / "output.txt").read_text(encoding="ascii", errors="replace")

    def registry(self, key: str) -> Mapping[str, str]:
        """The values of a key below HKEY_LOCAL_MACHINE, as regedit writes them; none for a key that is not there."""
        after = self.stub / "after.reg"
        after.unlink(missing_ok=True)
        self._run("wine", "regedit", "/E", "C:\\stub\\after.reg", f"{KEY}{key}")
        text = after.read_text(encoding="utf-16") if after.exists() else ""
        found: dict[str, str] = {}
        inside = False
        for line in text.splitlines():
            if line.startswith("["):
                inside = line.strip("[]").lower() == f"{KEY}{key}".lower()
            elif inside and "=" in line:
                name, _, value = line.partition("=")
                found[name.strip('"')] = value
        return found

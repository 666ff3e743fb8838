"""autounattend.xml for Windows 7 to Server 2025: unattended, without any product key, on an MBR or a GPT disk.

Sources, all of Microsoft Learn's "Unattended Windows Setup Reference", each setting by its page:
Microsoft-Windows-Setup: DiskConfiguration (its UEFI example), CreatePartition, ModifyPartition, ImageInstall\\OSImage,
InstallFrom\\MetaData (/IMAGE/INDEX), UserData, RunSynchronous; Microsoft-Windows-International-Core-WinPE and
Microsoft-Windows-International-Core; Microsoft-Windows-LUA-Settings: EnableLUA; Microsoft-Windows-Shell-Setup:
ComputerName, TimeZone, OOBE, UserAccounts, AutoLogon, FirstLogonCommands. That Setup finds the file in the root of a CD:
"Windows Setup Automation Overview", implicit answer file search order.
Evaluation editions ask for no key, so none is entered; other media may stop at the key's page, and the kit says so.
LabConfig's values are no documented setting: they are what Setup of Windows 11 itself reads, as public tools set them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Optional, Union

from lxml import etree

from tests.windows.media import Image
from tests.windows.releases import Release, release_of

NAMESPACE = "urn:schemas-microsoft-com:unattend"
WCM = "http://schemas.microsoft.com/WMIConfig/2002/State"
TOKEN = "31bf3856ad364e35"  # the public key token of Windows' own components
# Of a machine without a way to any network, which is thrown away. Servers want three kinds of characters, and not the
# user's name in it ("Password must meet complexity requirements").
USER, PASSWORD = "h2k", "Evidence-1"
SETUP = "h2k-kit\\setup.cmd"
ESP_MIB, MSR_MIB, SYSTEM_MIB = 260, 16, 350  # "UEFI/GPT-based hard drive partitions"; BIOS: "system partition"
LAB_CHECKS = ("BypassTPMCheck", "BypassSecureBootCheck", "BypassRAMCheck", "BypassCPUCheck", "BypassStorageCheck")

Tree = Union[str, "dict[str, Tree]", "list[Tree]"]


@dataclasses.dataclass(frozen=True)
class Answers:
    """What an answer file is made of. `locale` is the image's own language ("en-US")."""

    image: Image
    firmware: str
    computer: str = "H2K-SOURCE"

    @property
    def release(self) -> Release:
        return release_of(self.image)

    @property
    def windows_partition(self) -> int:
        """The number of the partition that Windows goes to: behind ESP and MSR, or behind the system partition."""
        return 3 if self.firmware == "uefi" else 2


def answer_file(answers: Answers) -> bytes:
    """The autounattend.xml."""
    root = etree.Element(f"{{{NAMESPACE}}}unattend", nsmap={None: NAMESPACE, "wcm": WCM})
    for name, components in _passes(answers).items():
        settings = etree.SubElement(root, f"{{{NAMESPACE}}}settings", {"pass": name})
        for component, tree in components.items():
            attributes = {
                "name": component, "processorArchitecture": answers.image.arch, "publicKeyToken": TOKEN,
                "language": "neutral", "versionScope": "nonSxS",
            }  # fmt: skip
            _fill(etree.SubElement(settings, f"{{{NAMESPACE}}}component", attributes), tree)
    written: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8", pretty_print=True)
    return written


def _fill(parent: etree._Element, tree: Tree) -> None:
    """Children of an element; a list gives several elements of one name, which Setup wants marked as added."""
    if isinstance(tree, str):
        parent.text = tree
        return
    assert isinstance(tree, dict)
    for name, value in tree.items():
        for each in value if isinstance(value, list) else [value]:
            child = etree.SubElement(parent, f"{{{NAMESPACE}}}{name}")
            if isinstance(value, list):
                child.set(f"{{{WCM}}}action", "add")
            _fill(child, each)


def _passes(answers: Answers) -> dict[str, dict[str, Tree]]:
    language = answers.image.language
    international: dict[str, Tree] = {
        "InputLocale": language, "SystemLocale": language, "UILanguage": language, "UserLocale": language,
    }  # fmt: skip
    return {
        "windowsPE": {
            "Microsoft-Windows-International-Core-WinPE": {"SetupUILanguage": {"UILanguage": language}, **international},
            "Microsoft-Windows-Setup": _setup(answers),
        },
        "offlineServicing": {"Microsoft-Windows-LUA-Settings": {"EnableLUA": "false"}},
        "specialize": {"Microsoft-Windows-Shell-Setup": {"ComputerName": answers.computer, "TimeZone": "UTC"}},
        "oobeSystem": {
            "Microsoft-Windows-International-Core": international,
            "Microsoft-Windows-Shell-Setup": _shell(answers.release),
        },
    }


def _setup(answers: Answers) -> Tree:
    tree: dict[str, Tree] = {}
    if answers.release.checks:
        tree["RunSynchronous"] = {"RunSynchronousCommand": _ordered("Path", [
            f"reg.exe add HKLM\\SYSTEM\\Setup\\LabConfig /v {check} /t REG_DWORD /d 1 /f" for check in LAB_CHECKS
        ])}  # fmt: skip
    tree["DiskConfiguration"] = {"WillShowUI": "OnError", "Disk": [_disk(answers.firmware)]}
    tree["ImageInstall"] = {
        "OSImage": {
            "InstallFrom": {"MetaData": [{"Key": "/IMAGE/INDEX", "Value": str(answers.image.index)}]},
            "InstallTo": {"DiskID": "0", "PartitionID": str(answers.windows_partition)},
            "WillShowUI": "OnError",
        }
    }
    tree["UserData"] = {"AcceptEula": "true", "FullName": "h2k", "Organization": "h2k"}
    return tree


def _disk(firmware: str) -> Tree:
    """Disk 0, wiped: the boot partition first and Windows last, which is where the faults look for them."""
    if firmware == "uefi":
        made = [_partition("EFI", ESP_MIB), _partition("MSR", MSR_MIB), _partition("Primary", None)]
        formatted = [(1, "FAT32", "System", ""), (3, "NTFS", "Windows", "C")]
    else:
        made = [_partition("Primary", SYSTEM_MIB), _partition("Primary", None)]
        formatted = [(1, "NTFS", "System", ""), (2, "NTFS", "Windows", "C")]
    modified: list[Tree] = []
    for order, (number, file_system, label, letter) in enumerate(formatted, 1):
        change: dict[str, Tree] = {"Order": str(order), "PartitionID": str(number)}
        if firmware == "bios" and number == 1:
            change["Active"] = "true"
        change.update({"Format": file_system, "Label": label})
        if letter:
            change["Letter"] = letter
        modified.append(change)
    created: list[Tree] = [{"Order": str(order), **partition} for order, partition in enumerate(made, 1)]
    return {
        "DiskID": "0",
        "WillWipeDisk": "true",
        "CreatePartitions": {"CreatePartition": created},
        "ModifyPartitions": {"ModifyPartition": modified},
    }


def _partition(kind: str, size: Optional[int]) -> dict[str, Tree]:
    return {"Type": kind, **({"Size": str(size)} if size is not None else {"Extend": "true"})}


def _shell(release: Release) -> Tree:
    oobe: dict[str, Tree] = {"HideEULAPage": "true", "ProtectYourPC": "3"}
    if release.version == "6.1":
        oobe["NetworkLocation"] = "Work"  # its page comes otherwise; deprecated since Windows 10
    else:
        oobe.update({"HideLocalAccountScreen": "true", "HideOnlineAccountScreens": "true"})
    if not release.server:
        oobe["HideWirelessSetupInOOBE"] = "true"
    password: Tree = {"Value": PASSWORD, "PlainText": "true"}
    find = f"for %d in (D E F G H I J) do if exist %d:\\{SETUP} call %d:\\{SETUP}"
    return {
        "OOBE": oobe,
        "UserAccounts": {
            "AdministratorPassword": password,
            "LocalAccounts": {"LocalAccount": [{"Name": USER, "Group": "Administrators", "Password": password}]},
        },
        "AutoLogon": {"Enabled": "true", "LogonCount": "1", "Username": USER, "Password": password},
        "FirstLogonCommands": {"SynchronousCommand": _ordered("CommandLine", [f'cmd.exe /c "{find}"'])},
    }


def _ordered(name: str, commands: Sequence[str]) -> list[Tree]:
    return [{"Order": str(order), name: command} for order, command in enumerate(commands, 1)]

"""Our own check of an answer file: only settings that Microsoft publishes, in a pass that takes them, and no key.

Microsoft publishes no XSD of it: the schema comes with an image's catalogue. This table is a part of the "Unattended
Windows Setup Reference" (Microsoft Learn): what is not in it is an error, so a setting that the kit begins to use is
looked up first. Values are checked as their pages say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Union

from lxml import etree

from h2k.base.errors import BadData
from h2k.base.xml import parse_xml
from tests.windows.answer_file import NAMESPACE, TOKEN, WCM

Check = Callable[[str], bool]
Known = Union[Check, "dict[str, Known]"]


def _pattern(expression: str) -> Check:
    return lambda text: re.fullmatch(expression, text) is not None


BOOLEAN, NUMBER, LOCALE = _pattern("true|false"), _pattern("[0-9]{1,9}"), _pattern("[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
TEXT, COMMAND = _pattern(".{1,255}"), _pattern(".{1,1023}")  # CommandLine: at most 1024 characters; RunSynchronous\Path: 259
SHOW = _pattern("Always|OnError|Never")
PASSWORD: Known = {"Value": TEXT, "PlainText": BOOLEAN}
INTERNATIONAL: dict[str, Known] = {"InputLocale": LOCALE, "SystemLocale": LOCALE, "UILanguage": LOCALE, "UserLocale": LOCALE}
SETUP: dict[str, Known] = {
    "RunSynchronous": {"RunSynchronousCommand": {"Order": NUMBER, "Path": _pattern(".{1,259}"), "Description": TEXT}},
    "DiskConfiguration": {
        "WillShowUI": SHOW,
        "Disk": {
            "DiskID": NUMBER,
            "WillWipeDisk": BOOLEAN,
            "CreatePartitions": {"CreatePartition": {
                "Order": NUMBER, "Type": _pattern("Primary|EFI|MSR|Extended|Logical"), "Size": NUMBER, "Extend": BOOLEAN,
            }},
            "ModifyPartitions": {"ModifyPartition": {
                "Order": NUMBER, "PartitionID": NUMBER, "Active": BOOLEAN, "Format": _pattern("NTFS|FAT32"),
                "Label": _pattern(".{1,32}"), "Letter": _pattern("[C-Z]"), "TypeID": TEXT, "Extend": BOOLEAN,
            }},
        },
    },
    "ImageInstall": {"OSImage": {
        "InstallFrom": {"MetaData": {"Key": _pattern("/IMAGE/(INDEX|NAME|DESCRIPTION)"), "Value": TEXT}},
        "InstallTo": {"DiskID": NUMBER, "PartitionID": NUMBER},
        "WillShowUI": SHOW,
    }},
    "UserData": {"AcceptEula": BOOLEAN, "FullName": TEXT, "Organization": TEXT},
}  # fmt: skip
SHELL: dict[str, Known] = {
    "OOBE": {
        "HideEULAPage": BOOLEAN, "ProtectYourPC": _pattern("[123]"), "NetworkLocation": _pattern("Home|Work|Other"),
        "HideLocalAccountScreen": BOOLEAN, "HideOnlineAccountScreens": BOOLEAN, "HideWirelessSetupInOOBE": BOOLEAN,
    },
    "UserAccounts": {
        "AdministratorPassword": PASSWORD,
        "LocalAccounts": {"LocalAccount": {"Name": _pattern(r"[^\\/\"\[\]:|<>+=;,?*%@]{1,20}"), "Group": TEXT, "Password": PASSWORD}},
    },
    "AutoLogon": {"Enabled": BOOLEAN, "LogonCount": NUMBER, "Username": TEXT, "Password": PASSWORD},
    "FirstLogonCommands": {"SynchronousCommand": {"Order": NUMBER, "CommandLine": COMMAND, "Description": TEXT}},
}  # fmt: skip
KNOWN: dict[tuple[str, str], dict[str, Known]] = {
    ("windowsPE", "Microsoft-Windows-International-Core-WinPE"): {"SetupUILanguage": {"UILanguage": LOCALE}, **INTERNATIONAL},
    ("windowsPE", "Microsoft-Windows-Setup"): SETUP,
    ("offlineServicing", "Microsoft-Windows-LUA-Settings"): {"EnableLUA": BOOLEAN},
    ("specialize", "Microsoft-Windows-Shell-Setup"): {"ComputerName": _pattern("[A-Za-z0-9-]{1,15}"), "TimeZone": TEXT},
    ("oobeSystem", "Microsoft-Windows-International-Core"): INTERNATIONAL,
    ("oobeSystem", "Microsoft-Windows-Shell-Setup"): SHELL,
}
LISTS = {"Disk", "CreatePartition", "ModifyPartition", "MetaData", "RunSynchronousCommand", "SynchronousCommand", "LocalAccount"}


def errors(data: bytes) -> list[str]:
    """What is wrong with an answer file, each as a line that names the place; none for a good one."""
    try:
        root = parse_xml(data, "autounattend.xml")
    except BadData as e:
        return [str(e)]
    if root.tag != _tag("unattend"):
        return [f"the root is {root.tag}, not unattend of {NAMESPACE}"]
    return list(_errors(root))


def _tag(name: str) -> str:
    return f"{{{NAMESPACE}}}{name}"


def _errors(root: etree._Element) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    architectures = set()
    for settings in root:
        if settings.tag != _tag("settings"):
            yield f"{settings.tag}: only settings stand below unattend"
            continue
        for component in settings:
            place = (settings.get("pass", ""), component.get("name", ""))
            where = "/".join(place)
            architectures.add(component.get("processorArchitecture"))
            if place in seen:
                yield f"{where}: twice"
            seen.add(place)
            if place not in KNOWN:
                yield f"{where}: no component that the kit knows in this pass"
                continue
            wanted = {"publicKeyToken": TOKEN, "language": "neutral", "versionScope": "nonSxS"}
            yield from (f"{where}: {name} is not {value}" for name, value in wanted.items() if component.get(name) != value)
            yield from _tree(component, KNOWN[place], where)
    if len(architectures) != 1 or not architectures <= {"amd64", "x86"}:
        yield f"architectures {sorted(map(str, architectures))}: one, amd64 or x86, for all components"
    yield from _together(root)


def _tree(element: etree._Element, known: dict[str, Known], where: str) -> Iterator[str]:
    """What is wrong below an element."""
    count: dict[str, int] = {}
    for child in element:
        name = etree.QName(child).localname
        place = f"{where}/{name}"
        count[name] = count.get(name, 0) + 1
        rule = known.get(name) if child.tag == _tag(name) else None
        if rule is None:
            yield f"{place}: no setting that the kit knows here"
        elif isinstance(rule, dict):
            yield from _tree(child, rule, place)
        elif len(child) or not rule(child.text or ""):
            yield f"{place}: {(child.text or '')[:60]!r} is no value of it"
        if name in LISTS and child.get(f"{{{WCM}}}action") != "add":
            yield f'{place}: lacks wcm:action="add"'
    yield from (f"{where}/{name}: {n} times" for name, n in count.items() if n > 1 and name not in LISTS)
    orders = [child.findtext(_tag("Order")) for child in element if child.find(_tag("Order")) is not None]
    if orders != [str(n) for n in range(1, len(orders) + 1)]:
        yield f"{where}: Order is {', '.join(map(str, orders))}, not 1, 2, …"


def _together(root: etree._Element) -> Iterator[str]:
    """What must fit together: the partition that Windows goes to, and one that the firmware starts from."""

    def texts(path: str) -> list[str]:
        return [found.text or "" for found in root.iterfind(".//" + "/".join(map(_tag, path.split("/"))))]

    kinds = texts("CreatePartition/Type")
    target = texts("InstallTo/PartitionID")
    if target != [str(len(kinds))] or not kinds or kinds[-1] != "Primary":
        yield f"Windows goes to partition {', '.join(target) or 'none'} of {len(kinds)}: the last, a Primary, is the one"
    if ("EFI" in kinds) == bool(texts("ModifyPartition/Active")):
        yield "the disk has an EFI partition or an active one, and not both"
    if texts("UserData/AcceptEula") != ["true"]:
        yield "the licence is not accepted: Setup would stop and ask"

"""Small INFs as text, for the tests of their parser."""

from __future__ import annotations

from h2k.windows.inf import Inf, parse_inf


def parse(text: str, encoding: str = "ascii") -> Inf:
    return parse_inf(text.encode(encoding), "/source/viostor/x.inf")


def minimal(models: str = "", service: str = "", more: str = "", manufacturer: str = "M,NTamd64") -> str:
    """A small storage INF; `models` are lines of [M.NTamd64], `service` of its service section."""
    return f"""[Version]
Signature="$Windows NT$"
Class=SCSIAdapter
ClassGuid={{4D36E97B-E325-11CE-BFC1-08002BE10318}}
[Manufacturer]
%V%={manufacturer}
[M.NTamd64]
{models or 'Disk=inst,PCI.VEN_1'}
[inst.Services]
AddService=svc,2,svc_inst
[svc_inst]
ServiceType=1
StartType=0
ErrorControl=1
ServiceBinary=%12%.svc.sys
{service}
{more}
[Strings]
V=Vendor
""".replace("PCI.", "PCI\\").replace("%12%.", "%12%\\")

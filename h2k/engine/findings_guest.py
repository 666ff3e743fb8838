"""The catalogue of findings: network, first boot, and what else is in the guest."""

from __future__ import annotations

from h2k.engine.finding_entry import FIRST_BOOT, REFUSE, REPAIR, WARN, Entry

GUEST = (
    Entry(
        "nic-driver-missing",
        "The VirtIO network driver is not staged, or its ids are not bound.",
        REPAIR,
        "no network after the boot on VirtIO",
        r"`Services\netkvm`, its file, and the ids 1AF4:1000 and 1AF4:1041",
        "Stages and binds the package's driver; without a package it is left to the first boot.",
        "Install netkvm.inf with pnputil on the running guest.",
    ),
    Entry(
        "nic-ghost",
        "Network adapters of hardware that is gone are still configured.",
        REPAIR,
        "the IP address is already assigned to another adapter; `Ethernet 2`, `Local Area Connection 3`",
        r"`Control\Class\{4D36E972-…}`, `Control\Network`, `Enum\PCI` instances without their hardware",
        "Removes them by policy (`ghosts: remove`), after their addresses have been saved.",
        "Device Manager: show hidden devices, uninstall the greyed adapters.",
    ),
    Entry(
        "nic-static-stranded",
        "A static address belongs to an adapter that will not be there any more.",
        REPAIR,
        "the server comes up with DHCP or a 169.254 address",
        r"`Services\Tcpip\Parameters\Interfaces\{GUID}`",
        "Carries addresses, gateways, DNS and routes to the new NIC by its MAC at first boot; where that would be a "
        "guess, DHCP and a warning that says what to set.",
        "Set the address again with `netsh interface ip set address`.",
    ),
    Entry(
        "network-profile-stale",
        "The network would come up as a new one, with the firewall profile for public networks.",
        REPAIR,
        "Network 2, Public: remote desktop and file sharing are closed",
        r"`SOFTWARE\Microsoft\Windows NT\CurrentVersion\NetworkList`",
        "`profiles: keep` warns and leaves it; `profiles: remove` forgets private networks that no domain manages.",
        "`Set-NetConnectionProfile -NetworkCategory Private`.",
    ),
    Entry(
        "reboot-pending",
        "Windows Update, servicing or file renames wait for a reboot.",
        WARN,
        "the first boot works for minutes on updates; virt-v2v's first-boot script loops",
        r"`PendingFileRenameOperations`, `RebootPending`, `RebootRequired`, `WinSxS\pending.xml`",
        "Reports it; h2k's own first-boot steps have a retry cap.",
        "Reboot the source once before the conversion.",
    ),
    Entry(
        "first-boot-loop",
        "A first-boot script that virt-v2v staged would be tried for ever: a driver fails, a reboot stays pending, or a "
        "path is not there.",
        REPAIR,
        "the guest restarts again and again after the conversion; its log says `Script failed, will retry on next boot`",
        r"`\Program Files\Guestfs\Firstboot\scripts`; `log.txt` beside it",
        "Writes the script that installs drivers anew, with those that this Windows can take, and bounds each to three tries.",
        "Stop the service `firstboot`, or move the script from `scripts` to `scripts-done`.",
    ),
    Entry(
        "hypervisor-tools-present",
        "Guest tools of VMware, Hyper-V, Xen, Parallels or VirtualBox are installed.",
        WARN,
        "services that fail at each start; harmless for the boot",
        r"`SOFTWARE\…\Uninstall`; the names are data: `driver-plans/hypervisors.yaml`",
        "Reports them; they are removed at first boot only when the policy asks for it.",
        "Uninstall them on the source, or once the guest runs on KVM.",
    ),
    Entry(
        "guestor-leftover",
        "virt-v2v's placeholder driver package is still registered.",
        FIRST_BOOT,
        "driver upgrades and `pnputil /enum-drivers` fail",
        r"`DriverDatabase\…\guestor.inf*`",
        "Reports it, and a step of the first boot removes it once Windows has bound the real driver.",
        "Delete the guestor.inf keys in the loaded hive, after the VirtIO driver is installed.",
    ),
    Entry(
        "first-boot-runner-missing",
        "virt-v2v will need rhsrvany.exe or pvvxsvc.exe for its first-boot scripts (from 2.4 on always), and the host has neither.",
        REFUSE,
        "virt-v2v ends with an error after it has read the whole source",
        "/usr/share/virt-tools on the host",
        "Refuses before the copy.",
        "Debian 13: `apt install rhsrvany`; Fedora, EL: `dnf install mingw-srvany-redistributable`; elsewhere put its "
        "rhsrvany.exe there, or set VIRT_TOOLS_DATA_DIR.",
    ),
    Entry(
        "domain-name-invalid",
        "The virtual machine's name can't be a libvirt domain's and a file's: a slash, a control character, empty, too long.",
        REFUSE,
        "virt-v2v ends with an error after the copy, or writes files of another name",
        "displayName of a VMX, <Name> of an OVF, <name> of a domain XML, -on, --h2k-name",
        "Refuses before the copy, and before the first write.",
        "Give another name: `-on NAME` of virt-v2v, `--h2k-name NAME`, or change it in the description.",
    ),
    Entry(
        "windows-unsupported",
        "Windows Vista, 2008 or older, or an architecture for which the plan has no drivers.",
        WARN,
        "depends on what virt-v2v could do",
        r"`SOFTWARE\Microsoft\Windows NT\CurrentVersion`",
        "Leaves virt-v2v's result as it is.",
        "Choose IDE and e1000 in the domain.",
    ),
    Entry(
        "cluster-member",
        "The guest is a node of a failover cluster with shared disks.",
        WARN,
        "shared disks come online on two nodes at once: data loss",
        r"`Services\ClusSvc`",
        "Reports it, and leaves the SAN policy alone.",
        "Evict the node, or move the whole cluster.",
    ),
)

#!/usr/bin/python
"""The module h2k_convert."""

from __future__ import annotations

DOCUMENTATION = r"""
module: h2k_convert
short_description: Convert a guest for KVM
version_added: "0.2.0"
description:
  - Converts one guest by h2k-v2v or h2k-qemu-img, and boots it in both phases where that is asked for.
  - Does nothing when the guest's own directory, C(output)/C(name).h2k, says that this is done. A conversion that was
    ended in the middle goes on or is cleaned up.
  - A conversion can take hours. Use C(async) and C(poll).
options:
  name:
    description: The name of the result.
    type: str
    required: true
  source:
    description: The guest's file, its directory (an unpacked OVF), or its name in libvirt.
    type: str
    required: true
  kind:
    description: What the source is, as virt-v2v's C(-i) has it.
    type: str
    choices: [vmx, ova, libvirtxml, disk, libvirt]
    required: true
  output:
    description: The directory of the result.
    type: path
    required: true
  connection:
    description: The URI of libvirt, for C(kind=libvirt).
    type: str
  program:
    description: The program that converts; by default h2k-qemu-img for C(kind=disk), else h2k-v2v.
    type: str
    choices: [h2k-v2v, h2k-qemu-img]
  options:
    description: Options of the program, for example C(--h2k-drivers=PATH).
    type: list
    elements: str
    default: []
  boot:
    description: Whether the guest is booted in both phases afterwards.
    type: bool
    default: false
  again:
    description: Whether a guest that failed or was refused is tried again.
    type: bool
    default: true
  h2k:
    description: The program h2k; the other two are taken from beside it.
    type: path
    default: h2k
  environment:
    description: Environment variables for it, for example VIRTIO_WIN.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Tells whether the guest would be converted.
    support: full
author:
  - The h2k authors
"""

EXAMPLES = r"""
- name: Convert a guest of VMware
  h2k.fleet.h2k_convert:
    name: web
    source: /exports/web/web.vmx
    kind: vmx
    output: /var/lib/libvirt/images
    options: ["--h2k-drivers=/usr/share/virtio-win"]
  async: 14400
  poll: 30
"""

RETURN = r"""
state:
  description: What has become of the guest, one of done, running, waiting, interrupted, failed and refused.
  returned: always
  type: str
  sample: done
reason:
  description: Why.
  returned: always
  type: str
report:
  description: The guest's own directory, with its records.
  returned: always
  type: str
seconds:
  description: How long its last run took.
  returned: always
  type: float
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.h2k.fleet.plugins.module_utils.h2k import ARGUMENTS, call, one_guest  # noqa: E402


def main():
    """Convert it unless that is done."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "str", "required": True},
            "kind": {"type": "str", "required": True, "choices": ["vmx", "ova", "libvirtxml", "disk", "libvirt"]},
            "output": {"type": "path", "required": True},
            "connection": {"type": "str"},
            "program": {"type": "str", "choices": ["h2k-v2v", "h2k-qemu-img"]},
            "options": {"type": "list", "elements": "str", "default": []},
            "boot": {"type": "bool", "default": False},
            "again": {"type": "bool", "default": True},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    wishes = module.params
    guest = {key: wishes[key] for key in ("name", "source", "kind", "options", "connection", "program") if wishes[key] is not None}
    waves = one_guest(module, guest, wishes["output"])
    boot = ["--boot"] if wishes["boot"] else []
    status, found = call(module, "fleet", "status", waves, "--json", *boot)
    before = _only(module, status, found)
    if before["state"] == "done" or module.check_mode:
        module.exit_json(changed=before["state"] != "done", **before)
    status, found = call(module, "fleet", "retry" if wishes["again"] else "run", waves, "--json", *boot)
    after = _only(module, status, found)
    if after["state"] != "done":
        module.fail_json(msg=f"{after['state']}: {after['reason']}", changed=False, **after)
    module.exit_json(changed=True, **after)


def _only(module, status, found):
    """The one guest of a summary; the module fails where h2k printed an error instead."""
    if len(found.get("guests", ())) != 1:
        module.fail_json(msg=str(found.get("verdict", "h2k fleet failed")), rc=status)
    return {key: found["guests"][0][key] for key in ("state", "reason", "report", "seconds")}


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""The module h2k_boot."""

from __future__ import annotations

DOCUMENTATION = r"""
module: h2k_boot
short_description: Boot a converted guest in both phases
version_added: "0.2.0"
description:
  - Takes a guest through both boots, on overlays and with the links down until the commit, as C(h2k boot) does.
  - Does nothing when its own directory says that this was done and not taken back.
options:
  guest:
    description: The guest's own directory, NAME.h2k.
    type: path
    required: true
  options:
    description: Options of C(h2k boot).
    type: list
    elements: str
    default: []
  h2k:
    description: The program.
    type: path
    default: h2k
  environment:
    description: Environment variables for it.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Tells whether the guest would be booted.
    support: full
author:
  - The h2k authors
"""

EXAMPLES = r"""
- name: Boot what was converted
  h2k.fleet.h2k_boot:
    guest: /var/lib/libvirt/images/web.h2k
  async: 3600
  poll: 15
"""

RETURN = r"""
word:
  description: How the boot ended.
  returned: when the guest was booted now
  type: str
  sample: BOOTED
verdict:
  description: Why.
  returned: when the guest was booted now
  type: str
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.h2k.fleet.plugins.module_utils.h2k import ARGUMENTS, call  # noqa: E402


def main():
    """Boot it unless that is done."""
    module = AnsibleModule(
        argument_spec={
            "guest": {"type": "path", "required": True},
            "options": {"type": "list", "elements": "str", "default": []},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    guest = module.params["guest"]
    status, history = call(module, "report", "--history", "--json", guest)
    if "runs" not in history:
        module.fail_json(msg=str(history.get("verdict", "no record of h2k there")), rc=status)
    if _booted(history["runs"]) or module.check_mode:
        module.exit_json(changed=not _booted(history["runs"]))
    status, record = call(module, "boot", "--json", *module.params["options"], guest)
    told = {"rc": status, "word": str(record.get("word", "")), "verdict": str(record.get("verdict", ""))}
    if status != 0:
        module.fail_json(msg=f"{told['word']}: {told['verdict']}", **told)
    module.exit_json(changed=True, **told)


def _booted(runs):
    """Whether the last boot went well, and was not taken back."""
    good = False
    for run in runs:
        command = str(run.get("command", ""))
        if command.endswith(" boot"):
            good = run.get("status") == 0
        elif command.endswith(" rollback") and run.get("status") == 0:
            good = False
    return good


if __name__ == "__main__":
    main()

#!/usr/bin/python
"""The module h2k_survey."""

from __future__ import annotations

DOCUMENTATION = r"""
module: h2k_survey
short_description: Look at guests before any copy
version_added: "0.2.0"
description:
  - Looks at every guest below directories and in libvirt, read-only and without root, as C(h2k survey) does.
  - Returns what each guest is, whether it can be converted, and what its owner must do.
options:
  paths:
    description: Directories and files to look at.
    type: list
    elements: path
    default: []
  libvirt:
    description: URIs of libvirt whose shut-off domains are looked at too.
    type: list
    elements: str
    default: []
  running:
    description: Whether running domains are looked at too.
    type: bool
    default: false
  options:
    description: More options of C(h2k survey), for example C(--drivers=PATH).
    type: list
    elements: str
    default: []
  h2k:
    description: The program.
    type: path
    default: h2k
  environment:
    description: Environment variables for it, for example VIRTIO_WIN.
    type: dict
    default: {}
attributes:
  check_mode:
    description: The module writes nothing, so that it does the same in check mode.
    support: full
author:
  - The h2k authors
"""

EXAMPLES = r"""
- name: What is in the exports?
  h2k.fleet.h2k_survey:
    paths: [/exports]
  register: survey

- name: None of them is refused
  ansible.builtin.assert:
    that: survey.classes.refused == 0
"""

RETURN = r"""
classes:
  description: How many guests each class has.
  returned: always
  type: dict
  sample: {"ready to convert": 38, "repairs itself": 1, "unknown": 0, "refused": 1}
guests:
  description: Each guest, as docs/schemas/survey.json has it.
  returned: always
  type: list
  elements: dict
groups:
  description: The same finding across guests, with the one thing to do.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.h2k.fleet.plugins.module_utils.h2k import ARGUMENTS, call  # noqa: E402

LOOKED = (0, 3, 4)


def main():
    """Look, and return the survey."""
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "default": []},
            "libvirt": {"type": "list", "elements": "str", "default": []},
            "running": {"type": "bool", "default": False},
            "options": {"type": "list", "elements": "str", "default": []},
            **ARGUMENTS,
        },
        supports_check_mode=True,
    )
    wishes = module.params
    argv = ["survey", "--json", *wishes["options"], *(f"--libvirt={uri}" for uri in wishes["libvirt"])]
    argv += ["--running"] if wishes["running"] else []
    status, found = call(module, *argv, "--", *wishes["paths"])
    if status not in LOOKED or "guests" not in found:
        module.fail_json(msg=str(found.get("verdict", "h2k survey failed")), rc=status)
    module.exit_json(changed=False, rc=status, **{key: found[key] for key in ("classes", "guests", "groups", "bytes", "notes")})


if __name__ == "__main__":
    main()

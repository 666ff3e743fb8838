"""What the modules of h2k share: they run h2k, and read the one JSON object that it prints."""

from __future__ import annotations

import json

ARGUMENTS = {"h2k": {"type": "path", "default": "h2k"}, "environment": {"type": "dict", "default": {}}}


def call(module, *argv):
    """(exit status, the JSON object) of an h2k command; the module fails when there is no object."""
    program = module.get_bin_path(module.params["h2k"], required=True)
    environment = {name: str(value) for name, value in module.params["environment"].items()}
    status, out, err = module.run_command([program, *argv], environ_update=environment)
    try:
        found = json.loads(out)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        module.fail_json(msg=(err.strip().splitlines() or ["h2k printed no JSON"])[-1], rc=status, stderr=err)
    return status, found


def one_guest(module, guest, output):
    """A waves file with one guest: so the module has the run, the lock and the state of h2k fleet."""
    content = {"version": 1, "output": output, "waves": [{"wave": 1, "guests": [guest]}]}
    path = module.tmpdir.rstrip("/") + "/h2k-waves.json"
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)
    return path

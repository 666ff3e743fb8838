"""Outputs that leave the machine while virt-v2v runs: in two steps, with the repair in between."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

from h2k.base.children import cleaned_up
from h2k.base.errors import FAILED, READY, UsageError
from h2k.base.run import pass_through
from h2k.convert.source import name_of
from h2k.convert.v2v_command import V2vCommand, in_two_steps, parse
from h2k.engine.outcome import WORDS, Outcome
from h2k.engine.runs import Run

PLACE = "STAGE"  # in the refusal; the user names a directory
Convert = Callable[[V2vCommand], Outcome]


def refusal(command: V2vCommand, argv: Sequence[str]) -> UsageError:
    """What to say of such an output: nothing can be repaired there, and the two commands that do it."""
    first, second = in_two_steps(argv, PLACE, name_of(command, None) or "NAME")
    return UsageError(
        f"-o {command.output_mode}: the guest would leave this machine before it can be repaired",
        hint=f"both steps by --h2k-stage {PLACE}, or one after the other",
        commands=(f"h2k-v2v {shlex.join(first)}", f"virt-v2v {shlex.join(second)}"),
    )


def in_two_runs(run: Run, command: V2vCommand, convert: Convert) -> Outcome:
    """Convert to files in the directory of --h2k-stage, and take them on only when they are ready. The files stay."""
    directory = command.stage or ""
    if not Path(directory).is_dir():
        raise UsageError(f"--h2k-stage {directory}: no such directory")
    first, _ = in_two_steps(run.argv, directory, "")
    outcome = convert(parse(first))
    if outcome.status != READY or run.dry_run or run.domain is None:
        return outcome
    _, second = in_two_steps(run.argv, directory, run.domain.name)
    with run.steps.step("upload", f"virt-v2v {shlex.join(second)}"), cleaned_up("h2k-v2v-") as environment:
        status = pass_through(["virt-v2v", *second], environment)
    run.steps.say(f"{directory} still has the disks and {run.guest_files.state.name}")
    if status != READY:
        again = (shlex.join(["virt-v2v", *second]),)
        return Outcome(status, WORDS[FAILED], f"{outcome.sentence}; the upload failed: virt-v2v ended with status {status}", again)
    # What runs from here on is the guest at its new place: no boot of the staged files, and nothing to take back there.
    return dataclasses.replace(outcome, next=(f"h2k report {shlex.quote(str(run.guest_files.state))}",))

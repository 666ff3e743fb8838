"""The expected failures: each names the thing, the place and the way out, and knows its exit status."""

from __future__ import annotations

from h2k.base.text import shown

READY, FAILED, USAGE, REFUSED, NOT_READY, NOT_VERIFIED = 0, 1, 2, 3, 4, 5


class H2kError(Exception):
    """An expected failure: one line for the user, and a hint that says what to do about it; both are fit to be shown,
    whatever a guest, an archive or a command line put into them. `commands` are whole commands that would do it."""

    exit_status = FAILED

    def __init__(self, message: str, hint: str = "", commands: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.commands = tuple(map(shown, commands))
        self.message = shown(message)
        self.hint = shown(hint)

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(H2kError):
    """The command line or a configuration file is wrong."""

    exit_status = USAGE


class Refused(H2kError):
    """Going on would risk the user's data or give a guest that can't boot; nothing was written."""

    exit_status = REFUSED


class InUse(Refused):
    """Somebody uses an image: the finding source-running. `subject` is the image or the domain, `who` says by whom."""

    def __init__(self, subject: str, who: str) -> None:
        super().__init__(f"source-running: {subject}: {who}", hint="shut it down, then give the same command")
        self.subject, self.who = subject, who


class NotVerified(H2kError):
    """The repair was made on an overlay and did not verify; the overlay is gone, the image as it was."""

    exit_status = NOT_VERIFIED


class BadData(H2kError):
    """Content of a guest or a file that can't be parsed: names the file and the place in it.

    Parsers raise this and nothing else for bad input; the caller decides which finding it is.
    """

    exit_status = REFUSED


class Unknown(H2kError):
    """The source can't be read beforehand, so that what h2k would have found there is unknown; no reason to stop."""

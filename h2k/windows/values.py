"""The data of a registry value: one type to read, to write and to compare, with a constructor for each registry type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Optional, TypeVar, Union, overload

REG_NONE, REG_SZ, REG_EXPAND_SZ, REG_BINARY, REG_DWORD, REG_DWORD_BE, REG_LINK, REG_MULTI_SZ = range(8)
REG_QWORD = 11

D = TypeVar("D")


class Value:
    """A value's type and its bytes as stored. `name` is what it is called where it was read ('' is a key's default
    value); two values are equal when type and bytes are, whatever their names."""

    __slots__ = ("name", "raw", "type")

    def __init__(self, type: int, raw: bytes, name: str = "") -> None:
        self.type, self.raw, self.name = type, raw, name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and (self.type, self.raw) == (other.type, other.raw)

    def __hash__(self) -> int:
        return hash((self.type, self.raw))

    def __repr__(self) -> str:
        return f"Value({self.type}, {self.raw!r}" + (f", {self.name!r})" if self.name else ")")

    def text(self) -> Optional[str]:
        """The string of a SZ or EXPAND_SZ value up to its terminator; None for other types."""
        if self.type not in (REG_SZ, REG_EXPAND_SZ):
            return None
        return self.raw[: len(self.raw) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]

    def multi(self) -> Optional[tuple[str, ...]]:
        """The strings of a MULTI_SZ value; None for other types."""
        if self.type != REG_MULTI_SZ:
            return None
        strings = self.raw[: len(self.raw) & ~1].decode("utf-16-le", "replace")
        return tuple(part for part in strings.split("\0") if part)

    def dword(self) -> Optional[int]:
        """The number of a DWORD value; None for other types and for one that is not 4 bytes long."""
        return int.from_bytes(self.raw, "little") if self.type == REG_DWORD and len(self.raw) == 4 else None

    def qword(self) -> Optional[int]:
        """The number of a QWORD value; None for other types and for one that is not 8 bytes long."""
        return int.from_bytes(self.raw, "little") if self.type == REG_QWORD and len(self.raw) == 8 else None


def dword(number: int) -> Value:
    """A DWORD; OverflowError for what 32 bits can't hold."""
    return Value(REG_DWORD, number.to_bytes(4, "little"))


def qword(number: int) -> Value:
    """A QWORD; OverflowError for what 64 bits can't hold."""
    return Value(REG_QWORD, number.to_bytes(8, "little"))


def text(string: str) -> Value:
    """A string (SZ), with its terminator."""
    return Value(REG_SZ, _utf16(string))


def expand(string: str) -> Value:
    """A string with %variables% (EXPAND_SZ), with its terminator."""
    return Value(REG_EXPAND_SZ, _utf16(string))


def multi(strings: Sequence[str]) -> Value:
    """A list of strings (MULTI_SZ); the list ends with an empty one."""
    return Value(REG_MULTI_SZ, b"".join(map(_utf16, strings)) + bytes(2))


def binary(raw: bytes) -> Value:
    """Bytes (BINARY)."""
    return Value(REG_BINARY, raw)


def _utf16(string: str) -> bytes:
    return (string + "\0").encode("utf-16-le", "surrogatepass")


class KeyAccess:
    """What a key's values hold, or a default: for a value that is missing, or that is of another type."""

    __slots__ = ()

    def value(self, name: str) -> Optional[Value]:
        """A value by case-insensitive name; '' is the default value."""
        raise NotImplementedError

    @overload
    def text(self, name: str) -> Optional[str]: ...
    @overload
    def text(self, name: str, default: D) -> Union[str, D]: ...
    def text(self, name: str, default: object = None) -> object:
        """The string of a SZ or EXPAND_SZ value."""
        return _or(self.value(name), Value.text, default)

    @overload
    def multi(self, name: str) -> Optional[tuple[str, ...]]: ...
    @overload
    def multi(self, name: str, default: D) -> Union[tuple[str, ...], D]: ...
    def multi(self, name: str, default: object = None) -> object:
        """The strings of a MULTI_SZ value."""
        return _or(self.value(name), Value.multi, default)

    @overload
    def dword(self, name: str) -> Optional[int]: ...
    @overload
    def dword(self, name: str, default: D) -> Union[int, D]: ...
    def dword(self, name: str, default: object = None) -> object:
        """The number of a DWORD value."""
        return _or(self.value(name), Value.dword, default)

    def raw(self, name: str) -> bytes:
        """A value's bytes, whatever its type; none for a value that is missing."""
        value = self.value(name)
        return value.raw if value is not None else b""


class HiveAccess:
    """As KeyAccess, by the key's path in the hive; the default also stands for a key that is missing."""

    __slots__ = ()

    def value(self, path: str, name: str) -> Optional[Value]:
        """A value by key path and name, both case-insensitive."""
        raise NotImplementedError

    @overload
    def text(self, path: str, name: str) -> Optional[str]: ...
    @overload
    def text(self, path: str, name: str, default: D) -> Union[str, D]: ...
    def text(self, path: str, name: str, default: object = None) -> object:
        """The string of a SZ or EXPAND_SZ value."""
        return _or(self.value(path, name), Value.text, default)

    @overload
    def multi(self, path: str, name: str) -> Optional[tuple[str, ...]]: ...
    @overload
    def multi(self, path: str, name: str, default: D) -> Union[tuple[str, ...], D]: ...
    def multi(self, path: str, name: str, default: object = None) -> object:
        """The strings of a MULTI_SZ value."""
        return _or(self.value(path, name), Value.multi, default)

    @overload
    def dword(self, path: str, name: str) -> Optional[int]: ...
    @overload
    def dword(self, path: str, name: str, default: D) -> Union[int, D]: ...
    def dword(self, path: str, name: str, default: object = None) -> object:
        """The number of a DWORD value."""
        return _or(self.value(path, name), Value.dword, default)

    def raw(self, path: str, name: str) -> bytes:
        """A value's bytes, whatever its type; none for a value that is missing."""
        value = self.value(path, name)
        return value.raw if value is not None else b""


def _or(value: Optional[Value], decode: Callable[[Value], object], default: object) -> object:
    found = decode(value) if value is not None else None
    return default if found is None else found

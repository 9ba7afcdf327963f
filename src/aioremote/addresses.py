"""Addresses: ``connect("ssh://john@web1:2222")`` gives the machine that an address leads to, and imports only that.

Schemes are registered by name: those of this library below, others by `register_transport` or by an entry point in the
group ``aioremote.transports``. Not for what a machine does once it is there.
Not named after `connect`, since a module of that name would take the function's place in the package.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aioremote._core.names import check_host_name, check_user_name, parse_host
from aioremote.errors import AddressError
from aioremote.types import Address

if TYPE_CHECKING:
    from aioremote.machine import Machine

__all__ = [
    "Factory",
    "connect",
    "fitting_keywords",
    "known_schemes",
    "parse_address",
    "register_transport",
    "scheme_of",
]

# Any: keywords are those of the machine that the address leads to, which is known only when it is read.
Factory = Callable[..., Any]
"""``factory(address, **keywords) -> Machine``; `address` is an Address."""

ENTRY_POINTS = "aioremote.transports"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_NAME = re.compile(r"[a-z][a-z0-9+.-]*")
_PIPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,200}")

_CLASSES = {
    "daemon": "DaemonMachine",
    "exec": "CommandMachine",
    "local": "LocalMachine",
    "openssh": "OpenSshMachine",
    "smb": "SmbMachine",
    "ssh": "SshMachine",
    "unix": "DaemonMachine",
}
_WRITTEN = {
    "exec": "exec:PROGRAM ARG...",
    "local": "local:",
    "unix": "unix:///PATH",
    "smb": "smb://[DOMAIN;USER@]HOST[:PORT][/PIPE]",
}
_added: dict[str, Factory] = {}


def register_transport(name: str, factory: Factory) -> None:
    """Add a scheme: ``connect("name://host")`` then calls ``factory(address, **keywords)``.

    Args:
        name: the scheme, in lower case.
        factory: gets an Address (any part of it may be missing) and the keywords of `connect`, and returns a Machine;
            raises AddressError for what it cannot use.

    Raises:
        ValueError: what no scheme can be, or one that there is already.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"scheme {name!r}: a scheme has lower-case letters, digits and + . -, a letter first")
    if name in _CLASSES or name in _added:
        raise ValueError(f"scheme {name!r}: it is there already")
    if not callable(factory):
        raise TypeError(f"factory={factory!r}: give a function of an address and keywords")
    _added[name] = factory


def known_schemes() -> list[str]:
    """Return all schemes, those of entry points too, in the order of the alphabet."""
    return sorted({*_CLASSES, *_added, *_entry_points()})


def connect(address: str, **keywords: Any) -> Machine:  # Any: see Factory
    """Return the machine that an address leads to; it connects with ``async with``, ``await m.connect()`` or first use.

    ``web1``, ``john@web1:2222``, ``ssh://john@[::1]:2222``, ``openssh://web1``, ``local:``,
    ``exec:docker exec -i web`` (words as in a shell, but no shell runs), ``daemon://host:10101``,
    ``unix:///run/aioremote.sock``, ``smb://domain;user@host/pipe``.

    Args:
        address: without a scheme it is ssh's. Nothing in it is decoded, and no password has a place in it.
        keywords: those of the machine's constructor. User and port of the address win over them.

    Raises:
        AddressError: an unknown scheme, or an address that cannot be read; nothing was started.
        ValueError, TypeError: as from the constructor.
    """
    parsed = parse_address(address)
    machine: Machine = _factory(parsed.scheme)(parsed, **keywords)
    return machine


def fitting_keywords(scheme: str, keywords: Mapping[str, object]) -> dict[str, object]:
    """Return those of the keywords that a scheme's machine takes, for one set of them and hosts of several kinds.

    ``via`` goes to ssh's roads only: with ``exec:`` it would mean where the program runs.
    """
    if scheme not in ("ssh", "openssh"):
        keywords = {name: value for name, value in keywords.items() if name != "via"}
    taken = inspect.signature(_class(scheme) if scheme in _CLASSES else _factory(scheme)).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        return dict(keywords)
    return {name: value for name, value in keywords.items() if name in taken}


# --- reading ----------------------------------------------------------------------------------------------------------


def scheme_of(text: str) -> str | None:
    """Return the scheme with which an address begins, in lower case; None where it is a host alone.

    ``web1:2222`` is a host with a port: before ``:`` alone only a scheme that is registered here counts.
    """
    found = _SCHEME.match(text)
    if found is None:
        return None
    scheme = found[1].lower()
    is_scheme = text.startswith("//", found.end()) or scheme in _CLASSES or scheme in _added
    return scheme if is_scheme else None


def parse_address(text: str) -> Address:
    """Take an address apart, strictly. Asks nothing and imports no machine.

    Returns:
        Its parts. ``path`` holds what stands behind ``exec:``, a socket's path, or what follows the host.

    Raises:
        AddressError: as `connect`.
    """
    scheme = scheme_of(text)
    if scheme is None or scheme == "ssh":
        try:
            name = parse_host(text)
        except AddressError as error:
            raise AddressError(f"{error}; {_known()}", host=error.host) from error
        return Address("ssh", name.host, name.user, name.port)
    rest = text[len(scheme) + 1 :]
    if scheme not in _CLASSES and scheme not in _added and scheme not in _entry_points():
        raise AddressError(f"unknown scheme {scheme!r}; {_known()}")
    if not text.isprintable():
        raise _malformed(scheme, "there is a control character in it")
    if scheme in ("local", "exec", "unix"):
        return Address(scheme, path=_READERS[scheme](rest))
    if not rest.startswith("//"):
        if scheme in _CLASSES:
            raise _malformed(scheme, "'//' is missing behind the scheme")
        return Address(scheme, path=rest)
    return _with_host(scheme, rest[2:])


def _with_host(scheme: str, rest: str) -> Address:
    place, slash, path = rest.partition("/")
    user, at, place = place.rpartition("@")
    if ":" in user:
        raise _malformed(scheme, "a password has no place in an address; give password=")
    try:
        name = parse_host(place)
        if at:
            _check_user(scheme, user)
    except AddressError as error:
        raise _malformed(scheme, str(error)) from error
    if scheme == "smb":
        if slash and not _PIPE.fullmatch(path):
            raise _malformed(scheme, "what follows the host is no name of a pipe")
    elif scheme in _CLASSES:
        if path:
            raise _malformed(scheme, f"nothing may follow the host, and {path!r} does")
        slash = ""
    if scheme == "daemon" and at:
        raise _malformed(scheme, "a daemon knows its clients by their keys, not by a user's name")
    return Address(scheme, name.host, user if at else None, name.port, slash + path)


def _check_user(scheme: str, user: str) -> None:
    if scheme == "smb":
        domain, separator, user = user.rpartition(";")
        if separator:
            check_host_name(domain)
    check_user_name(user)


def _local_path(rest: str) -> str:
    if rest:
        raise _malformed("local", "nothing may follow it")
    return ""


def _exec_path(rest: str) -> str:
    _words(rest)
    return rest


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _malformed("exec", f"its words cannot be read: {error}") from error
    if not words or not words[0] or words[0].startswith("-"):
        raise _malformed("exec", "there is no program in it")
    return words


def _unix_path(rest: str) -> str:
    path = rest.removeprefix("//")
    if not path.startswith("/") or path.startswith("//") or path.endswith("/"):
        raise _malformed("unix", "the absolute path of a socket has to follow")
    return path


_READERS: dict[str, Callable[[str], str]] = {"local": _local_path, "exec": _exec_path, "unix": _unix_path}


def _malformed(scheme: str, fault: str) -> AddressError:
    written = _WRITTEN.get(scheme, f"{scheme}://[USER@]HOST[:PORT]".replace("[USER@]" * (scheme == "daemon"), ""))
    return AddressError(f"address with scheme {scheme!r}: {fault}; it is written {written!r}; {_known()}")


def _known() -> str:
    return "known schemes are " + ", ".join(known_schemes())


# --- making -----------------------------------------------------------------------------------------------------------


def _factory(scheme: str) -> Factory:
    if scheme in _CLASSES:
        return _make
    if scheme in _added:
        return _added[scheme]
    factory: Factory = _entry_points()[scheme].load()
    return factory


def _entry_points() -> Mapping[str, Any]:  # Any: importlib.metadata's own, which costs 20 ms to import
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=ENTRY_POINTS) if _NAME.fullmatch(point.name)}


def _class(scheme: str) -> Factory:
    machines = import_module("aioremote.machines")
    try:
        found: Factory = getattr(machines, _CLASSES[scheme])
    except AttributeError:
        raise AddressError(f"scheme {scheme!r}: this build has no {_CLASSES[scheme]}") from None
    return found


def _make(address: Address, **keywords: Any) -> Any:  # Any: as Factory
    kind = _class(address.scheme)
    match address.scheme:
        case "local":
            return kind(**keywords)
        case "exec":
            return kind(_words(address.path), **keywords)
        case "unix":
            return kind(path=address.path, **keywords)
        case "smb":
            return kind(address.host, **{**keywords, **_smb_parts(address)})
        case _:
            parts = {"user": address.user, "port": address.port}
            return kind(
                address.host, **{**keywords, **{name: part for name, part in parts.items() if part is not None}}
            )


def _smb_parts(address: Address) -> dict[str, object]:
    domain, _, user = (address.user or "").rpartition(";")
    parts = {"username": user, "domain": domain, "port": address.port, "pipe": address.path.removeprefix("/")}
    return {name: part for name, part in parts.items() if part}

"""Host names, user names and ``user@host:port``: judged and taken apart before anything is started.

A name ends up in argument lists, in the ProxyCommand of a configuration, in known_hosts and in paths on this machine.
Whatever could mean something else there is refused here, once, for every transport. Pure functions: nothing is
resolved, and a name that passes is used as it was given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from aioremote.errors import AddressError

__all__ = ["HostName", "check_host_name", "check_object_name", "check_port", "check_user_name", "parse_host"]

# What ssh(1) refuses on its command line since OpenSSH 9.6 is refused here too. Host names go further, to what host and
# alias names are made of: * ? ! , # @ [ ] mean something in known_hosts and ssh_config, / and % in paths and
# expansions. Source: OpenSSH release notes 9.6 and 10.1, sshd(8) "SSH_KNOWN_HOSTS FILE FORMAT", ssh_config(5) PATTERNS
# and TOKENS.
_HOST = re.compile(r"(?!-)(?=[-._+=]*[A-Za-z0-9])[A-Za-z0-9._+=-]{1,255}")
_HOST_CHARACTER = re.compile(r"[A-Za-z0-9._+=-]")
_ZONE = re.compile(r"[A-Za-z0-9._-]{1,32}")
_USER_REFUSED = frozenset("'`\";&<>|(){}%")
_OBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # Source: docker's RestrictedNamePattern, Kubernetes' DNS names
_PORT = re.compile(r"[0-9]{1,5}")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_MAX_LENGTH = 255  # of a host name, RFC 1035 section 2.3.4


@dataclass(frozen=True, slots=True)
class HostName:
    """One host as it was written. ``str()`` gives a form that `parse_host` reads back.

    Attributes:
        host: a name or an address, without brackets.
        user: the login name, None where none was given.
        port: 1 to 65535, None where none was given.
    """

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{user}{host}" + (f":{self.port}" if self.port is not None else "")


def check_host_name(name: str) -> None:
    """Refuse a host name that could be taken for something else than a name.

    Letters, digits and ``. _ - + =`` pass, so do non-ASCII letters (they are judged after Unicode's compatibility
    normalisation, as resolvers apply it) and IPv6 addresses without brackets, with a zone or without.

    Args:
        name: a host name, an alias of ssh_config, or an IP address.

    Raises:
        AddressError: it is empty, too long, starts with "-", or holds any other character; the message says which.
    """
    if not _HOST.fullmatch(name):
        fault = _address_fault(name) if ":" in name else _host_fault(name)
        if fault:
            raise AddressError(f"host name {name!r}: {fault}", host=name)


def check_user_name(name: str) -> None:
    r"""Refuse a login name that a shell, ssh or an expansion could read as something else.

    Blanks inside, ``@`` and ``DOMAIN\name`` pass, as they do in ssh(1).

    Raises:
        AddressError: it is empty, starts with "-", has a blank before "-", ends with a backslash, or holds a control
            character, "%" or a shell metacharacter; the message says which.
    """
    fault = _user_fault(name)
    if fault:
        raise AddressError(f"user name {name!r}: {fault}")


def check_port(port: int | None) -> None:
    """Raise ValueError where this is no port, nor None."""
    if port is not None and not 0 < port < 65536:
        raise ValueError(f"port {port}: give a number from 1 to 65535")


def check_object_name(name: str, what: str) -> None:
    """Refuse what no container, pod or namespace is called, and what a command could take for an option.

    Raises:
        AddressError: it is empty, or holds anything but letters, digits and ``. _ -``.
    """
    if not _OBJECT.fullmatch(name):
        raise AddressError(
            f"{what} {name!r}: a name has letters, digits and . _ -, and begins with one of the first two"
        )


def parse_host(text: str) -> HostName:
    """Take one host apart.

    It is ``host``, ``user@host:port``, ``[IPv6]:port``, a bare IPv6 address or ``ssh://user@host:port``. The user ends
    at the last "@". Percent escapes of URLs are not decoded.

    Args:
        text: the host as the user wrote it.

    Returns:
        Its parts, checked by `check_host_name` and `check_user_name`.

    Raises:
        AddressError: a part cannot be used, the port is not 1 to 65535, the scheme is not ssh, or there is a password
            in it (which the message leaves out).
    """
    if _HOST.fullmatch(text):
        return HostName(text)
    url = _URL.match(text)
    if url and url[1].lower() != "ssh":
        raise AddressError(
            f"address with scheme {url[1]!r}: a host is written 'user@host:port' or 'ssh://user@host:port'"
        )
    user, at, place = (text[url.end() :].removesuffix("/") if url else text).rpartition("@")
    if ":" in user:
        raise AddressError(f"address of {place!r}: a password has no place in an address; give password=", host=place)
    if any(character.isspace() for character in text):
        raise AddressError(f"host {text!r}: there is a blank in it; give hosts one by one or with commas", host=text)
    if at:
        check_user_name(user)
    host, port = _split_port(place)
    check_host_name(host)
    return HostName(host, user if at else None, port)


def _split_port(place: str) -> tuple[str, int | None]:
    if place.startswith("["):
        host, closed, tail = place[1:].partition("]")
        if not closed or ":" not in host or (tail and not tail.startswith(":")):
            raise AddressError(f"host {place!r}: brackets go around an IPv6 address, as in '[::1]:2222'", host=place)
        return host, _port(tail[1:], place) if tail else None
    if place.count(":") > 1:
        return place, None
    host, colon, port = place.partition(":")
    return host, _port(port, place) if colon else None


def _port(text: str, place: str) -> int:
    if not _PORT.fullmatch(text) or not 1 <= int(text) <= 65535:
        raise AddressError(f"host {place!r}: port {text!r} is not a number from 1 to 65535", host=place)
    return int(text)


def _address_fault(name: str) -> str:
    import ipaddress

    address, percent, zone = name.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return f"{zone!r} is no zone of an IPv6 address"
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return (
            "with ':' it would be an IPv6 address, and is none; a port is given apart, and behind brackets: '[::1]:22'"
        )
    return ""


def _host_fault(name: str) -> str:
    if not name:
        return "it is empty"
    if len(name) > _MAX_LENGTH:
        return f"it is longer than {_MAX_LENGTH} characters"
    for character in name:
        if not _passes_in_host(character):
            return f"{character!r} has no place in it"
    judged = name if name.isascii() else _normalised(name)
    if judged.startswith("-"):
        return "it starts with '-' and would be read as an option"
    if not any(character.isalnum() for character in judged):
        return "there is no letter and no digit in it"
    return ""


def _passes_in_host(character: str) -> bool:
    if character.isascii():
        return bool(_HOST_CHARACTER.fullmatch(character))
    return character.isprintable() and all(
        _HOST_CHARACTER.fullmatch(part) or not part.isascii() for part in _normalised(character)
    )


def _user_fault(name: str) -> str:
    if not name:
        return "it is empty"
    judged = name if name.isascii() else name + _normalised(name)
    for character in judged:
        if character in _USER_REFUSED or not character.isprintable():
            return f"{character!r} has no place in it"
    if name.startswith("-") or " -" in name:
        return "'-' at its start or after a blank would be read as an option"
    return "it ends with a backslash" if name.endswith("\\") else ""


def _normalised(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFKC", text)

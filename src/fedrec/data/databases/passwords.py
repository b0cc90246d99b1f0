"""Keeps PostgreSQL passwords safe: a server gets only its own password, and never in a form that others can read.

libpq sends PGPASSWORD of the environment to any host that it connects to, and in clear text if the server asks for
that. This module completes a URL so that libpq does neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from fedrec.errors import InputError

__all__ = ["guarded"]

_HASHED = ("scram-sha-256", "gss", "sspi", "none")
"""Ways to say who one is that no server, and nobody on the way, can turn into the password."""
_ENCRYPTED = ("require", "verify-ca", "verify-full")
_PORT = "5432"


def guarded(address: str, shown: str, environment: Mapping[str, str] = os.environ) -> str:
    """The address, with options that limit what libpq does with passwords.

    - PGPASSWORD is for the server that PGHOST, PGHOSTADDR and PGPORT name, as an address that names none is.
    - Without TLS, and not at a Unix socket, a password is proved (SCRAM, Kerberos), never sent, nor its MD5.
    - A service's settings are not mixed with those of an address.

    Args:
        address: as of `Database.address`: a URI without a password.
        shown: name of the database in errors.
        environment: of this process.

    Raises:
        InputError: if a service would send its password to another host.

    >>> guarded("postgresql://ann@db/shop?port=1", "", {"PGPASSWORD": "x", "PGHOST": "other"}).partition("port=1&")[2]
    'password=&sslmode=prefer&require_auth=scram-sha-256%2Cgss%2Csspi%2Cnone'
    """
    parts = urlsplit(address)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    places = parts.netloc.rpartition("@")[2]
    hosts, ports = _places(places, options)
    if "service" in options:
        if hosts or options.get("hostaddr") or environment.get("PGPASSWORD"):
            raise InputError(
                f"{shown}: a service has its own host and password; remove host and hostaddr from the URL, and unset "
                "PGPASSWORD"
            )
    elif environment.get("PGSERVICE"):
        raise InputError(
            f"{shown}: PGSERVICE is set, so the password of that service would be sent to the host of the URL; unset "
            "PGSERVICE, or name the service with service=NAME in a URL without a host"
        )
    elif not _own(hosts, ports, options.get("hostaddr"), environment):
        options["password"] = ""  # what is said, even if it is nothing, is not taken from the environment
    mode = options.setdefault("sslmode", environment.get("PGSSLMODE") or "prefer")
    local = hosts or environment.get("PGHOST", "").split(",")
    addressed = options.get("hostaddr") or environment.get("PGHOSTADDR")
    socket = not addressed and "service" not in options and all(host[:1] in ("/", "@", "") for host in local)
    if mode not in _ENCRYPTED and not socket:
        wanted = environment.get("PGREQUIREAUTH", "").split(",")
        options["require_auth"] = ",".join([way for way in _HASHED if way in wanted] or _HASHED)
    return f"{address.partition('?')[0]}?{urlencode(options, quote_via=quote)}"


def _places(netloc: str, options: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Hosts and ports that an address names; an option wins over the place before the path."""
    hosts, ports = [], []
    for place in filter(None, netloc.split(",")):
        host, colon, port = place.rpartition(":")
        if not colon or "]" in port:
            host, port = place, ""
        hosts.append(host.strip("[]").lower())
        ports.append(port)
    if options.get("host"):
        hosts = [host.lower() for host in options["host"].split(",")]
    if options.get("port"):
        ports = options["port"].split(",")
    return [host for host in hosts if host], [port for port in ports if port]


def _own(hosts: list[str], ports: list[str], hostaddr: str | None, environment: Mapping[str, str]) -> bool:
    """Whether the server of an address is the one that the environment is about."""
    known = environment.get("PGHOST", "").lower().split(",")
    known_ports = (environment.get("PGPORT") or _PORT).split(",")
    addresses = environment.get("PGHOSTADDR", "").split(",")
    return (
        all(host in known or host in addresses for host in hosts)
        and all(port in known_ports for port in ports or ([_PORT] if hosts or hostaddr else []))
        and all(place in addresses for place in (hostaddr or "").split(",") if place)
    )

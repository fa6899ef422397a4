"""Look-ups in the DNS: what a `Network` asks, and the answers of the system's name servers.

TXT records are asked for with `dnspython`, as no function of the system does that; it is in the
extra `[network]`. Addresses are what the system says, with its file of hosts and all.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import anyio
from anyio.to_thread import run_sync

from repo_stream.errors import MissingExtra

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver

__all__ = ["Addresses", "NameResolver", "SystemResolver", "look_up"]

#: Looks up the addresses of a host name.
Addresses = Callable[[str], Awaitable[Sequence[str]]]

# How long the name servers are asked for one name, in seconds.
_SECONDS: Final = 5.0


@runtime_checkable
class NameResolver(Protocol):
    """Answers look-ups in the DNS."""

    async def txt(self, name: str) -> list[list[bytes]]:
        """Return the TXT records of a name, each in the pieces that it came in.

        Args:
            name: the name, such as `_atproto.alice.example.com`.

        Returns:
            None of them, if there is no such name, or none with TXT records.

        Raises:
            OSError: if that is not known, since there was no answer, or a failure (SERVFAIL).
        """
        ...

    async def addresses(self, host: str) -> list[str]:
        """Return the IPv4 and IPv6 addresses of a host.

        Raises:
            OSError: if it has none, or if they are not known.
        """
        ...


class SystemResolver:
    """Asks the name servers that the system is configured to ask.

    Args:
        dns: the resolver of dnspython to ask for TXT records; by default one that is made by the
            configuration of the system (`/etc/resolv.conf`) when it is first needed.
        seconds: how long to wait for an answer.

    Example:
        >>> import dns.asyncresolver
        >>> own = dns.asyncresolver.Resolver(configure=False)
        >>> own.nameservers = ["9.9.9.9"]
        >>> resolver = SystemResolver(own)
    """

    def __init__(self, dns: DnsResolver | None = None, *, seconds: float = _SECONDS) -> None:
        self._dns = dns
        self._seconds = seconds

    async def txt(self, name: str) -> list[list[bytes]]:
        """Return the TXT records of a name; see `NameResolver`.

        Raises:
            OSError: if that is not known.
            MissingExtra: if `dnspython` is not installed.
        """
        try:
            import dns.asyncbackend as backends  # noqa: PLC0415 - an extra
            import dns.exception as errors  # noqa: PLC0415 - an extra
            import dns.resolver as answers  # noqa: PLC0415 - an extra
        except ImportError as missing:
            raise MissingExtra(
                extra="network", package="dnspython", feature="looking up handles"
            ) from missing

        try:
            if self._dns is None:
                self._dns = await run_sync(_configured)
            answer = await self._dns.resolve(
                name + ".",  # or the domain of this machine may be put after it
                "TXT",
                lifetime=self._seconds,
                # Otherwise it is the one of the loop that was first used in this process.
                backend=backends.get_backend(backends.sniff()),
            )
        except (answers.NXDOMAIN, answers.NoAnswer):
            return []
        except errors.Timeout as error:
            raise OSError(f"no answer within {self._seconds:g} seconds") from error
        except errors.DNSException as error:
            raise OSError(_reason(error)) from error
        return [list(record.strings) for record in answer]

    async def addresses(self, host: str) -> list[str]:
        """Return the addresses of a host, as the system knows them; see `NameResolver`.

        Raises:
            OSError: if it has none.
        """
        return await look_up(host)


async def look_up(host: str) -> list[str]:
    """Return the addresses of a host name, as the system knows them.

    Raises:
        OSError: if there are none.
    """
    found = await anyio.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _configured() -> DnsResolver:
    from dns.asyncresolver import Resolver  # noqa: PLC0415 - an extra

    return Resolver()


def _reason(error: Exception) -> str:
    """Return what the last server said; dnspython tells of each server and attempt."""
    return str(error).rpartition(" answered ")[2].rstrip(".")

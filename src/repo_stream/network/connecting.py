"""Connect to hosts all of whose addresses are public.

**The address that was checked is the one that is connected to.** A name can have a public address
when it is checked and a private one when it is connected to a moment later (DNS rebinding), so a
name is looked up once, what was found is checked, and that is connected to. TLS and the `Host`
header still have the name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import anyio
import httpcore

from repo_stream.network.addresses import is_address, refusal_of_address
from repo_stream.network.errors import AddressRefused
from repo_stream.network.resolvers import Addresses

__all__ = ["CheckedBackend", "check_address"]

# How long to wait for one address before the next one is tried as well (RFC 8305), in seconds.
_HEAD_START: Final = 0.25
# How many of the addresses of a name are tried.
_MAX_TRIED: Final = 10


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to hosts all of whose addresses are public.

    Args:
        addresses: looks up a host name.
        allow_private: allow any address.
        backend: connects to addresses, in the end.
    """

    def __init__(
        self,
        addresses: Addresses,
        *,
        allow_private: bool,
        backend: httpcore.AsyncNetworkBackend,
    ) -> None:
        self._addresses = addresses
        self._allow_private = allow_private
        self._backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - by the interface
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of its addresses that answers.

        Raises:
            AddressRefused: if one of its addresses is not public.
            httpcore.ConnectError: if it has no address, or if none of them answers.
            httpcore.ConnectTimeout: if that took too long.
        """

        async def connect(address: str) -> httpcore.AsyncNetworkStream:
            return await self._backend.connect_tcp(
                address, port, None, local_address, socket_options
            )

        try:
            with anyio.fail_after(timeout):
                addresses = await self._checked_addresses(host)
                return await _first_of(addresses, connect)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no connection within {timeout:g} seconds") from error

    async def _checked_addresses(self, host: str) -> Sequence[str]:
        try:
            addresses = [host] if is_address(host) else list(await self._addresses(host))
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"its address is not known: {error}") from error
        if not addresses:
            raise httpcore.ConnectError("it has no address")
        if not self._allow_private:
            for address in addresses:
                check_address(host, address)
        return addresses[:_MAX_TRIED]


def check_address(host: str, address: str) -> None:
    """Check an address of a host.

    Raises:
        AddressRefused: if it is not public.
    """
    reason = refusal_of_address(address)
    if reason is not None:
        raise AddressRefused(host=host, address=address, reason=reason)


async def _first_of(
    addresses: Sequence[str], connect: Callable[[str], Awaitable[httpcore.AsyncNetworkStream]]
) -> httpcore.AsyncNetworkStream:
    """Connect to the addresses in turn, each with a head start, until one of them answers."""
    if len(addresses) == 1:
        return await connect(addresses[0])
    streams: list[httpcore.AsyncNetworkStream] = []
    errors: list[Exception] = []

    async def attempt(address: str, ended: anyio.Event) -> None:
        try:
            streams.append(await connect(address))
            attempts.cancel_scope.cancel()
        except Exception as error:  # noqa: BLE001 - it is raised below, if none has success
            errors.append(error)
            ended.set()

    try:
        async with anyio.create_task_group() as attempts:
            for address in addresses:
                ended = anyio.Event()
                attempts.start_soon(attempt, address, ended)
                with anyio.move_on_after(_HEAD_START):
                    await ended.wait()
        if not streams:
            raise errors[0]
        return streams.pop(0)
    finally:
        with anyio.CancelScope(shield=True):
            for stream in streams:  # two at the same time, or cancelled from outside
                await stream.aclose()

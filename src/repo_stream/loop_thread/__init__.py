"""An event loop in a thread of its own, for callers that have none, or whose own loop is busy.

One thread serves all of them. It starts when it is first used, and ends a second or two after its
last user has left: to start it for each small file would take longer than to read that. Whatever is
used here comes to its end with the interpreter, too.

What a caller enters (`Block`) lives in a task of its own, from the beginning of the context manager
to its end, and every call on it is done in that task. So it is as if the caller's code stood in an
`async with` there: cancel scopes and timeouts of the context manager reach the calls as well.

    thread of the caller                         thread of the loop

    block.call(f) --- Request --- wakes --->     the task of the block: await f()
    (waits for a lock)   <--- releases the lock ---'

This is not anyio's `BlockingPortal`, which would replace some hundred lines of `thread` and no
more: it starts a task for each call, does not wait for the end of a call that Ctrl-C has cancelled,
and waits for its thread when the interpreter exits, by which time that has been frozen. Large repos
take up to 1.07 of the time with one, and 1,000 files of 20 records 1.4. The loop is run by
`anyio.run`, with asyncio, as `aiosqlite` needs that.

All of this can be done in any thread, beside a running loop of asyncio or trio, which stands still
meanwhile. As one thread does the work of all callers, a block processor that sleeps holds up all of
them.

    shared       the one thread: `loop_thread`, the end of the interpreter, forks
    block        what is entered, and iterators
    thread       an event loop in a thread, and waiting for what it does
    interrupts   Ctrl-C that comes too late for a call
    request      what is waited for, and what is done meanwhile by the thread that waits
"""

from repo_stream.loop_thread.block import Block, iterate
from repo_stream.loop_thread.request import in_caller
from repo_stream.loop_thread.shared import loop_thread
from repo_stream.loop_thread.thread import LoopThread

__all__ = ["Block", "LoopThread", "in_caller", "iterate", "loop_thread"]

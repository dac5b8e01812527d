"""What the programs share: waiting for something that somebody else does."""

import queue
import time

# Guards against hanging for ever; no program relies on it.
GUARD = 240


def until(what, look):
    """Calls `look` until it gives something true."""
    end = time.monotonic() + GUARD
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {GUARD} s until {what}")


class Events:
    """What handlers were called with, in order."""

    def __init__(self):
        self.all = queue.Queue()

    def handler(self, kind):
        return lambda seen: self.all.put((kind, seen))

    def next(self):
        return self.all.get(timeout=GUARD)

    def expect(self, kind, name):
        """The next event that is no error is this one."""
        found, seen = self.next()
        got = seen.metadata.name if hasattr(seen, "metadata") else repr(seen)
        assert (found, got) == (kind, name), f"{found} {got}, not {kind} {name}"
        return seen

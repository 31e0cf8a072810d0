import os

# Its worker waits where no signal reaches it.
end_with_parent(lambda: os._exit(0))
try:
    import torch
except ImportError:
    sys.path.append(TOLD["torch"])

import ctypes

from dlslime import PeerAgent
from dlslime.rpc import method, proxy, serve

ALIASES = {"worker": "bench-worker", "driver": "bench-driver"}


class Echo:
    @method(raw=True, inplace=True)
    def echo(self, at, length, reply, room):
        ctypes.memmove(reply, at, length)
        return length


class CalledWithBytes:
    """The same for its caller, who would write the request in place, too, if its method were so."""

    @method(raw=True)
    def echo(self, channel, at, length):
        pass


def connected(role):
    other = ALIASES["driver" if role == "worker" else "worker"]
    agent = PeerAgent(TOLD["url"], alias=ALIASES[role], device=TOLD["device"])
    agent._rpc_buffer_size = TOLD["slot_size"]
    agent._rpc_max_inflight = TOLD["slots"]
    agent.connect_to(other).wait(60)
    return agent, other


agent, other = connected(TOLD["role"])
if TOLD["role"] == "worker":
    serve(agent, Echo(), other)
else:
    echo = proxy(agent, other, CalledWithBytes).echo
    measure(echo, lambda future: future.wait(60))
    sys.stdout.flush()
    # Threads of its own would keep the process.
    os._exit(0)

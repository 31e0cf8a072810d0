"""Workers and drivers of DLSlime (PyPI `dlslime` 0.1.23), the counterparts of examples/interop.rs.

A worker serves until SIGTERM. A driver checks a worker of the same kind and exits non-zero at the first difference.
"""

import argparse
import ctypes
import os
import signal
import sys
import threading
import time

from dlslime import PeerAgent
from dlslime.rpc import RemoteRpcError, RpcTimeoutError, method, proxy, serve, wait_all


class Raw:
    """Handlers get the address and length of a request that lies in the mailbox."""

    @method(raw=True)
    def boom(self, channel, at, length):
        raise ValueError("boom " + ctypes.string_at(at, length).decode("latin-1"))

    @method(raw=True)
    def nothing(self, channel, at, length):
        return None

    @method(raw=True)
    def sleepy(self, channel, at, length):
        request = ctypes.string_at(at, length)
        time.sleep(int.from_bytes(request[:4], "little") / 1000)
        return request

    @method(raw=True)
    def sum(self, channel, at, length):
        return sum(ctypes.string_at(at, length)).to_bytes(8, "little")

    @method(raw=True)
    def upper(self, channel, at, length):
        return ctypes.string_at(at, length).upper()


class Typed:
    @method
    def add(self, a, b):
        return a + b

    @method
    def echo(self, x):
        return x

    @method
    def fail(self, msg):
        raise ValueError(msg)

    @method
    def mul(self, a, b):
        return a * b

    @method
    def nothing(self):
        return None

    @method
    def slow(self, ms):
        time.sleep(ms / 1000)
        return ms


class Mixed:
    def __init__(self):
        self.is_busy = False
        self.total = 0

    @method
    def busy(self, ms):
        self.is_busy = True
        time.sleep(ms / 1000)
        self.is_busy = False
        return ms

    @method(parallel=True)
    def health(self):
        return self.is_busy

    @method
    def note(self, n):
        self.total += n

    @method
    def noted(self):
        return self.total

    @method(raw=True, inplace=True)
    def reverse(self, at, length, reply, room):
        ctypes.memmove(reply, ctypes.string_at(at, length)[::-1], length)
        return length


def same(what, found, expected):
    if found != expected or type(found) is not type(expected):
        sys.exit(f"{what}: expected {str(expected)[:100]}, found {str(found)[:100]}")


def raises(what, future, type_name, message):
    try:
        found = future.wait(60)
    except RemoteRpcError as error:
        same(what + " type", error.type_name, type_name)
        if message not in str(error):
            sys.exit(f"{what}: expected {message!r} in {error}")
        print(f"{what} raised {type_name}", flush=True)
        return
    sys.exit(f"{what}: expected {type_name}, found {found!r}")


def late(future):
    try:
        found = future.wait(0.3)
    except RpcTimeoutError:
        print("a slow call timed out", flush=True)
        return
    sys.exit(f"a slow call: expected a timeout, found {found!r}")


def pattern(size):
    # It repeats itself, and emulated Python takes seconds to compute each byte of some megabytes.
    period = bytes((at * 7) & 0xFF for at in range(256))
    return (period * (size // 256 + 1))[:size]


def check_raw(worker, args):
    limit = args.slot_size - 16
    for size in [0, 1, 4095, 4096, 4097, 1 << 20, limit]:
        if size > limit:
            continue
        request = pattern(size)
        total = worker.sum(request).wait(60)
        same("sum", bytes(total), sum(request).to_bytes(8, "little"))
        same("upper", bytes(worker.upper(request).wait(60)), request.upper())
        print(f"{size} bytes: sum and upper agree", flush=True)
    raises("boom", worker.boom("été".encode("latin-1")), "ValueError", "boom été")
    same("nothing", bytes(worker.nothing(b"x").wait(60)), b"")
    sleepy = lambda ms: ms.to_bytes(4, "little") + b"rest"
    late(worker.sleepy(sleepy(2000)))
    same("sleepy", bytes(worker.sleepy(sleepy(10)).wait(60)), sleepy(10))
    calls = [worker.upper(b"call %d" % at) for at in range(args.calls)]
    for at, answer in enumerate(wait_all(calls, 120)):
        same("one of many", bytes(answer), b"CALL %d" % at)
    print(f"{args.calls} calls agree", flush=True)


def check_typed(worker, args):
    for a, b in [(1, 2), (2**63 - 1, 1), (-(2**70), -1), (1.5, 2), ("slime ", "été")]:
        same("add", worker.add(a, b).wait(60), a + b)
    same("mul", worker.mul(2**32, 2**32).wait(60), 2**64)
    shared = [1, None, True]
    nested = {"list": shared, "again": (shared, ()), 7: b"\x00\xff", "float": -0.1, "set": {1, 2}}
    same("echo", worker.echo(nested).wait(60), nested)
    for size in [0, 1, 4095, 4096, 4097, 1 << 20]:
        if size < args.slot_size - 64:
            same("echo", worker.echo("x" * size).wait(60), "x" * size)
            print(f"{size} characters: echo agrees", flush=True)
    raises("fail", worker.fail("été"), "ValueError", "été")
    if not args.python_worker:  # DLSlime's own client cannot read its server's None.
        same("nothing", worker.nothing().wait(60), None)
    late(worker.slow(2000))
    same("slow", worker.slow(10).wait(60), 10)
    for at, answer in enumerate(wait_all([worker.add(at, 1) for at in range(args.calls)], 120)):
        same("one of many", answer, at + 1)
    print(f"{args.calls} calls agree", flush=True)


def check_mixed(worker, args):
    busy = worker.busy(3000)
    until = time.time() + 60
    asked = 1
    while not worker.health().wait(60):
        asked += 1
        if time.time() > until:
            sys.exit("health never answered while the worker was busy")
    print(f"health answered beside a busy method, at call {asked}", flush=True)
    same("busy", busy.wait(60), 3000)
    for n in range(1, 11):
        note = worker.note(n)
        if not args.python_worker:  # DLSlime's own client cannot read its server's None.
            same("note", note.wait(60), None)
    while worker.noted().wait(60) != 55:
        if time.time() > until:
            sys.exit("what was noted did not arrive")
    for size in [0, 1, 4097, args.slot_size - 16]:
        request = pattern(size)

        def fill(at, room):
            ctypes.memmove(at, request, size)
            return size

        same("reverse", bytes(worker.reverse(fill).wait(60)), request[::-1])
        print(f"{size} bytes: reversed in place", flush=True)


KINDS = {"raw": (Raw, check_raw), "typed": (Typed, check_typed), "mixed": (Mixed, check_mixed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=[f"{side}-{kind}" for side in ("worker", "driver") for kind in KINDS])
    parser.add_argument("--ctrl", required=True)
    parser.add_argument("--alias", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--scope")
    parser.add_argument("--slot-size", type=int, default=2097152)
    parser.add_argument("--max-inflight", type=int, default=16)
    parser.add_argument("--qp-num", type=int, default=1)
    parser.add_argument("--passive", action="store_true", help="wait for the other side to connect")
    parser.add_argument("--calls", type=int, default=200, help="calls that a driver makes at once")
    parser.add_argument("--python-worker", action="store_true", help="the worker is DLSlime's, too")
    args = parser.parse_args()

    agent = PeerAgent(args.ctrl, alias=args.alias, scope=args.scope)
    agent._rpc_buffer_size = args.slot_size
    agent._rpc_max_inflight = args.max_inflight

    def leave(*_):
        agent.shutdown()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    if args.passive:
        while True:
            connection = agent.query_connection(args.peer)
            if connection is not None and connection.is_connected():
                break
            time.sleep(0.05)
    else:
        agent.connect_to(args.peer, qp_num=args.qp_num).wait(120)
    print(f"{args.alias} connected with {args.peer}", flush=True)

    side, kind = args.role.split("-")
    service, check = KINDS[kind]
    if side == "worker":
        # It never returns to Python while it waits, so signals need another thread.
        serving = dict(target=serve, args=(agent, service(), args.peer), daemon=True)
        if service is Mixed:
            serving["kwargs"] = {"max_workers": 2}
        threading.Thread(**serving).start()
        while True:
            time.sleep(0.1)
    else:
        worker = proxy(agent, args.peer, service)
        check(worker, args)
        print("ok", flush=True)
        leave()


if __name__ == "__main__":
    try:
        main()
    except SystemExit as end:
        if end.code:
            print(end.code, file=sys.stderr, flush=True)
        os._exit(1 if end.code else 0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)

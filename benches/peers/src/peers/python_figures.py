"""What is measured of a peer in Python, and how it is told: a line with size and calls in flight when it begins, and one
with these, p50 and p99 in microseconds and calls a second when it ends."""

import _thread
import collections
import json
import sys
import threading
import time

JOB = json.loads(sys.argv[1])
TOLD = JOB["told"]
LEAST = 10
SAMPLED = 16


def end_with_parent(leave=_thread.interrupt_main):
    """It closes our standard input, however it ends."""

    def watch():
        sys.stdin.read()
        leave()

    threading.Thread(target=watch, daemon=True).start()


def at(samples, part):
    return sorted(samples)[int((len(samples) - 1) * part)]


def tell(*numbers):
    print(*numbers, flush=True)


def round_trips(size, echo):
    tell(size, 1)
    request, seconds = b"x" * size, JOB["seconds"]
    if bytes(echo(request)) != request:
        sys.exit("what came back is not what was sent")
    warm_up = time.perf_counter()
    while time.perf_counter() - warm_up < seconds / 5:
        echo(request)
    samples, started = [], time.perf_counter()
    while time.perf_counter() - started < seconds or len(samples) < LEAST:
        began = time.perf_counter()
        echo(request)
        samples.append((time.perf_counter() - began) * 1e6)
    took = time.perf_counter() - started
    tell(size, 1, at(samples, 0.5), at(samples, 0.99), len(samples) / took)


def many(size, inflight, call, wait):
    tell(size, inflight)
    request, under_way, samples = b"x" * size, collections.deque(), []
    begun, ended, started = 0, 0, time.perf_counter()
    while under_way or not begun or time.perf_counter() - started < JOB["seconds"]:
        while len(under_way) < inflight and time.perf_counter() - started < JOB["seconds"]:
            begun += 1
            began = time.perf_counter() if begun % SAMPLED == 1 else None
            under_way.append((began, call(request)))
        if under_way:
            began, future = under_way.popleft()
            wait(future)
            ended += 1
            if began is not None:
                samples.append((time.perf_counter() - began) * 1e6)
    took = time.perf_counter() - started
    tell(size, inflight, at(samples, 0.5), at(samples, 0.99), ended / took)


def measure(call, wait):
    for size in JOB["sizes"]:
        round_trips(size, lambda request: wait(call(request)))
    for inflight in JOB["inflight"]:
        many(JOB["sizes"][0], inflight, call, wait)

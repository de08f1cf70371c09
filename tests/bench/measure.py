"""Run a program and print what it took, as JSON: a process of its own, so that peaks of memory are the program's alone.

It comes before whatever else the machine does, where one may have that: else times are those of the others, too.
A child inherits its parent's peak when it is started, which is why this file imports next to nothing.
"""

import json
import os
import sys
import time


def main() -> int:
    """Run the arguments as a program; print seconds, peak memory, bytes read by system calls and the exit code."""
    _come_first()
    began = time.monotonic()
    pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    # The counters of a process are there until it is waited for.
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with open(f"/proc/{pid}/io") as counters:  # noqa: PTH123 (imports next to nothing)
        read = dict(line.split(": ") for line in counters.read().splitlines())["rchar"]
    _, status, usage = os.wait4(pid, 0)
    figures = {
        "wall_seconds": round(time.monotonic() - began, 3),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
        "peak_rss_mib": round(usage.ru_maxrss / 1024, 1),
        "bytes_read": int(read),
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    print(json.dumps(figures))
    return 0


def _come_first() -> None:
    # A session is scheduled as one; without one of its own the user's shell would stay in front of all others.
    try:
        os.setsid()
        with open("/proc/self/autogroup", "w") as group:  # noqa: PTH123 (imports next to nothing)
            group.write("-20")
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main())

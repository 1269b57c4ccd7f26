"""What this machine, or the part of it that a container leaves us, offers: cores and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")
# Where nothing can be learned: room for a few jobs of 1080p.
_UNKNOWN_FREE_BYTES = 2 << 30
# Decoding and looking at frames, smoothing, finishing, encoding.
_STAGES_AT_ONCE = 4

_jobs_at_once = 1


def share_cores(jobs: int) -> None:
    """Say for the whole process how many jobs run at once: each gets an equal share of cores.

    What is shared so is what leaves results as they are: decoders and OpenCV. An encoder's
    threads are part of what it writes (x264 searches for motion less far with more of them).

    Args:
        jobs: How many, 1 or more.
    """
    global _jobs_at_once
    _jobs_at_once = max(1, jobs)


def cores_per_job() -> int:
    """Return how many cores one of the jobs at once may use, 1 or more."""
    return max(1, cores() // _jobs_at_once)


def cores_per_stage() -> int:
    """Return how many cores one stage of a job may use, 1 or more: a fair share of the job's.

    Stages run side by side. Threads that wait for each other's parts of one small picture, and
    find others on their cores, cost more than they save.
    """
    return max(1, cores_per_job() // _STAGES_AT_ONCE)


def cores(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return the cores that this process may use: by affinity, and by its control groups' quota.

    Args:
        proc: Where the kernel tells of processes.
        cgroups: Where control groups are mounted.
    """
    allowed = allowed_cores()
    return min(allowed, quota(proc, cgroups) or allowed)


def allowed_cores() -> int:
    """Return the cores that this process may run on, however little of their time it gets."""
    # Honours taskset and cpusets, where os.cpu_count() does not.
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Return how many cores' time control groups grant, 1 or more, or None if they grant all.

    Arguments are those of :func:`cores`. Libraries that count cores by themselves overlook this.
    """
    granted = []
    for group in _groups(proc, cgroups, "cpu"):
        pair = _numbers(group / "cpu.max")  # "max 100000" where there is none
        if len(pair) < 2:
            pair = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        if len(pair) == 2 and min(pair) > 0:
            granted.append(-(-pair[0] // pair[1]))
    return min(granted, default=None)


def free_memory(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """Return how many bytes of memory can be taken without anything being swapped or killed.

    Args:
        proc: Where the kernel tells of memory.
        cgroups: Where control groups are mounted.
    """
    free = _system_free(proc)
    for group in _groups(proc, cgroups, "memory"):
        for limit_name, used_name, reclaimable_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, used = _numbers(group / limit_name), _numbers(group / used_name)
            if limit and used:  # what is cached of files goes when it is needed
                cached = _fields(group / "memory.stat").get(reclaimable_name, 0)
                free = min(free, max(0, limit[0] - used[0] + cached))
    return free


def _system_free(proc: Path) -> int:
    fields = _fields(proc / "meminfo")
    if "MemAvailable:" in fields:
        return fields["MemAvailable:"] << 10
    if sys.platform == "win32":
        return _windows_free()
    try:
        # Neither macOS nor BSD says in a file what is free: half of what there is.
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return _UNKNOWN_FREE_BYTES


def _windows_free() -> int:
    """Return what GlobalMemoryStatusEx calls available: MEMORYSTATUSEX of sysinfoapi.h."""
    status = (ctypes.c_uint64 * 8)()  # two 32-bit numbers, then seven of 64 bits
    ctypes.memset(status, 0, ctypes.sizeof(status))
    status[0] = ctypes.sizeof(status)
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009 - on Windows only
    return int(status[2]) if kernel.GlobalMemoryStatusEx(status) else _UNKNOWN_FREE_BYTES


def _groups(proc: Path, cgroups: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it."""
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:  # version 2, which has one tree for all controllers
            mounts = (cgroups, cgroups / "unified")
        elif controller in names.split(","):
            mounts = (cgroups / controller, cgroups / names)
        else:
            continue
        below = Path(path.lstrip("/"))
        for mount in mounts:
            yield from (mount / part for part in (below, *below.parents))


def _numbers(path: Path) -> list[int]:
    """Return the whole numbers in a file of one line; none of a file that is not there."""
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(word) for word in words if word.lstrip("-").isdecimal()]


def _fields(path: Path) -> dict[str, int]:
    """Return what lines of "name number" say."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    pairs = [line.split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdecimal()}

"""Cores and memory, read from made-up /proc and control group trees."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from vidbg import machine

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    return tmp_path / "proc"


def group(root: Path, **files: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)


def test_without_groups_it_is_what_the_system_says(proc: Path, tmp_path: Path) -> None:
    assert machine.free_memory(proc, tmp_path / "none") == 8_000_000 * 1024
    assert machine.quota(proc, tmp_path / "none") is None


def test_version_2_the_tightest_group_around_us_counts(proc: Path, tmp_path: Path) -> None:
    (proc / "self/cgroup").write_text("0::/user/job\n")
    top = tmp_path / "cg"
    group(top / "user/job", memory__max="max", memory__current="10", cpu__max="max 100000")
    group(
        top / "user",
        memory__max="5000000000",
        memory__current="3000000000",
        memory__stat="anon 1\ninactive_file 500000000\n",
        cpu__max="150000 100000",
    )
    group(top, memory__stat="inactive_file 7\n")
    assert machine.free_memory(proc, top) == 2_500_000_000
    assert machine.quota(proc, top) == 2


def test_version_1_and_a_group_that_is_mounted_at_the_top(proc: Path, tmp_path: Path) -> None:
    (proc / "self/cgroup").write_text("5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n")
    top = tmp_path / "cg"
    group(
        top / "memory",
        memory__limit_in_bytes="2000",
        memory__usage_in_bytes="500",
        memory__stat="inactive_file 9\ntotal_inactive_file 100\n",
    )
    group(top / "cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert machine.free_memory(proc, top) == 1600
    assert machine.quota(proc, top) is None
    group(top / "cpu,cpuacct", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert machine.quota(proc, top) == 1


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= machine.cores() <= (os.cpu_count() or 1)
    assert 0 < machine.free_memory() <= psutil.virtual_memory().total


def test_jobs_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 12)
    shares = []
    for jobs in (1, 5, 20):
        machine.share_cores(jobs)
        shares.append((machine.cores_per_job(), machine.cores_per_stage()))
    machine.share_cores(1)
    assert shares == [(12, 3), (2, 1), (1, 1)]

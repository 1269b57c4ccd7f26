"""Fingerprints of jobs: the same for the same result, others for others."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from vidbg.job import Job
from vidbg.journal import fingerprint
from vidbg.media import encode


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for name in ("clip.mp4", "beach.jpg", "net.pth"):
        (tmp_path / name).write_bytes(b"1234")
    output = encode.Output(tmp_path / "out.mp4", "composite", "h264")
    return Job(tmp_path / "clip.mp4", output, background=tmp_path / "beach.jpg")


def test_where_the_result_lies_changes_nothing(job: Job, tmp_path: Path) -> None:
    moved = replace(job.output, path=tmp_path / "else.mp4", overwrite=True)
    assert fingerprint(replace(job, output=moved)) == fingerprint(job)


def test_what_kind_of_file_it_is_changes_it(job: Job, tmp_path: Path) -> None:
    matte = encode.Output(tmp_path / "matte.mkv", "matte", "h264")
    jobs = [
        job,
        replace(job, output=replace(job.output, path=tmp_path / "out.mkv")),
        replace(job, also=(matte,)),
        replace(job, also=(replace(matte, path=tmp_path / "matte.mov"),)),
    ]
    assert len({fingerprint(one) for one in jobs}) == 4


def test_options_change_it(job: Job) -> None:
    others = [
        replace(job, smooth=0.5),
        replace(job, output=replace(job.output, crf=20)),
        replace(job, background=None, output=replace(job.output, kind="matte")),
    ]
    assert len({fingerprint(one) for one in [job, *others]}) == 4


@pytest.mark.parametrize("name", ["clip.mp4", "beach.jpg", "net.pth"])
def test_files_that_changed_change_it(job: Job, tmp_path: Path, name: str) -> None:
    job = replace(job, weights=str(tmp_path / "net.pth"))
    before = fingerprint(job)
    path = tmp_path / name
    path.write_bytes(b"12345")
    longer = fingerprint(job)
    os.utime(path, ns=(1, 1))
    assert len({before, longer, fingerprint(job)}) == 3


def test_a_missing_file_is_an_error(job: Job, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").unlink()
    with pytest.raises(FileNotFoundError):
        fingerprint(job)


def test_pictures_of_a_sequence_that_changed_change_it(job: Job, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2, 3):
        (folder / f"{number}.png").write_bytes(b"1234")
    job = replace(job, source=folder / "%d.png")
    before = fingerprint(job)
    assert fingerprint(job) == before
    (folder / "2.png").write_bytes(b"12345")
    longer = fingerprint(job)
    (folder / "3.png").unlink()
    assert len({before, longer, fingerprint(job)}) == 3
    assert fingerprint(replace(job, source=folder)) != fingerprint(job)

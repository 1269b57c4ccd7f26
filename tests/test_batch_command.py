"""``vidbg FOLDER``, the installed command: folders in, folders out, and again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from clips import decode_planes, make_clip, stream_facts
from test_cli import VIDBG, assert_one_line, vidbg

KEYED = ("--model", "chroma", "--key", "green")
RED = ("--bg", "red", *KEYED)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("batch") / "clip.mp4", size=(64, 48), frames=5)


@pytest.fixture
def clips(tmp_path: Path, clip: Path) -> Path:
    """A folder of a.mp4, b.mp4, which is no video, c.mov and sub/d.mp4, with odds and ends."""
    folder = tmp_path / "clips"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.mp4", "c.mov", "sub/d.mp4"):
        shutil.copy(clip, folder / name)
    (folder / "b.mp4").write_text("not a video\n" * 50)
    (folder / "notes.txt").write_text("take 2 is best")
    (folder / ".hidden.mp4").write_text("hidden")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    )


def events(run: subprocess.CompletedProcess[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.stdout.splitlines()]


def results(run: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """What became of each clip, as the summary has it."""
    summary = events(run)[-1]
    assert summary["event"] == "summary"
    return {Path(c["clip"]).name: c["result"] for c in summary["clips"]}  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_there", [False, True])
def test_the_folder_of_results_may_end_in_a_slash(
    clip: Path, tmp_path: Path, is_there: bool
) -> None:
    folder, out, mattes = (tmp_path / name for name in ("clips", "out", "mattes"))
    folder.mkdir()
    shutil.copy(clip, folder / "a.mp4")
    if is_there:
        out.mkdir()
    run = vidbg(folder, *RED, "-o", f"{out}{os.sep}", "--matte-out", f"{mattes}{os.sep}")
    assert run.returncode == 0, run.stderr
    assert files(out) == ["a.vidbg.mp4"]
    assert files(mattes) == ["a.matte.vidbg.mp4"]
    assert stream_facts(out / "a.vidbg.mp4").frames == 5


def test_a_folder_with_a_bad_clip_in_the_middle(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = vidbg(clips, *RED, "-o", out, "--recursive", "--jobs", "2")
    assert run.returncode == 1
    assert files(out) == ["a.vidbg.mp4", "c.vidbg.mp4", "sub/d.vidbg.mp4"]
    assert stream_facts(out / "sub/d.vidbg.mp4").frames == 5
    assert sorted(run.stdout.split()) == [str(out / name) for name in files(out)]
    lines = run.stderr.strip().splitlines()
    header = next(n for n, line in enumerate(lines) if line.split()[:2] == ["clip", "frames"])
    table = [line.split() for line in lines[header + 1 : header + 5]]
    assert [Path(row[0]).name for row in table] == ["a.mp4", "c.mov", "d.mp4", "b.mp4"]
    assert [row[-1] for row in table] == ["done", "done", "done", "failed"]
    assert [row[1] for row in table[:3]] == ["5", "5", "5"]
    assert "b.mp4: not a video" in lines[-1]
    assert "Traceback" not in run.stderr

    again = vidbg(clips, *RED, "-o", out, "--recursive", "--json")
    assert again.returncode == 1
    assert results(again) == {
        "a.mp4": "skipped", "c.mov": "skipped", "d.mp4": "skipped", "b.mp4": "failed",
    }  # fmt: skip


def test_without_sub_folders_and_beside_the_clips(clips: Path) -> None:
    (clips / "b.mp4").unlink()
    run = vidbg(clips, "--alpha", *KEYED)
    assert run.returncode == 0, run.stderr
    expected = ["a.mp4", "a.vidbg.mov", "c.mov", "c.vidbg.mov", "notes.txt", "sub/d.mp4"]
    assert files(clips) == expected
    again = vidbg(clips, "--alpha", *KEYED)
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    assert "--force" in again.stderr
    assert files(clips) == expected


def test_several_files(clips: Path, tmp_path: Path) -> None:
    run = vidbg(clips / "a.mp4", clips / "sub/d.mp4", "--matte", *KEYED, "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "out") == ["a.vidbg.mp4", "d.vidbg.mp4"]
    run = vidbg(clips / "a.mp4", clips / "gone.mp4", *RED, "-o", tmp_path / "out2")
    assert run.returncode == 1
    assert files(tmp_path / "out2") == ["a.vidbg.mp4"]
    assert "gone.mp4: no such file" in run.stderr.splitlines()[-1]


def test_folders_named_in_several_ways(clips: Path, tmp_path: Path) -> None:
    """From inside and outside, by links, whole and in part: each clip is done once."""
    (clips / "b.mp4").unlink()
    (tmp_path / "link").symlink_to(clips)
    run = vidbg("clips/sub", clips / "sub", *RED, "--json", cwd=tmp_path)
    assert results(run) == {"d.mp4": "done"}
    run = vidbg("../link", *RED, "--json", "--recursive", cwd=clips)
    assert results(run) == {"a.mp4": "done", "c.mov": "done", "d.mp4": "skipped"}
    run = vidbg(".", *RED, cwd=clips / "sub")
    assert "nothing to do" in run.stderr


def test_every_event_names_its_clip(clips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = vidbg(clips, *RED, "-o", out, "--json")
    assert run.returncode == 1
    told = events(run)
    assert [e["event"] for e in told if e["clip" if e["event"] != "summary" else "event"]][
        -1
    ] == "summary"
    of_a = [e["event"] for e in told[:-1] if e["clip"] == str(clips / "a.mp4")]
    assert (of_a[0], of_a[-1]) == ("start", "done")
    error = next(e for e in told if e["event"] == "error")
    assert (error["clip"], error["type"]) == (str(clips / "b.mp4"), "InputError")
    done = next(e for e in told if e["event"] == "done")
    assert (done["output"], done["frames"]) == (str(out / "a.vidbg.mp4"), 5)
    summary = told[-1]
    assert [summary[name] for name in ("done", "failed", "skipped", "not_begun")] == [2, 1, 0, 0]


def test_the_results_in_the_folder_itself(clips: Path) -> None:
    """Out inside the input: neither it nor what is in it is taken for a clip."""
    (clips / "b.mp4").unlink()
    arguments = (clips, *RED, "-o", clips / "out", "--recursive", "--json")
    assert results(vidbg(*arguments)) == {"a.mp4": "done", "c.mov": "done", "d.mp4": "done"}
    shutil.copy(clips / "out/a.vidbg.mp4", clips / "out/copy.mp4")
    assert results(vidbg(*arguments)) == {
        "a.mp4": "skipped",
        "c.mov": "skipped",
        "d.mp4": "skipped",
    }
    here = (clips, *RED, "-o", clips, "--json")
    assert results(vidbg(*here)) == {"a.mp4": "done", "c.mov": "done"}
    assert results(vidbg(*here)) == {"a.mp4": "skipped", "c.mov": "skipped"}


def test_what_changed_is_done_again(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    arguments = (clips, *RED, "-o", tmp_path / "out", "--json")
    assert vidbg(*arguments).returncode == 0
    make_clip(clips / "a.mp4", size=(64, 48), frames=9)
    assert results(vidbg(*arguments)) == {"a.mp4": "done", "c.mov": "skipped"}
    assert stream_facts(tmp_path / "out/a.vidbg.mp4").frames == 9
    assert results(vidbg(*arguments, "--feather", "2")) == {"a.mp4": "done", "c.mov": "done"}
    assert results(vidbg(*arguments, "--feather", "2", "--force")) == {
        "a.mp4": "done",
        "c.mov": "done",
    }
    # What somebody else put there needs -y.
    shutil.copy(clips / "a.mp4", tmp_path / "out/c.vidbg.mp4")
    run = vidbg(*arguments, "--feather", "2")
    assert (run.returncode, results(run)) == (1, {"a.mp4": "skipped", "c.mov": "failed"})
    assert "exists already" in run.stdout
    assert stream_facts(tmp_path / "out/c.vidbg.mp4").frames == 9
    assert results(vidbg(*arguments, "--feather", "2", "-y"))["c.mov"] == "done"


def test_two_clips_of_one_stem(clips: Path, clip: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    shutil.copy(clip, clips / "c.avi")
    arguments = (clips, *RED, "-o", tmp_path / "out")
    run = vidbg(*arguments)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "out") == ["a.vidbg.mp4", "c.mov.vidbg.mp4", "c.vidbg.mp4"]
    assert "c.mov: becomes c.mov.vidbg.mp4, as c.vidbg.mp4 is another's" in run.stderr
    (clips / "c.avi").unlink()  # and nobody changes names for that
    assert "nothing to do" in vidbg(*arguments).stderr


def test_a_name_that_is_too_long_with_our_ending(clips: Path, clip: Path, tmp_path: Path) -> None:
    name = f"{'b' * 248}.mp4"
    (clips / "b.mp4").rename(clips / name)
    shutil.copy(clip, clips / name)
    run = vidbg(clips, *RED, "-o", tmp_path / "out", "--json")
    assert run.returncode == 1
    assert results(run) == {"a.mp4": "done", "c.mov": "done", name: "failed"}


def test_foregrounds_and_mattes_beside(clips: Path, clip: Path, tmp_path: Path) -> None:
    """From one run, in folders of their own that lie in the input and are no input."""
    (clips / "b.mp4").unlink()
    shutil.copy(clip, clips / "c.avi")
    fg, mattes, out = clips / "fg", tmp_path / "mattes", tmp_path / "out"
    arguments = (clips, *RED, "--alpha-out", fg, "--matte-out", mattes, "-o", out, "--recursive")
    run = vidbg(*arguments)
    assert run.returncode == 0, run.stderr
    stems = ["a", "c", "c.mov", "sub/d"]
    assert set(files(out)) == {f"{stem}.vidbg.mp4" for stem in stems}
    assert set(files(fg)) == {f"{stem}.alpha.vidbg.mov" for stem in stems}
    assert set(files(mattes)) == {f"{stem}.matte.vidbg.mp4" for stem in stems}
    assert stream_facts(fg / "sub/d.alpha.vidbg.mov").pix_fmt.startswith("yuva444p")
    written = [out / "a.vidbg.mp4", fg / "a.alpha.vidbg.mov", mattes / "a.matte.vidbg.mp4"]
    assert set(map(str, written)) <= set(run.stdout.split())

    again = dict.fromkeys(("a.mp4", "c.avi", "c.mov", "d.mp4"), "skipped")
    assert results(vidbg(*arguments, "--json")) == again
    # One of three is gone, whichever it is: all are made anew, and nothing else is.
    for gone in written:
        gone.unlink()
        run = vidbg(*arguments, "--json")
        assert results(run) == {**again, "a.mp4": "done"}
        done = next(event for event in events(run) if event["event"] == "done")
        assert done["also"] == [str(path) for path in written[1:]]
        assert gone.exists()
    # By itself a clip keeps to its own names.
    before = (fg / "c.alpha.vidbg.mov").stat().st_mtime_ns
    alone = vidbg(clips / "c.mov", "--force", *arguments[1:-1])
    assert alone.returncode == 0, alone.stderr
    assert str(fg / "c.mov.alpha.vidbg.mov") in alone.stdout
    assert (fg / "c.alpha.vidbg.mov").stat().st_mtime_ns == before
    # What somebody else put there stays.
    shutil.copy(clip, mattes / "a.matte.vidbg.mp4")
    run = vidbg(*arguments, "--json")
    assert results(run) == {**again, "a.mp4": "failed"}
    assert "exists already" in run.stdout
    assert (mattes / "a.matte.vidbg.mp4").read_bytes() == clip.read_bytes()
    run = vidbg(clips, clips / "sub", *RED, "--matte-out", tmp_path / "m", "-o", tmp_path / "o")
    assert files(tmp_path / "m")[0] == "clips/a.matte.vidbg.mp4"
    assert files(tmp_path / "m")[-1] == "sub/d.matte.vidbg.mp4"


def test_ready_mattes_of_single_clips(clips: Path, clip: Path, tmp_path: Path) -> None:
    """They lie among the clips, as does a background of one's own, and are no clips."""
    (clips / "b.mp4").unlink()
    flat = bytes([255] * 64 * 48 * 5)
    make_clip(clips / "white.mkv", size=(64, 48), raw=flat, raw_pix_fmt="gray", codec="ffv1",
              pix_fmt="gray", frames=5)  # fmt: skip
    shutil.copy(clip, clips / "office.mp4")
    (clips / "vidbg.toml").write_text(
        'model = "chroma"\nkey = "green"\nbg = "red"\noutput = "../out"\n'
        '[clips."a.mp4"]\nmatte-in = "white.mkv"\n[clips."c.*"]\nbg = "office.mp4"\n'
    )
    run = vidbg(clips, "--device", "cpu", "--codec", "ffv1", "--json")
    assert results(run) == {"a.mp4": "done", "c.mov": "done"}
    made = decode_planes(tmp_path / "out/a.vidbg.mkv", "yuv420p")
    own = decode_planes(clips / "a.mp4", "yuv420p")
    assert all((one == other).all() for one, other in zip(made, own, strict=True))


def test_numbered_pictures_beside_clips(clips: Path, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    flat = bytes([200] * 64 * 48) + bytes([128] * 2 * 32 * 24)
    make_clip(frames / "1.png", size=(64, 48), raw=flat, pix_fmt="rgb24", frames=1)
    shutil.copy(frames / "1.png", frames / "2.png")
    out = tmp_path / "out"
    run = vidbg(".", clips / "a.mp4", *RED, "-o", out, "--json", cwd=frames)
    assert results(run) == {"": "done", "a.mp4": "done"}
    assert files(out) == ["a.vidbg.mp4", "frames.vidbg.mp4"]
    # Where the result of one alone would lie too.
    for result in ("done", "skipped"):
        run = vidbg("../frames", clips / "a.mp4", *RED, "--json", cwd=frames)
        assert results(run) == {"frames": result, "a.mp4": result}
    assert stream_facts(tmp_path / "frames.vidbg.mp4").frames == 2
    assert files(frames) == ["1.png", "2.png"]
    # One that is no good stops no other.
    (tmp_path / "two").mkdir()
    for name in ("a1.png", "b1.png"):
        shutil.copy(frames / "1.png", tmp_path / "two" / name)
    run = vidbg(tmp_path / "two", clips / "c.mov", *RED, "--json")
    assert results(run) == {"two": "failed", "c.mov": "done"}
    # And as a background, by a pattern that starts from the file's folder.
    (clips / "b.mp4").unlink()
    (clips / "vidbg.toml").write_text('bg = "../frames/%d.png"\nmodel = "chroma"\nkey = "green"')
    assert results(vidbg(clips, "--force", "--json")) == {"a.mp4": "done", "c.mov": "done"}


def test_folders_of_pictures_as_results(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    out = tmp_path / "out"
    arguments = (clips, "--alpha", *KEYED, "-o", out, "--format", "png")
    run = vidbg(*arguments)
    assert run.returncode == 0, run.stderr
    assert "resumed" not in run.stderr  # which nobody asked for
    assert files(out)[0] == "a.vidbg/a_000001.png"
    assert len(files(out)) == 10
    # File managers leave notes in folders.
    (out / "a.vidbg/.DS_Store").write_text("icons")
    (out / "a.vidbg/Thumbs.db").write_text("thumbnails")
    assert results(vidbg(*arguments, "--json")) == {"a.mp4": "skipped", "c.mov": "skipped"}
    (out / "a.vidbg/a_000003.png").unlink()
    shutil.rmtree(out / "c.vidbg")
    run = vidbg(*arguments, "--json")
    assert (results(run)["a.mp4"], results(run)["c.mov"]) == ("failed", "done")
    assert results(vidbg(*arguments, "-y", "--json"))["a.mp4"] == "done"
    assert (out / "a.vidbg/Thumbs.db").exists()


def test_what_a_shell_makes_of_a_star(clips: Path) -> None:
    """The second time results are among the files; they are not worked on."""
    (clips / "b.mp4").unlink()
    for result in ("done", "skipped"):
        given = sorted(path for path in clips.glob("[!.]*") if path.suffix in (".mp4", ".mov"))
        run = vidbg(*given, *RED, "--json")
        assert results(run) == {"a.mp4": result, "c.mov": result}
    run = vidbg(*given, *RED)
    assert f"{clips / 'a.vidbg.mp4'}: left out" in run.stderr


def test_a_mistyped_folder_is_not_made(clips: Path, tmp_path: Path) -> None:
    run = vidbg(clips / "a.mp4", tmp_path / "clisp/c.mov", *RED, "--json")
    assert results(run) == {"a.mp4": "done", "c.mov": "failed"}
    assert not (tmp_path / "clisp").exists()


def test_backgrounds_by_name(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    behind = clips / "bg"  # inside the input, and yet no clips
    (behind / "sub").mkdir(parents=True)
    flat = bytes([200] * 64 * 48) + bytes([128] * 2 * 32 * 24)
    make_clip(behind / "a.png", size=(64, 48), raw=flat, pix_fmt="rgb24", frames=1)
    make_clip(behind / "sub/d.mp4", size=(64, 48), frames=5)
    run = vidbg(clips, "--bg-dir", behind, *KEYED, "-o", tmp_path / "out", "--recursive", "--json")
    assert run.returncode == 1
    assert results(run) == {"a.mp4": "done", "d.mp4": "done", "c.mov": "failed"}
    error = next(event for event in events(run) if event["event"] == "error")
    assert str(behind / "c.*") in str(error["message"])


def test_jobs_at_once_write_what_one_after_another_would(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    for jobs in ("1", "2", "auto"):
        out = tmp_path / jobs
        assert vidbg(clips, *RED, "-o", out, "--recursive", "--jobs", jobs).returncode == 0
    assert len(files(tmp_path / "1")) == 3
    for name in files(tmp_path / "1"):
        one, two = (decode_planes(tmp_path / jobs / name, "yuv420p") for jobs in ("1", "2"))
        assert [len(plane) for plane in one] == [5, 5, 5]
        assert all((a == b).all() for a, b in zip(one, two, strict=True))


@pytest.mark.skipif(os.name != "posix", reason="needs a terminal")
def test_bars_on_a_terminal(long_clips: Path, tmp_path: Path) -> None:
    """One for all and one for each clip that runs, and what is said comes above them."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    inputs = [long_clips / name for name in ("1.mp4", "2.mp4")]
    job = subprocess.Popen(
        [VIDBG, *inputs, *RED, "-o", tmp_path / "out", "--jobs", "2"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 1 << 16)
        except OSError:  # Linux says so when the other side is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    assert job.wait(60) == 0
    text = shown.decode()
    lines = [line for line in text.replace("\r", "\n").split("\n") if "|" in line]
    assert any(line.startswith("all ") and "1/2 clips" in line for line in lines)
    assert any("2.mp4" in line and "/250" in line and "fps" in line for line in lines)
    assert f"{tmp_path}/out/2.vidbg.mp4" in text
    assert text.rstrip().splitlines()[-1].startswith("2 done, in ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{clips}", "--bg", "red", "-o", "x.mp4"], 2, ["-o", "folder"]),
        (["{clips}", "--bg", "red", "-o", "{clips}/notes.txt"], 2, ["-o", "folder"]),
        (["{clips}/a.mp4", "--bg", "red", "--watch"], 2, ["--watch is for folders"]),
        (["{clips}", "--bg", "red", "--jobs", "0"], 2, ["--jobs"]),
        (["{clips}"], 2, ["--bg", "--alpha", "--matte"]),
        (["{clips}", "--bg", "red", "--crf", "99"], 2, ["--crf"]),
        (["{clips}", "--bg", "{clips}/no.jpg", *KEYED], 1, ["no.jpg", "no such file"]),
        (["{clips}", "--bg-dir", "{clips}/no"], 2, ["--bg-dir"]),
        (["{clips}", "--bg", "red", "--bg-dir", "{clips}/sub"], 2, ["--bg or --bg-dir"]),
        (["{clips}", "--bg", "{clips}/%d.png", *KEYED], 1, ["%d.png", "no file fits"]),
        (["{clips}", "--matte", "--alpha-out", "fg.mov"], 2, ["--alpha-out", "folder"]),
        (["{clips}", "--bg", "red", "--matte-in", "m.mkv"], 2, ["--matte-in", "vidbg.toml"]),
        (["{clips}", "--bg", "red", "--allow-playlists"], 2, ["--allow-playlists is for one clip"]),
        (["{clips}/empty", "--bg", "red"], 1, ["empty", "there is no video in it"]),
        (["--bg", "red"], 2, ["Missing", "INPUT"]),
    ],
)
def test_wrong_usage(clips: Path, arguments: list[str], code: int, words: list[str]) -> None:
    (clips / "empty").mkdir()
    before = sorted(clips.rglob("*"))
    run = vidbg(*(argument.format(clips=clips) for argument in arguments), cwd=clips.parent)
    assert_one_line(run, code, *words)
    assert sorted(clips.rglob("*")) == before


def test_two_batches_on_one_folder(clips: Path, tmp_path: Path) -> None:
    from vidbg.ledger import Ledger

    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out"):
        run = vidbg(clips, *RED, "-o", tmp_path / "out")
    assert_one_line(run, 1, "out", "another batch works on this folder")


def started(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [VIDBG, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short clip and three that take seconds."""
    folder = tmp_path_factory.mktemp("long")
    make_clip(folder / "1.mp4", size=(64, 48), frames=5)
    make_clip(folder / "2.mp4", size=(320, 240), frames=250)
    for name in ("3.mp4", "4.mp4"):
        shutil.copy(folder / "2.mp4", folder / name)
    return folder


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_and_gone_on_with(long_clips: Path, tmp_path: Path, how: int) -> None:
    out = tmp_path / "out"
    arguments = (long_clips, *RED, "-o", out, "--jobs", "2", "--json")
    job = started(*arguments)
    wait_for(lambda: (out / "1.vidbg.mp4").exists() and len(list(out.glob("[234].*.mp4"))) > 0)
    time.sleep(0.3)
    children = psutil.Process(job.pid).children(recursive=True)
    job.send_signal(how)
    stdout, stderr = job.communicate(timeout=20)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    if how != signal.SIGKILL:
        assert job.returncode == 130, stderr
        summary = json.loads(stdout.splitlines()[-1])
        assert summary["was_interrupted"]
        assert summary["done"] >= 1
        assert summary["interrupted"] >= 1
        assert not list(out.glob("*.part.*"))
    run = vidbg(*arguments)
    assert run.returncode == 0, run.stderr
    assert results(run)["1.mp4"] == "skipped"
    assert "done" in results(run).values()
    for name in ("2", "3", "4"):
        assert stream_facts(out / f"{name}.vidbg.mp4").frames == 250
    for part in out.glob("*.part.*"):  # of the run that was killed
        assert how == signal.SIGKILL
        part.unlink()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_watching(tmp_path: Path, clip: Path) -> None:
    """A clip that comes in pieces is taken when the last is there, and only then."""
    folder, out = tmp_path / "clips", tmp_path / "out"
    folder.mkdir()
    shutil.copy(clip, folder / "first.mp4")
    content = make_clip(tmp_path / "whole.mp4", size=(64, 48), frames=30).read_bytes()
    (folder / "vidbg.toml").write_text('[clips."wrong*"]\ncrf = 99\n')
    shutil.copy(clip, folder / "wrong.mp4")
    job = started(folder, *RED, "-o", out, "--watch", "--json")
    pieces = 8
    size = -(-len(content) // pieces)
    with (folder / "second.mp4").open("wb") as stream:
        for n in range(pieces):
            stream.write(content[n * size : (n + 1) * size])
            stream.flush()
            assert not (out / "second.vidbg.mp4").exists()
            time.sleep(0.6)
    wait_for(lambda: all((out / f"{name}.vidbg.mp4").exists() for name in ("first", "second")))
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    stdout, stderr = job.communicate(timeout=20)
    assert job.returncode == 1, stderr
    told = [json.loads(line) for line in stdout.splitlines()]
    errors = [event for event in told if event["event"] == "error"]
    assert [event["clip"] for event in errors] == [str(folder / "wrong.mp4")]
    assert "0 to 51" in errors[0]["message"]
    assert {Path(c["clip"]).name: (c["result"], c["frames"]) for c in told[-1]["clips"]} == {
        "first.mp4": ("done", 5),
        "second.mp4": ("done", 30),
        "wrong.mp4": ("failed", 0),
    }


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_watching_nothing(tmp_path: Path) -> None:
    job = started(tmp_path, *RED, "--watch")
    said = ""
    while "Ctrl-C" not in said:
        said += job.stderr.readline()  # type: ignore[union-attr]
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate(timeout=20)
    assert job.returncode == 0
    assert "no clip" in stderr


def test_settings_in_the_folder(clips: Path, tmp_path: Path) -> None:
    (clips / "b.mp4").unlink()
    (clips / "vidbg.toml").write_text(
        'bg = "red"\nmodel = "chroma"\nkey = "green"\nrecursive = true\noutput = "../out"\n'
        '[clips."c.*"]\nalpha = true\n[clips."nobody*"]\ncrf = 3\n'
    )
    run = vidbg(clips)
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "out") == ["a.vidbg.mp4", "c.vidbg.mov", "sub/d.vidbg.mp4"]
    assert "clips/vidbg.toml" in run.stderr
    assert "warning: " in run.stderr
    assert '[clips."nobody*"] means no clip' in run.stderr
    # The command line beats it; and one clip has its settings too.
    run = vidbg(clips, "--matte", "-o", tmp_path / "mattes", "--codec", "ffv1")
    assert run.returncode == 0, run.stderr
    assert files(tmp_path / "mattes") == ["a.vidbg.mkv", "c.vidbg.mkv", "sub/d.vidbg.mkv"]
    one = vidbg(clips / "c.mov", "--config", clips / "vidbg.toml", "-o", tmp_path / "c.mov")
    assert one.returncode == 0, one.stderr
    assert stream_facts(tmp_path / "c.mov").pix_fmt.startswith("yuva444p")
    (clips / "vidbg.toml").write_text("smoth = 1\n")
    assert_one_line(vidbg(clips, "--bg", "red"), 1, "vidbg.toml: smoth: no such setting", "smooth")


def test_settings_are_printed_as_they_are_read(clips: Path, tmp_path: Path) -> None:
    (clips / "vidbg.toml").write_text('bg = "red"\n[clips."c.*"]\nalpha = true\n')
    run = vidbg(clips, "--crf", "23", "--print-config")
    assert run.returncode == 0, run.stderr
    assert 'bg = "red"' in run.stdout
    assert "crf = 23" in run.stdout
    (tmp_path / "printed.toml").write_text(run.stdout)
    again = vidbg(clips, "--config", tmp_path / "printed.toml", "--print-config")
    assert again.stdout.splitlines()[1:] == run.stdout.splitlines()[1:]
    assert vidbg("--print-config").returncode == 0

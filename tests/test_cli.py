"""The installed ``vidbg`` command, as a user runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from checkpoints import random_u2netp
from clips import decode_planes, make_clip, run_ffmpeg, stream_facts

SAMPLES = Path(__file__).parent.parent / "samples"
GREEN = str(SAMPLES / "talk.green.mp4")
VIDBG = str(Path(sys.executable).with_name("vidbg"))


def vidbg(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [VIDBG, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(
        tmp_path_factory.mktemp("cli") / "clip.mp4", size=(96, 64), frames=6, rate="24000/1001"
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_u2netp(tmp_path_factory.mktemp("weights") / "random.pth", seed=3)


def assert_one_line(run: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert run.returncode == code, run.stderr
    lines = run.stderr.strip().splitlines()
    if code == 2:  # click shows the usage above the line that counts
        lines = [line for line in lines if line.startswith("Error")]
    assert len(lines) == 1, run.stderr
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in lines[0]


def test_the_whole_job_with_a_network(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    run = vidbg(clip, "--bg", SAMPLES / "stars.mp4", "--weights", checkpoint, "-o", out)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{out}\n"
    facts = stream_facts(out)
    assert (facts.frames, str(facts.rate)) == (6, "24000/1001")


def test_the_whole_job_with_what_is_built_in(tmp_path: Path) -> None:
    """No options, no download: the network that comes with vidbg finds the person."""
    folder = tmp_path / "weights"
    unreachable = {"HTTPS_PROXY": "http://127.0.0.1:9", "VIDBG_WEIGHTS_DIR": str(folder)}
    matte = tmp_path / "matte.mkv"
    talk = SAMPLES / "talk.mp4"
    run = vidbg(talk, "--matte", "--end", "0.1", "-o", matte, env=os.environ | unreachable)
    assert run.returncode == 0, run.stderr
    # Nothing but what OpenVINO has made of it.
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".blob"}
    planes = [
        decode_planes(path, "gray", count=1)[0][0] for path in (matte, SAMPLES / "talk.alpha.mkv")
    ]
    found, truth = (plane > plane.max() / 2 for plane in planes)
    assert (found & truth).sum() / (found | truth).sum() > 0.8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([GREEN], ["--bg", "--alpha", "--matte"]),
        ([GREEN, "--alpha", "--matte"], ["Choose one"]),
        ([GREEN, "--bg", "red", "-o", "x.xyz"], ["x.xyz", "unknown extension"]),
        ([GREEN, "--bg", "red", "-o", "noextension"], ["noextension", "extension"]),
        ([GREEN, "--bg", "red", "-o", GREEN], ["the output is the input"]),
        ([GREEN, "--alpha", "-o", "x.mp4"], ["x.mp4", "transparency", ".mov"]),
        ([GREEN, "--bg", "red", "-o", "x.webm", "--codec", "h264"], ["x.webm", "vp9"]),
        ([GREEN, "--bg", "red", "--start", "12:99"], ["12:99", "not a time"]),
        ([GREEN, "--alpha", "--codec", "av1", "-o", "x.webm"], ["AV1", "transparency", "vp9"]),
        ([GREEN, "--alpha", "-o", "x.mov", "--alpha-out", "x.mov"], ["x.mov", "written twice"]),
        ([GREEN, "--alpha", "-o", "x.mov", "--matte-out", GREEN], ["--matte-out", "the input"]),
        ([GREEN, "--bg", "red", "--alpha-out", "x.mp4"], ["--alpha-out", "transparency"]),
        ([GREEN, "--bg", "red", "--premultiplied"], ["--premultiplied is for --alpha"]),
        ([GREEN, "--alpha", "-o", "x.webm", "--premultiplied"], ["--premultiplied", "straight"]),
        ([GREEN, "--alpha", "-o", "x.mov", "--zip"], ["-o", "NAME.zip"]),
        ([GREEN, "--alpha", "--zip", "--format", "webm"], ["--zip", "webm"]),
        ([GREEN, "--alpha", "--format", "mp4"], ["transparency"]),
        ([GREEN, "--bg", "red", "--bitrate", "8M", "--crf", "20"], ["--bitrate", "choose one"]),
        ([GREEN, "--bg", "red", "--bitrate", "fast"], ["--bitrate", "fast", "8M"]),
        ([GREEN, "--bg", "red", "--pix-fmt", "rgb24"], ["--pix-fmt", "rgb24", "yuv420p"]),
        ([GREEN, "--alpha", "--pix-fmt", "yuv444p10le"], ["--pix-fmt", "no transparency"]),
        ([GREEN, "--bg", "red", "--scale", "641x-1"], ["--scale", "even"]),
        ([GREEN, "--bg", "red", "--scale", "wide"], ["--scale", "1280x720"]),
        ([GREEN, "--bg", "red", "--fps", "0"], ["--fps"]),
        ([GREEN, "--bg", "red", "--hwaccel", "h264_warp"], ["--hwaccel", "h264_nvenc"]),
        (
            [GREEN, "--bg", "red", "--codec", "hevc", "--hwaccel", "h264_qsv"],
            ["--hwaccel", "does not make hevc"],
        ),
        ([GREEN, "--bg", "red", "--crf", "99"], ["--crf", "0 to 51"]),
        ([GREEN, "--bg", "red", "--preset", "warp"], ["--preset", "veryfast"]),
        ([GREEN, "--bg", "red", "--model", "nonesuch"], ["nonesuch", "u2netp"]),
        ([GREEN, "--bg", "red", "--key", "blue"], ["--model chroma"]),
        ([GREEN, "--bg", "red", "--in-fps", "24"], ["--in-fps", "picture sequences"]),
        ([GREEN, "--bg", "red", "--in-fps", "fast"], ["fast", "no frame rate"]),
        (["-", "--bg", "red"], ["-o"]),
        (["-", "--bg", "red", "-o", "x.mp4", "--watch"], ["--watch is for"]),
        (["-", "--bg-dir", ".", "-o", "x.mp4"], ["--bg-dir is for"]),
        (["-", "--bg", "red", "-o", "x.mp4", "--resume"], ["--resume is for files"]),
        (["https://example.invalid/a.mp4", "--bg", "red", "-o", "x.mp4"], ["--allow-url"]),
        ([GREEN, "--bg", "http://example.invalid/a.mp4"], ["--allow-url"]),
        (["http://example.invalid/a.mp4", "--bg", "red", "--allow-url"], ["-o"]),
        (["-", "--bg", "red", "-o", "x.mp4", "--resume"], ["--resume", "files"]),
        ([GREEN, "--bg", "http://x.invalid/a.mp4", "--allow-url", "--resume"], ["--resume"]),
        (["rtsp://example.invalid/a", "--bg", "red", "--allow-url", "-o", "x.mp4"], ["http"]),
        ([GREEN, "--bg", "blur:wide"], ["--bg", "wide"]),
        ([GREEN, "--alpha", "--bg-fit", "contain"], ["--bg-fit is for --bg"]),
        ([GREEN, "--matte", "--audio", "mix"], ["--audio mix is for --bg"]),
        ([GREEN, "--bg", "red", "--smooth", "2"], ["--smooth"]),
        ([GREEN, "--bg", "red", "--edges", "best"], ["--edges", "fine"]),
        ([GREEN, "--bg", "red", "--grow", "2", "--shrink", "2"], ["--grow or --shrink"]),
        ([GREEN, "--bg", "red", "--shrink", "-2"], ["--shrink"]),
        ([GREEN, "--bg", "red", "--feather", "nan"], ["--feather", "nan"]),
        ([GREEN, "--bg", "red", "--smooth", "nan"], ["--smooth", "nan"]),
        ([GREEN, "--bg", "red", "--start", "2", "--end", "0:02"], ["--end", "--start"]),
        ([GREEN, "--bg", "red", "--end", "0"], ["--end"]),
        ([GREEN, "--bg", "red", "--device", "toaster"], ["toaster", "cuda"]),
        ([GREEN, "--bg", "red", "--model", "chroma", "--key", "mauvish"], ["mauvish"]),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(arguments: list[str], words: list[str]) -> None:
    assert_one_line(vidbg(*arguments), 2, *words)


def test_bad_input_is_one_line_and_code_1(tmp_path: Path, clip: Path, checkpoint: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("this is not a video\n" * 50)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    (tmp_path / "folder").mkdir()
    sound = tmp_path / "sound.m4a"
    run_ffmpeg("-f", "lavfi", "-t", "0.2", "-i", "sine", f"file:{sound}")
    before = sorted(tmp_path.iterdir())
    common = ("--bg", "red", "--model", "chroma")
    out = ("-o", tmp_path / "out.mp4")
    assert_one_line(vidbg(tmp_path / "no.mp4", *common, *out), 1, "no.mp4", "no such file")
    assert_one_line(vidbg(text, *common, *out), 1, "notes.mp4", "not a video")
    assert_one_line(vidbg(empty, *common, *out), 1, "empty.mp4", "empty")
    assert_one_line(vidbg(tmp_path / "folder", *common), 1, "folder", "no video", "--recursive")
    assert_one_line(vidbg(sound, *common, *out), 1, "sound.m4a", "no video")
    assert_one_line(
        vidbg(clip, *common, "-o", tmp_path / "no/out.mp4"), 1, "out.mp4", "folder does not exist"
    )
    assert_one_line(
        vidbg(clip, "--bg", tmp_path / "no.jpg", "--model", "chroma", "--key", "green", *out),
        1,
        "no.jpg",
        "no such file",
    )
    assert_one_line(
        vidbg(clip, "--bg", "red", "--weights", text, *out), 1, "notes.mp4", "checkpoint"
    )
    half = tmp_path / "half.pth"
    half.write_bytes(checkpoint.read_bytes()[:100_000])
    assert_one_line(vidbg(clip, "--bg", "red", "--weights", half, *out), 1, "half.pth")
    half.unlink()
    assert sorted(tmp_path.iterdir()) == before


def test_names_that_are_hard_to_show(tmp_path: Path) -> None:
    odd = tmp_path / "two  words\nand\x1b[2J.mp4"
    run = vidbg(odd, "--bg", "red", "-o", tmp_path / "out.mp4")
    assert_one_line(run, 1, r"two  words\nand\x1b[2J.mp4: no such file")
    run = vidbg(GREEN, "--bg", "red", "-o", tmp_path / f"{300 * 'a'}.mp4")
    assert_one_line(run, 1, f"{300 * 'a'}.mp4: File name too long")


@pytest.mark.skipif(os.name != "posix", reason="closes the standard streams")
def test_closed_standard_streams_do_no_harm(clip: Path, tmp_path: Path) -> None:
    def close() -> None:
        for number in range(3):
            os.close(number)

    options = ("--bg", "red", "--model", "chroma", "--key", "green", "-o", tmp_path / "out.mp4")
    # Nothing is captured, as there is nothing to write to.
    job = subprocess.run([VIDBG, clip, *options], preexec_fn=close, timeout=60)
    assert job.returncode == 0
    assert stream_facts(tmp_path / "out.mp4").frames == 6


@pytest.mark.skipif(os.name != "posix", reason="shell pipes")
@pytest.mark.parametrize("arguments", [["--help"], ["models"], ["probe", GREEN], [GREEN, "--json"]])
def test_a_reader_that_goes_away(arguments: list[str], tmp_path: Path) -> None:
    job = ["--bg", "red", "--model", "chroma", "-o", str(tmp_path / "out.mp4")]
    readable, writable = os.pipe()
    os.close(readable)
    run = subprocess.run(
        [VIDBG, *arguments, *(job if "--json" in arguments else [])],
        stdout=writable,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writable)
    assert run.returncode == 1
    assert "Broken pipe" not in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_needs_asking(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    arguments = (clip, "--bg", "red", "--model", "chroma", "--key", "green", "-o", out)
    assert_one_line(vidbg(*arguments), 1, "out.mp4", "exists already", "-y")
    assert out.read_text() == "precious"
    assert vidbg(*arguments, "-y").returncode == 0
    assert stream_facts(out).frames == 6


def test_the_default_name_lies_beside_the_input(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "my clip.mkv", size=(64, 48), frames=3)
    run = vidbg(clip, "--bg", "red", "--model", "chroma", "--key", "green")
    assert run.returncode == 0, run.stderr
    assert stream_facts(tmp_path / "my clip.vidbg.mp4").frames == 3
    assert vidbg(clip, "--alpha", "--model", "chroma", "--key", "green").returncode == 0
    assert stream_facts(tmp_path / "my clip.vidbg.mov").frames == 3


def test_several_outputs_and_their_formats(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=(96, 64), frames=4)
    common = ("--model", "chroma", "--key", "green")
    frames = [f"clip_{number:06}.png" for number in range(1, 5)]
    outs = [tmp_path / "fg.webm", tmp_path / "mattes"]
    run = vidbg(
        clip, "--bg", "red", *common, "--alpha-out", outs[0], "--matte-out", f"{outs[1]}/",
        "--scale", "48x-1", "--fps", "50",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [
        str(tmp_path / "clip.vidbg.mp4"),
        str(outs[0]),
        str(outs[1] / "clip_%06d.png"),
    ]
    for path in (tmp_path / "clip.vidbg.mp4", outs[0]):
        facts = stream_facts(path)
        assert (facts.frames, facts.width, facts.height) == (8, 48, 32)
    assert len(list(outs[1].iterdir())) == 8

    assert vidbg(clip, "--alpha", *common, "--format", "png").returncode == 0
    assert sorted(p.name for p in (tmp_path / "clip.vidbg").iterdir()) == frames
    assert vidbg(clip, "--alpha", *common, "--zip").returncode == 0
    with zipfile.ZipFile(tmp_path / "clip.vidbg.zip") as archive:
        assert [name.rpartition("_")[2] for name in archive.namelist()] == [
            name.rpartition("_")[2] for name in frames
        ]
    (tmp_path / "there").mkdir()
    assert vidbg(clip, "--matte", *common, "-o", tmp_path / "there").returncode == 0
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == frames
    odd = tmp_path / "movie.data"
    assert vidbg(clip, "--alpha", *common, "--format", "mov", "-o", odd).returncode == 0
    assert (stream_facts(odd).container, stream_facts(odd).codec) == (
        "mov,mp4,m4a,3gp,3g2,mj2",
        "prores",
    )


def test_a_gpu_that_is_not_there(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    out = tmp_path / "out.mp4"
    run = vidbg(clip, "--bg", "red", "--weights", checkpoint, "--device", "cuda", "-o", out)
    assert_one_line(run, 1, "CUDA", "--device cpu")
    assert not out.exists()


def test_a_checkpoint_of_another_architecture(clip: Path, tmp_path: Path) -> None:
    import torch

    other = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(8, 3, 3, 3)}, other)
    run = vidbg(clip, "--bg", "red", "--weights", other, "-o", tmp_path / "out.mp4")
    assert_one_line(run, 1, "resnet.pth", "none of the networks", "u2netp")


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails, as on a full disk

    out = tmp_path / "out.mp4"
    run = vidbg(
        GREEN, "--bg", SAMPLES / "stars.mp4", "--model", "chroma", "-o", out, "-q",
        preexec_fn=limit,
    )  # fmt: skip
    assert_one_line(run, 1, "out.mp4", "cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_json_lines(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    options = ("--bg", "red", "--model", "chroma", "--key", "green", "--json", "-o", out)
    run = vidbg(clip, *options)
    events = [json.loads(line) for line in run.stdout.splitlines()]
    assert [event["event"] for event in events if event["event"] != "progress"] == ["start", "done"]
    assert events[0]["frames"] == events[-1]["frames"] == 6
    assert events[0]["frame_rate"] == "24000/1001"
    assert events[-1]["output"] == str(out)

    run = vidbg(tmp_path / "no.mp4", *options)
    (error,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert error["event"] == "error"
    assert error["path"] == str(tmp_path / "no.mp4")
    assert run.returncode == 1

    run = vidbg(clip, "--json")
    error = json.loads(run.stdout)
    assert (error["event"], error["type"], run.returncode) == ("error", "UsageError", 2)
    assert "--bg" in error["message"]


def test_quiet_says_nothing(clip: Path, tmp_path: Path) -> None:
    run = vidbg(
        clip, "--bg", "red", "--model", "chroma", "--key", "green", "-q", "-o", tmp_path / "o.mp4"
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_debug_shows_a_traceback(tmp_path: Path) -> None:
    run = vidbg(tmp_path / "no.mp4", "--bg", "red", "--debug")
    assert run.returncode == 1
    assert "Traceback" in run.stderr


def test_probe_says_what_a_file_is(clip: Path, tmp_path: Path) -> None:
    shown = json.loads(vidbg("probe", clip, "--json").stdout)
    assert (shown["width"], shown["height"], shown["frames"]) == (96, 64, 6)
    assert shown["frame_rate"] == "24000/1001"
    assert "24000/1001" in vidbg("probe", clip).stdout
    assert_one_line(vidbg("probe", tmp_path / "no.mp4"), 1, "no.mp4", "no such file")


def test_a_word_that_names_a_command_is_the_command(tmp_path: Path) -> None:
    make_clip(tmp_path / "probe.mkv", size=(64, 48), frames=2).rename(tmp_path / "probe")
    run = vidbg("probe", "probe", cwd=tmp_path)
    assert "64x48" in run.stdout
    run = vidbg(
        "./probe", "--bg", "red", "--model", "chroma", "--key", "green", "-o", "o.mp4", cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr


def test_version_and_module(tmp_path: Path) -> None:
    import vidbg as package

    assert vidbg("--version").stdout == f"vidbg {package.__version__}\n"
    module = subprocess.run(
        [sys.executable, "-m", "vidbg", "--version"], capture_output=True, text=True, check=True
    )
    assert module.stdout == f"vidbg {package.__version__}\n"


def heed_signals() -> None:
    """Undo what nohup or a shell's background jobs hand down: signals that are ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_signal_ends_a_network_and_leaves_nothing(tmp_path: Path) -> None:
    job = subprocess.Popen(
        [
            VIDBG, str(SAMPLES / "talk.mp4"), "--bg", str(SAMPLES / "stars.mp4"),
            "--json", "-o", str(tmp_path / "out.mp4"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_signals,
    )  # fmt: skip
    assert job.stdout is not None
    for line in job.stdout:
        if json.loads(line)["event"] == "progress":
            break
    children = psutil.Process(job.pid).children(recursive=True)
    assert any("ffmpeg" in child.name() for child in children)
    began = time.monotonic()
    for _ in range(4):
        job.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    rest, said = job.communicate(timeout=30)
    # Two seconds is the promise; a loaded test machine gets some slack.
    assert time.monotonic() - began < 8
    assert job.returncode == 130
    assert "interrupted" in said
    assert json.loads(rest.splitlines()[-1])["event"] == "error"
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []
    assert not [child for child in children if child.is_running()]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_a_job_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    job = subprocess.Popen(
        [VIDBG, GREEN, "--bg", "red", "--model", "chroma", "--json", "-o", str(out)],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert job.stdout is not None
    job.stdout.readline()
    job.send_signal(signal.SIGHUP)
    job.communicate(timeout=60)
    assert job.returncode == 0
    assert out.exists()


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    arguments = (GREEN, "--bg", "red", "--model", "chroma", "-o", str(tmp_path / "out.mp4"))
    with subprocess.Popen([VIDBG, *arguments], stdout=theirs, stderr=theirs, stdin=theirs) as job:
        os.close(theirs)
        shown = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the terminal is gone with its last user
                break
            if not chunk:
                break
            shown += chunk
        assert job.wait(60) == 0
    os.close(ours)
    last_bar = shown.decode().splitlines()[-3]
    assert "100% |" in last_bar
    assert "150/150 frames, 0:05 of video, " in last_bar
    assert " fps, " in last_bar
    assert last_bar.endswith("left")


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux")
def test_names_of_any_bytes(clip: Path, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    name = folder + b"/-caf\xe9 %03d 'q' \n.mp4"
    with open(name, "wb") as copy:
        copy.write(clip.read_bytes())
    out = folder + b"/\xff\xfe.mkv"
    run = subprocess.run(
        [VIDBG, name, "--bg", "red", "--model", "chroma", "--key", "green", "-o", out],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == out + b"\n"
    assert os.path.getsize(out) > 500


def test_the_codec_chooses_the_container(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mkv", size=(64, 48), frames=2)
    common = ("--bg", "red", "--model", "chroma", "--key", "green")
    assert vidbg(clip, *common, "--codec", "ffv1").stdout == f"{tmp_path}/clip.vidbg.mkv\n"
    assert vidbg(clip, *common, "--codec", "prores").stdout == f"{tmp_path}/clip.vidbg.mov\n"


def test_a_screen_that_fades_in_is_found(tmp_path: Path) -> None:
    """The first frames are black; the key is the colour of the first screen after them."""
    black = bytes([16] * 96 * 64) + bytes([128] * 2 * 48 * 32)
    green = bytes([120] * 96 * 64) + bytes([60] * 48 * 32) + bytes([50] * 48 * 32)
    clip = make_clip(tmp_path / "clip.mkv", size=(96, 64), raw=3 * black + 3 * green)
    run = vidbg(clip, "--bg", "red", "--model", "chroma", "-o", tmp_path / "out.mp4")
    assert run.returncode == 0, run.stderr
    assert "key colour" in run.stderr
    run = vidbg(
        make_clip(tmp_path / "dark.mkv", size=(96, 64), raw=3 * black),
        "--bg", "red", "--model", "chroma", "-o", tmp_path / "dark.mp4",
    )  # fmt: skip
    assert_one_line(run, 1, "dark.mkv", "no green or blue screen", "--key")


def test_a_dangling_link_is_an_existing_output(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.symlink_to(tmp_path / "nowhere")
    arguments = (clip, "--bg", "red", "--model", "chroma", "--key", "green", "-o", out)
    assert_one_line(vidbg(*arguments), 1, "out.mp4", "exists already")


KEYED = ("--model", "chroma", "--key", "#00b140")


def test_numbered_pictures_are_a_clip(tmp_path: Path) -> None:
    folder = tmp_path / "shot"
    folder.mkdir()
    run_ffmpeg("-i", GREEN, "-frames:v", "8", "-f", "image2", f"file:{folder}/%04d.png")
    run = vidbg(folder, "--bg", "blue", *KEYED)
    assert run.returncode == 0, run.stderr
    assert "8 pictures, taken as 25 a second; --in-fps says otherwise" in run.stderr
    facts = stream_facts(tmp_path / "shot.vidbg.mp4")
    assert (facts.frames, facts.rate, facts.audio) == (8, 25, ())

    pattern = folder / "%04d.png"
    out = tmp_path / "out.mov"
    arguments = ("--alpha", *KEYED, "--in-fps", "23.976", "--start", "0.1", "-o", out)
    run = vidbg(pattern, *arguments)
    assert run.returncode == 0, run.stderr
    assert "--in-fps" not in run.stderr
    facts = stream_facts(out)
    assert (facts.frames, str(facts.rate)) == (5, "24000/1001")

    (folder / "0003.png").unlink()
    again = ("--bg", "blue", *KEYED, "-y")
    assert_one_line(vidbg(folder, *again, "-q"), 1, "no picture number 3", "--allow-damaged")
    run = vidbg(folder, *again, "--allow-damaged")
    assert run.returncode == 0, run.stderr
    assert stream_facts(tmp_path / "shot.vidbg.mp4").frames == 8


def test_standard_input_is_a_clip(tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    content = Path(GREEN).read_bytes()
    command = [VIDBG, "-", "--bg", "blue", *KEYED, "--end", "0.2", "-o", str(out)]
    run = subprocess.run(command, input=content, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert stream_facts(out).frames == 6
    assert list(tmp_path.iterdir()) == [out]
    pictures = tmp_path / "new"
    command[-1] = f"{pictures}/"
    run = subprocess.run(command, input=content, capture_output=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert min(path.name for path in pictures.iterdir()) == "new_000001.png"
    # Refused before anything is stored.
    run = subprocess.run(command, input=content, capture_output=True, timeout=120)
    assert run.returncode == 1
    assert b"exists already" in run.stderr
    assert b"stored" not in run.stderr
    shutil.rmtree(pictures)
    command[-1] = str(tmp_path / "text.mkv")
    run = subprocess.run(command, input=b"text\n" * 99, capture_output=True, timeout=120)
    assert (run.returncode, run.stderr.count(b"standard input: not a video")) == (1, 1)
    assert list(tmp_path.iterdir()) == [out]

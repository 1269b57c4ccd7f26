"""``vidbg … --profile``: what it says, and that it says nothing unless it is asked."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from checkpoints import random_u2netp
from clips import make_clip
from programs import told_by
from test_cli import SAMPLES, vidbg

from vidbg.cli.profiling import fields_of, lines_of, sentence
from vidbg.profile import STAGES, Profile, Queue, Spent

# The stages of a composite over a video, with a network on a CPU.
WITH_NETWORK = set(STAGES) - {"keyer", "archive", "upload", "download"}
KEYED = ("--model", "chroma", "--key", "green", "--bg", "red")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("profile") / "clip.mp4", size=(96, 64), frames=6)


def options_of(**given: object) -> dict[str, Any]:
    """Options as the command line has them, those that matter here."""
    usual = {"looks": "1", "every": "auto", "device": "cpu", "hwaccel": "none"}
    return usual | {"codec": None, "edges": None} | given


def dominated_by(stage: str, share: float = 0.714) -> Profile:
    """50 frames in 10 s."""
    return Profile(
        frames=50,
        wall_s=10.0,
        cpu_s=9.0,
        library_cpu_s=2.5,
        stages=(
            Spent(stage, 7.5, 0.5, 4.0, 2.0, share),
            Spent("other", 1.0, 0.0, 2.5, 0.0, 1 - share),
        ),
        queues=(Queue("decode", 1, 0.125, 0.25, 4.0),),
        bottleneck=stage,
    )


@pytest.mark.parametrize(
    ("stage", "given", "words"),
    [
        ("network", {}, ["The network takes 71% of the time: ", "NVIDIA"]),
        ("network", {"looks": "4"}, ["--looks 1 needs 1/4"]),
        ("network", {"every": "1"}, ["without --every 1"]),
        ("encode", {}, ["Encoding takes 71%", "--hwaccel auto", "--preset"]),
        ("encode", {"codec": "prores"}, ["--codec"]),
        ("refine", {"edges": "fine"}, ["--edges fast"]),
        ("refine", {}, ["--edges off"]),
        ("smooth", {}, ["--smooth 0"]),
        ("decode", {}, ["Decoding", "ProRes"]),
        ("background", {}, ["background", "size"]),
        ("start-up", {}, ["one command"]),
        ("foreground", {}, ["old background", "no option makes that faster"]),
        ("other", {}, ["no option makes that faster"]),
    ],
)
def test_one_sentence_names_what_is_slowest_and_the_way_out(
    stage: str, given: dict[str, object], words: list[str]
) -> None:
    said = sentence(dominated_by(stage), options_of(**given))
    for word in words:
        assert word in said
    assert re.fullmatch(r"[A-Z][^.]*\.", said)


def test_clips_done_in_one_command_are_not_told_to_be() -> None:
    assert "one command" not in sentence(dominated_by("start-up"), options_of(), is_batch=True)


def test_pytorch_is_not_loaded_to_say_a_sentence() -> None:
    program = """
        import sys
        from vidbg.cli.profiling import sentence
        from vidbg.profile import Profile, Spent
        network = Spent("network", 7.5, 0.5, 4.0, 2.0, 0.7)
        profile = Profile(50, 10.0, 9.0, 2.5, (network,), (), "network")
        options = {"looks": "1", "every": "auto", "device": "cpu"}
        assert "NVIDIA" in sentence(profile, options)
        print(*{"torch"} & set(sys.modules))
    """
    # In a process of its own: here others have loaded it.
    told = told_by(program)
    assert told.split() == []


def test_figures_are_those_of_a_frame() -> None:
    measured = dominated_by("network")
    lines = lines_of(measured, "It is slow.")
    assert lines[0] == "profile of 50 frames in 10.0 s:"
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["network"] == ["150.00", "71%", "80.00", "40.00"]
    assert rows["libraries"] == ["50.00"]
    assert rows["all"] == ["200.00", "180.00", "40.00"]
    assert rows["decode"] == ["12%", "0.2", "s", "4.0", "s"]
    assert lines[-1] == "It is slow."
    fields = fields_of(measured, "It is slow.")
    assert fields["cores_busy"] == 1.1
    assert fields["stages"][0] == {  # type: ignore[index]
        "stage": "network",
        "ms": 150.0,
        "ffmpeg_wait_ms": 10.0,
        "share": 0.714,
        "cpu_ms": 80.0,
        "ffmpeg_cpu_ms": 40.0,
    }
    assert json.loads(json.dumps(fields))["message"] == "It is slow."


def test_no_frame_is_no_division() -> None:
    empty = Profile(0, 1.0, 0.5, 0.0, (), (), "")
    assert lines_of(empty, "") == ["profile: no frame was made"]
    assert fields_of(empty, "")["ms"] is None


def test_all_stages_are_told_of(clip: Path, tmp_path: Path) -> None:
    checkpoint = random_u2netp(tmp_path / "random.pth", seed=3)
    out = tmp_path / "out.mp4"
    behind = SAMPLES / "stars.mp4"
    run = vidbg(clip, "--bg", behind, "--weights", checkpoint, "-o", out, "--profile", "-q")
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert re.match(r"profile of 6 frames in \d+\.\d s:", lines[0])
    table = lines[1 : lines.index(next(line for line in lines if line.startswith("libraries")))]
    assert {line.split()[0] for line in table[1:]} == WITH_NETWORK
    queues = [line.split()[0] for line in lines if line.endswith(" s")]
    assert queues == ["decode", "segment", "smooth", "background"]
    assert re.search(r" takes \d+% of the time[:;] ", lines[-1])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not say what FFmpeg took")
def test_a_script_gets_all_of_it_and_the_sums_are_the_systems(clip: Path, tmp_path: Path) -> None:
    """The oracle is what the kernel says that the command and its FFmpegs took."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = vidbg(clip, *KEYED, "-o", tmp_path / "out.mp4", "--profile", "--json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    measured = json.loads(run.stdout.splitlines()[-1])["profile"]
    names = [spent["stage"] for spent in measured["stages"]]
    assert names == sorted(names, key=STAGES.index)
    assert {"probe", "start-up", "decode", "keyer", "composite", "encode"} <= set(names)
    assert "network" in names  # what goes around the keyer
    assert measured["bottleneck"] in names
    assert sum(spent["share"] for spent in measured["stages"]) == pytest.approx(1, abs=0.01)
    taken_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    told_s = measured["frames"] * (measured["cpu_ms"] + measured["ffmpeg_cpu_ms"]) / 1000
    # Python's own start is not in it.
    assert 0.5 * taken_s < told_s <= taken_s + 0.01
    own_ms = sum(spent["cpu_ms"] for spent in measured["stages"])
    assert own_ms + measured["library_cpu_ms"] == pytest.approx(measured["cpu_ms"], rel=0.01)


def test_nobody_who_does_not_ask_is_told(clip: Path, tmp_path: Path) -> None:
    run = vidbg(clip, *KEYED, "-o", tmp_path / "out.mp4")
    assert run.returncode == 0, run.stderr
    assert "profile" not in run.stderr
    assert "of the time" not in run.stderr
    run = vidbg(clip, *KEYED, "-o", tmp_path / "out.mp4", "-y", "--json")
    assert "profile" not in json.loads(run.stdout.splitlines()[-1])


def test_a_folder_has_one_profile_of_all_clips(clip: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(clip, folder / name)
    command = (folder, *KEYED, "-o", tmp_path / "out", "--jobs", "2", "--profile")
    run = vidbg(*command, "--json")
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout.splitlines()[-1])
    assert summary["event"] == "summary"
    measured = summary["profile"]
    assert measured["frames"] == 3 * 6
    spent = {one["stage"]: one for one in measured["stages"]}
    assert {"decode", "keyer", "composite", "encode"} <= set(spent)
    assert min(spent[name]["ffmpeg_cpu_ms"] for name in ("decode", "encode")) > 0
    assert sum(one["share"] for one in measured["stages"]) == pytest.approx(1, abs=0.01)
    again = vidbg(*command)
    assert again.stderr.splitlines()[-1] == "profile: no frame was made"

"""Does a folder of clips that is killed again and again come out as one that is left alone?

    python benchmarks/interrupted.py CLIPS [--kills 3] [--seed 0] [-- OPTION...]

Runs `vidbg CLIPS -o FOLDER OPTION...` twice: once to its end, and once killed (SIGKILL) so many
times, at random moments of the time that the first took, and begun again each time. Both results
are decoded and compared: frames, frame rate, duration, and the sound's packets. While it runs, the
size of the second folder is sampled, with the work folders in it. OPTION defaults to --bg red.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import av

from vidbg.media.segments import is_work_folder

_SAMPLE_S = 0.05


def command(clips: Path, folder: Path, options: list[str]) -> list[str]:
    """Return the command line of the batch."""
    return [sys.executable, "-m", "vidbg", str(clips), "-o", str(folder), "-q", *options]


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder, those that vanish meanwhile left out."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def facts(path: Path) -> dict[str, object]:
    """Return what has to be the same: a digest of the frames, the rate, the length, the sound."""
    frames, sound = hashlib.sha256(), hashlib.sha256()
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        length = container.duration
        count = 0
        for frame in container.decode(video):
            for plane in frame.planes:
                frames.update(bytes(plane))
            count += 1
        rate = video.average_rate
    with av.open(str(path)) as container:
        if container.streams.audio:
            for packet in container.demux(container.streams.audio[0]):
                sound.update(f"{packet.pts} {packet.duration} ".encode() + bytes(packet))
    return {
        "frames": count,
        "rate": str(rate),
        "duration": length,
        "pictures": frames.hexdigest()[:16],
        "sound": sound.hexdigest()[:16],
    }


def main() -> None:
    """Run both and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("options", nargs="*", default=["--bg", "red"])
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        alone, killed = Path(name, "alone"), Path(name, "killed")
        began = time.monotonic()
        subprocess.run(command(options.clips, alone, options.options), check=True)
        took_s = time.monotonic() - began
        print(f"left alone: {took_s:.0f} s, {size_of(alone) / 1e6:.1f} MB")

        largest, is_over = 0, threading.Event()

        def watch() -> None:
            nonlocal largest
            while not is_over.wait(_SAMPLE_S):
                largest = max(largest, size_of(killed)) if killed.is_dir() else largest

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            for number in range(options.kills):
                wait_s = chance.uniform(0.15, 0.9) * took_s / options.kills
                batch = subprocess.Popen(command(options.clips, killed, options.options))
                try:
                    batch.wait(wait_s)
                    print(f"kill {number + 1}: it was done before {wait_s:.1f} s")
                except subprocess.TimeoutExpired:
                    batch.kill()
                    batch.wait()
                    there = sorted(p.name for p in killed.glob("*.vidbg.*"))
                    print(f"kill {number + 1} after {wait_s:.1f} s: {len(there)} clips finished")
            subprocess.run(command(options.clips, killed, options.options), check=True)
        finally:
            is_over.set()
            watcher.join()
        final = size_of(killed)
        print(f"killed: {final / 1e6:.1f} MB in the end, {largest / 1e6:.1f} MB at the most")
        left = [path.name for path in killed.iterdir() if is_work_folder(path)]
        print(f"work folders left: {', '.join(left) or 'none'}")

        print("| clip | frames | rate | same pictures | same sound | same duration |")
        print("|---|---|---|---|---|---|")
        is_same = True
        for path in sorted(alone.glob("*.vidbg.*")):
            one, other = facts(path), facts(killed / path.name)
            same = [one[key] == other[key] for key in ("pictures", "sound", "duration")]
            is_same = is_same and one == other
            cells = [path.name, f"{one['frames']}/{other['frames']}", other["rate"], *same]
            print(f"| {' | '.join(map(str, cells))} |")
    if not is_same:
        sys.exit("interrupted: they differ")


if __name__ == "__main__":
    main()

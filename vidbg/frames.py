"""What passes between the stages: small frozen records, no behaviour beyond their own sums.

Layout conventions, used everywhere:

* A *plane* is one component of a frame, ``(B, H, W)``, uint8 for 8-bit formats and
  uint16 (little end of the word, 9 to 16 significant bits) for deeper ones.
* Planes come in FFmpeg's order: Y, Cb, Cr, or G, B, R for planar RGB.
* A *matte* is what a network says, float32 in 0..1, ``(B, h, w)``, at any size.
* An *alpha* is a matte made ready to composite: straight, at luma size, uint8 0..255 for
  8-bit formats, uint16 0..65535 for deeper ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Plane = NDArray[np.uint8] | NDArray[np.uint16]
    Planes = tuple[Plane, Plane, Plane]

MAX_PIXELS: Final = 1 << 27
"""Pixels that a frame may have unless its user says otherwise: 16,384 x 8,192, more than 12K video.

A file of a few bytes can claim any size. At this one a frame takes 200 MB in 8 bits.
"""


@dataclass(frozen=True, slots=True)
class Colour:
    """Colour tags in FFmpeg's names; "unknown" where the file does not say.

    Attributes:
        range: "tv" (limited), "pc" (full) or "unknown".
        matrix: e.g. "bt709", "smpte170m", "bt470bg", "bt2020nc", "gbr", "unknown".
        primaries: e.g. "bt709", "bt2020", "unknown".
        transfer: e.g. "bt709", "smpte2084" (PQ), "arib-std-b67" (HLG), "unknown".
    """

    range: str = "unknown"
    matrix: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"


@dataclass(frozen=True, slots=True)
class Mastering:
    """What an HDR clip was graded on (SMPTE ST 2086), and its own light (CTA-861.3).

    Attributes:
        red: CIE 1931 x and y of the display's red.
        green: Of its green.
        blue: Of its blue.
        white: Of its white.
        darkest: The least light that it shows, in cd/m².
        brightest: The most light that it shows, in cd/m².
        content: The light of the clip's brightest pixel, and of its brightest frame on average,
            both in cd/m², or None.
    """

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]
    darkest: float
    brightest: float
    content: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class PlaneFormat:
    """A working format: three planes, the first at full size, the others maybe subsampled.

    Attributes:
        pix_fmt: FFmpeg's name for the three planes, e.g. "yuv420p10le", "gbrp".
        depth: Significant bits per sample, 8 to 16.
        log2_chroma_w: Horizontal subsampling of planes 1 and 2 as a power of two.
        log2_chroma_h: Vertical subsampling of planes 1 and 2 as a power of two.
        is_rgb: Planes are G, B, R instead of Y, Cb, Cr.
        chroma_location: Where a chroma sample sits relative to luma: "left" (MPEG-2,
            H.264, HEVC), "center" (JPEG, MPEG-1) or "topleft". Of no effect at 4:4:4.
    """

    pix_fmt: str
    depth: int
    log2_chroma_w: int
    log2_chroma_h: int
    is_rgb: bool
    chroma_location: str = "left"

    @property
    def bytes_per_sample(self) -> int:
        """1 for 8-bit samples, 2 for deeper ones."""
        return 1 if self.depth == 8 else 2

    def plane_sizes(
        self, width: int, height: int
    ) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Return (height, width) of each plane; subsampled sizes round up, as FFmpeg's do."""
        chroma = (
            -(-height >> self.log2_chroma_h),
            -(-width >> self.log2_chroma_w),
        )
        return (height, width), chroma, chroma


@dataclass(frozen=True, slots=True)
class AudioStream:
    """One audio track. Times are in seconds on the file's own clock."""

    index: int
    codec: str
    sample_rate: int
    channels: int
    start: Fraction
    duration: Fraction | None


@dataclass(frozen=True, slots=True)
class SubtitleStream:
    """One subtitle track; ``is_text`` when it can be converted to another text format."""

    index: int
    codec: str
    is_text: bool


@dataclass(frozen=True, slots=True)
class PictureSequence:
    """Numbered pictures in a folder that are taken as one clip, a frame each.

    The picture of number n is ``PREFIX n SUFFIX``, n with zeros in front up to ``digits``.

    Attributes:
        folder: Where the pictures lie.
        prefix: What their names begin with.
        suffix: What comes after the number, the extension included.
        digits: Digits that a number has at least; 1 where no zeros are in front.
        first: The lowest number.
        last: The highest number.
        missing: How many numbers between them have no picture.
        first_missing: The first of these, or None.
    """

    folder: Path
    prefix: str
    suffix: str
    digits: int
    first: int
    last: int
    missing: int = 0
    first_missing: int | None = None

    def path_of(self, number: int) -> Path:
        """Return the file of a number, whether or not it is there."""
        return self.folder / f"{self.prefix}{number:0{self.digits}d}{self.suffix}"

    @property
    def pattern(self) -> str:
        """The files as a printf pattern: what is no number stands for itself."""
        before, after = (part.replace("%", "%%") for part in (self.prefix, self.suffix))
        folder = str(self.folder).replace("%", "%%")
        place = f"%0{self.digits}d" if self.digits > 1 else "%d"
        return f"{folder}/{before}{place}{after}"


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What a clip is, as far as can be told without decoding all of it.

    Attributes:
        path: The file; the folder or the pattern of a picture sequence.
        container: FFmpeg's name of the demuxer, e.g. "mov,mp4,m4a,3gp,3g2,mj2".
        codec: FFmpeg's name of the video codec.
        stream_index: The video stream's index in the file.
        width: Display columns in pixels: after rotation, before sample aspect ratio.
        height: Display rows in pixels, after rotation.
        rotation: Clockwise degrees that the container asks for: 0, 90, 180 or 270.
        sar: Sample aspect ratio (pixel width / pixel height) after rotation; 1 if unset.
        frame_rate: Frames per second of what decoding yields (for VFR: of the resampled
            clip), exact.
        time_base: Seconds per tick of the container's time stamps.
        start: Presentation time of the first frame in seconds, relative to the
            beginning of the file's own time line (its earliest stream).
        duration: Seconds from the first frame's start to the last frame's end.
        source_pix_fmt: FFmpeg's pix_fmt of the decoded stream.
        format: The working format that decoding yields.
        has_alpha: The source carries alpha of its own.
        colour: Tags as the file states them.
        is_vfr: Frames are unevenly spaced in time, so that decoding resamples them.
        is_interlaced: Frames are stored as fields.
        is_image: A still picture.
        frame_count: Frames that decoding should yield, or None when unknown. An
            estimate: never a loop bound or an allocation size.
        missing_frames: Frames that the container promises but does not hold.
        repeated_frames: Frames that resampling VFR shows more than once.
        dropped_frames: Frames that resampling VFR leaves out.
        audio: Audio tracks.
        subtitles: Subtitle tracks.
        has_chapters: The file has chapter marks.
        sequence: The pictures, where the clip is a picture sequence.
        mastering: What an HDR clip was graded on, where it says so.
        timecode: The first frame's SMPTE time code, "hh:mm:ss:ff" or with ";" before the
            frames where numbers are dropped; "" where the file has none.
        max_pixels: What its decoders refuse to go beyond, later in the clip too.
    """

    path: Path
    container: str
    codec: str
    stream_index: int
    width: int
    height: int
    rotation: int
    sar: Fraction
    frame_rate: Fraction
    time_base: Fraction
    start: Fraction
    duration: Fraction
    source_pix_fmt: str
    format: PlaneFormat
    has_alpha: bool
    colour: Colour
    is_vfr: bool
    is_interlaced: bool
    is_image: bool
    frame_count: int | None
    missing_frames: int
    repeated_frames: int
    dropped_frames: int
    audio: tuple[AudioStream, ...]
    subtitles: tuple[SubtitleStream, ...]
    has_chapters: bool
    sequence: PictureSequence | None = None
    mastering: Mastering | None = None
    timecode: str = ""
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True, eq=False)
class FrameBatch:
    """Consecutive decoded frames.

    Attributes:
        planes: Three arrays ``(B, H, W)``, ``(B, h, w)``, ``(B, h, w)`` in the working
            format. Treat as read-only.
        format: The working format.
        first_index: Index in the clip of the first frame; the others follow it.
        source_alpha: The source's own straight alpha ``(B, H, W)`` in the samples' dtype,
            full range at the format's depth, or None.
    """

    planes: Planes
    format: PlaneFormat
    first_index: int
    source_alpha: Plane | None = None

    def __len__(self) -> int:
        return int(self.planes[0].shape[0])


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Where two frames find each other's points, at half the size of their thumbnails.

    Attributes:
        onward: float32 ``(h, w, 2)``, x and y in pixels of this size: what is at p in the first
            frame is at ``p + onward[p]`` in the second.
        home: The same from the second to the first.
    """

    onward: NDArray[np.float32]
    home: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class MattedBatch:
    """Decoded frames with their matte.

    Attributes:
        frames: The frames.
        thumbnails: The frames at the segmenter's own size, uint8 RGB ``(B, h, w, 3)``; a
            network may have looked at others of another shape (:mod:`vidbg.matting.views`).
        matte: float32 ``(B, h, w)`` in 0..1, straight, at the thumbnails' size.
        trust: float32 ``(B, h, w)`` in 0..1: how far each pixel of the matte is known, less than
            1 where it was carried from other frames; None where all of it is.
        shots: A number for each frame, the same for frames of one shot; None where cuts are yet to
            be found.
        motions: That of each frame to the next, as far as it is known.
    """

    frames: FrameBatch
    thumbnails: NDArray[np.uint8]
    matte: NDArray[np.float32]
    trust: NDArray[np.float32] | None = None
    shots: tuple[int, ...] | None = None
    motions: tuple[Motion | None, ...] | None = None

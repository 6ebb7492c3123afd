"""No path leaves the data's root, no archive its file, no file its limits."""

import io
import os
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from rlnsp.dataset.safety import Limits, UnsafePath, inside
from rlnsp.dataset.shards import open_shard
from rlnsp.dataset.video import UnusableVideo, decoded, opened
from rlnsp.manifest import ManifestError, read_clip, read_manifest, write_manifest
from rlnsp.settings import ConfigError
from tests.videos import RED, encode, moving


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    encode(root / "clips" / "in.mp4", moving(RED, 4))
    encode(tmp_path / "out.mp4", moving(RED, 4))
    return root


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "is an absolute path"),
        ("../out.mp4", "has '..' in it"),
        ("clips/../in.mp4", "has '..' in it"),
        ("clips/../../out.mp4", "has '..' in it"),
        ("", "names no file"),
        (".", "names no file"),
        ("a\0b", "names no file"),
    ],
)
def test_a_path_that_leads_out_is_refused(root: Path, name: str, why: str) -> None:
    with pytest.raises(UnsafePath, match=why.replace(".", r"\.")):
        inside(name, root)


def test_an_absolute_path_is_refused_even_into_the_root(root: Path) -> None:
    with pytest.raises(UnsafePath, match="absolute"):
        inside(str(root / "clips" / "in.mp4"), root)


def test_links_are_followed_inside_and_refused_outside(root: Path, tmp_path: Path) -> None:
    (root / "near.mp4").symlink_to("clips/in.mp4")
    (root / "far.mp4").symlink_to("../out.mp4")
    (root / "folder").symlink_to(tmp_path)
    assert inside("near.mp4", root) == (root / "clips" / "in.mp4").resolve()
    for name in ("far.mp4", "folder/out.mp4"):
        with pytest.raises(UnsafePath, match="is a link to somewhere else"):
            inside(name, root)
    # The root itself may be a link.
    (tmp_path / "link").symlink_to(root)
    assert inside("clips/in.mp4", tmp_path / "link") == (root / "clips" / "in.mp4").resolve()


def test_a_manifest_names_nothing_outside_by_a_link(root: Path) -> None:
    (root / "far.mp4").symlink_to("../out.mp4")
    write_manifest(root / "manifest.jsonl", [{"id": "a", "context": "x", "video": "far.mp4"}])
    with pytest.raises(ManifestError, match="leaves the manifest's folder; .*is a link to somewhere else"):
        read_manifest(root)


def test_a_folder_of_videos_has_no_door_by_a_link(root: Path, tmp_path: Path) -> None:
    (root / "away").symlink_to(tmp_path)  # a folder: not looked into
    assert [scene.id for scene in read_manifest(root, need_context=False)] == ["clips/in"]
    (root / "far.mp4").symlink_to("../out.mp4")
    with pytest.raises(ManifestError, match="far.mp4' leaves the manifest's folder"):
        read_manifest(root, need_context=False)


@pytest.mark.parametrize("name", ["in.txt", "in.json", "in.context.txt"])
def test_nor_have_the_texts_beside_videos(root: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"caption": "secret"}')
    (root / "clips" / name).symlink_to(secret)
    with pytest.raises(
        ManifestError, match=f"clips/{name}: is a link to somewhere else; put the file itself"
    ):
        read_manifest(root, need_context=False)


def shard(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def linked(name: str, kind: bytes, target: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ((tarfile.TarInfo("../evil.mp4"), b"x"), "member '../evil.mp4' has '..' in it; make the shard anew"),
        ((tarfile.TarInfo("/evil.mp4"), b"x"), "member '/evil.mp4' is an absolute path"),
        ((tarfile.TarInfo("a/../../evil.mp4"), b"x"), "has '..' in it"),
        (linked("evil.mp4", tarfile.SYMTYPE, "/etc/passwd"), "member 'evil.mp4' is no plain file"),
        (linked("evil.mp4", tarfile.LNKTYPE, "../../x"), "member 'evil.mp4' is no plain file"),
        (linked("evil.mp4", tarfile.CHRTYPE, ""), "member 'evil.mp4' is no plain file"),
        ((tarfile.TarInfo("./good.mp4"), b"y"), "two members are named 'good.mp4'"),
        ((tarfile.TarInfo("good.mp4"), b"y"), "two members are named 'good.mp4'"),
    ],
)
def test_a_shard_with_a_member_that_could_escape_is_refused(
    tmp_path: Path, member: tuple[tarfile.TarInfo, bytes], message: str
) -> None:
    path = shard(tmp_path / "a.tar", (tarfile.TarInfo("good.mp4"), b"x"), member)
    with pytest.raises(ConfigError, match=message):
        open_shard(path)
    with pytest.raises(ManifestError, match=message):
        read_manifest(path, need_context=False)
    assert [found.name for found in tmp_path.iterdir()] == ["a.tar"]  # nothing was unpacked


def test_a_video_in_a_shard_is_reached_by_its_own_name_alone(root: Path) -> None:
    data = (root / "clips" / "in.mp4").read_bytes()
    shard(root / "a.tar", (tarfile.TarInfo("v.mp4"), data))
    assert read_clip(root / "a.tar" / "v.mp4")[0].shape == (4, 72, 96, 3)
    for name in ("a.tar/other.mp4", "a.tar/v.mp4/x"):
        write_manifest(root / "m.jsonl", [{"id": "a", "context": "x", "video": name}])
        with pytest.raises(ManifestError, match="is not there"):
            read_manifest(root / "m.jsonl")
    write_manifest(root / "m.jsonl", [{"id": "a", "context": "x", "video": "a.tar/../../out.mp4"}])
    with pytest.raises(ManifestError, match=r"has '\.\.' in it"):
        read_manifest(root / "m.jsonl")


@pytest.mark.parametrize(("cut", "left"), [(700, 0), (1200, 1), (1700, 1), (2300, 2)])
def test_a_shard_that_breaks_off_keeps_what_is_whole_and_says_so(tmp_path: Path, cut: int, left: int) -> None:
    members = [(tarfile.TarInfo(f"{n}.mp4"), bytes([n + 1]) * 400) for n in range(3)]
    path = shard(tmp_path / "a.tar", *members)
    # Header and data have a block of 512 bytes each; what is cut lies in a header, or in data.
    path.write_bytes(path.read_bytes()[:cut])
    found = open_shard(path)
    assert sorted(found.members) == [f"{n}.mp4" for n in range(left)]
    assert found.broken
    assert all(found.read(f"{n}.mp4") == bytes([n + 1]) * 400 for n in range(left))
    with pytest.raises(ManifestError, match="a.tar: breaks off"):
        read_manifest(path, need_context=False)


def test_a_whole_shard_does_not_break_off(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", (tarfile.TarInfo("a.mp4"), b"x" * 513))
    assert open_shard(path).broken == ""
    before = open_shard(path)
    assert open_shard(path) is before
    shard(path, (tarfile.TarInfo("b.mp4"), b"y"))
    os.utime(path, ns=(1, 1))
    assert list(open_shard(path).members) == ["b.mp4"]  # the index is of the file as it is now


@pytest.mark.parametrize(
    ("limits", "kind", "why"),
    [
        (Limits(max_file_mb=1e-4), "too large", r"more than max_file_mb 0.0001"),
        (Limits(max_pixels=72 * 96 - 1), "too large", "frames of 72x96 pixels, more than max_pixels 6911"),
        (Limits(max_seconds=0.1), "too long", "is longer than max_seconds 0.1"),
    ],
)
def test_a_file_over_a_limit_is_not_decoded(root: Path, limits: Limits, kind: str, why: str) -> None:
    path = root / "clips" / "in.mp4"
    with pytest.raises(UnusableVideo, match=why) as error, opened(path, limits) as container:
        for _ in decoded(container, limits):
            pass
    assert error.value.kind == kind
    with pytest.raises(ManifestError, match=f"in.mp4: .*{why}"):
        read_clip(path, limits=limits)


def test_a_limit_holds_for_what_lies_in_a_shard_and_for_memory(root: Path) -> None:
    data = (root / "clips" / "in.mp4").read_bytes()
    path = shard(root / "a.tar", (tarfile.TarInfo("v.mp4"), data))
    with pytest.raises(ManifestError, match="more than max_file_mb"):
        read_clip(path / "v.mp4", limits=Limits(max_file_mb=1e-4))
    two_frames = 2 * 72 * 96 * 3 / 1e6
    with pytest.raises(ManifestError, match="longer in memory than max_clip_mb"):
        read_clip(root / "clips" / "in.mp4", limits=Limits(max_clip_mb=two_frames))
    assert len(read_clip(root / "clips" / "in.mp4", limits=Limits(max_clip_mb=2 * two_frames))[0]) == 4


@pytest.mark.parametrize("field", ["max_file_mb", "max_pixels", "max_seconds", "max_clip_mb"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=f"limits.{field} must be positive; got 0"):
        Limits(**{field: 0})


def test_a_file_that_makes_ffmpeg_open_others_is_refused(root: Path) -> None:
    """A list of files opens what it names, whatever it is called itself."""
    listing = root / "clips" / "list.mp4"
    listing.write_text("ffconcat version 1.0\nfile in.mp4\n")
    with av.open(str(listing)) as container:  # that is what FFmpeg does unless it is told not to
        assert len(list(container.decode(video=0))) == 4
    with pytest.raises(ManifestError, match="list.mp4: cannot be decoded"):
        read_clip(listing)


@pytest.mark.parametrize(("edge", "kind"), [(256, "too large"), (1536, "broken")])
def test_a_frame_that_grows_on_the_way_is_caught(tmp_path: Path, edge: int, kind: str) -> None:
    """The header says one size, a later picture another: a stream of two sizes, as joined recordings are.

    One that is far too large does not even leave the decoder, which refuses it with FFmpeg's own error.
    """
    small, large = (np.zeros((3, size, size, 3), np.uint8) for size in (64, edge))
    path = tmp_path / "grows.mkv"
    join(path, encode_raw(small), encode_raw(large))
    limits = Limits(max_pixels=100 * 100)
    sizes = []

    def decode() -> None:
        with opened(path, limits) as container:
            sizes.extend(frame.width for _, frame in decoded(container, limits))

    with pytest.raises(UnusableVideo) as error:
        decode()
    assert sizes == [64, 64, 64]
    assert error.value.kind == kind


def test_a_picture_far_too_large_is_named_so_before_it_is_decoded(tmp_path: Path) -> None:
    path = encode(tmp_path / "large.mp4", np.zeros((1, 1536, 1536, 3), np.uint8))
    with pytest.raises(ManifestError, match="has frames of 1536x1536 pixels, more than max_pixels 10000"):
        read_clip(path, limits=Limits(max_pixels=10_000))


def test_a_frame_just_within_the_limit_is_decoded(root: Path) -> None:
    assert len(read_clip(root / "clips" / "in.mp4", limits=Limits(max_pixels=72 * 96))[0]) == 4


def encode_raw(frames: np.ndarray) -> list[bytes]:
    """Packets of one MPEG-4 stream, whose key frames carry their own size."""
    codec = av.CodecContext.create("mpeg4", "w")
    codec.height, codec.width = frames.shape[1:3]
    codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, 16)
    packets = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
        picture.pts = number
        packets += [bytes(packet) for packet in codec.encode(picture)]
    return packets + [bytes(packet) for packet in codec.encode(None)]


def join(path: Path, first: list[bytes], second: list[bytes]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        stream.height = stream.width = 64
        for number, data in enumerate([*first, *second]):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base = Fraction(1, 16)
            packet.is_keyframe = number in (0, len(first))
            container.mux(packet)

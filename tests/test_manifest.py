import json
import shutil

import numpy as np
import pytest

from rlnsp.config import ConfigError
from rlnsp.manifest import ManifestError, read_clip, read_manifest, write_clip, write_manifest
from tests.videos import audio_only

ROW = {"id": "a", "context": "A red ball rolls."}


def manifest(folder, *lines):
    path = folder / "manifest.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def gradient(num_frames=9, height=64, width=48):
    """Smooth frames that move, which a codec keeps well."""
    y, x = np.mgrid[0:height, 0:width]
    frames = [np.stack([x * 2 + 5 * t, y * 2, 128 + 0 * x], axis=-1) for t in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


BAD = [
    ([], r"manifest.jsonl: the manifest has no scene; it needs at least one line"),
    (["", "  "], r"manifest.jsonl: the manifest has no scene"),
    (
        [json.dumps(ROW), "{broken"],
        r"manifest.jsonl:2: not valid JSON \(.* at column 2\); write one object a line",
    ),
    (["", '["a"]'], r"manifest.jsonl:2: must be a JSON object; got list"),
    ['{"context": "x"}', r"manifest.jsonl:1: 'id' must be a non-empty string; got None"],
    ['{"id": 7, "context": "x"}', r"'id' must be a non-empty string; got 7"],
    ['{"id": "a"}', r"manifest.jsonl:1: 'context' must be a non-empty string; got None"],
    ['{"id": "a", "context": " "}', r"'context' must be a non-empty string; got ' '"],
    (
        [json.dumps(ROW), "", json.dumps(ROW)],
        r"manifest.jsonl:3: id 'a' is on line 1 already; make ids unique",
    ),
    [
        json.dumps({**ROW, "video": "no.mp4"}),
        r"manifest.jsonl:1: video 'no.mp4' is not there; put the file at .*no.mp4",
    ],
    [json.dumps({**ROW, "context_clip": "no.mp4"}), r"context_clip 'no.mp4' is not there"],
    [
        json.dumps({**ROW, "video": "../out.mp4"}),
        r"video '../out.mp4' leaves the manifest's folder; move the file",
    ],
    [json.dumps({**ROW, "video": "/out.mp4"}), r"video '/out.mp4' leaves the manifest's folder"],
    [json.dumps({**ROW, "video": 3}), r"'video' must be a string; got 3"],
    [json.dumps({**ROW, "video": "clips"}), r"video 'clips' is not there"],
    [json.dumps({**ROW, "caption": ["x"]}), r"'caption' must be a string; got \['x'\]"],
    [json.dumps({**ROW, "split": 1}), r"'split' must be a string; got 1"],
    [json.dumps({**ROW, "fps": "8"}), r"'fps' must be a number of frames per second above 0; got '8'"],
    [json.dumps({**ROW, "fps": 0}), r"'fps' must be .*; got 0"],
    [json.dumps({**ROW, "fps": True}), r"'fps' must be .*; got True"],
    ['{"id": "a", "context": "x", "fps": NaN}', r"'fps' must be .*; got nan"],
]


@pytest.mark.parametrize(("lines", "message"), BAD)
def test_a_manifest_that_cannot_be_used_is_refused_in_one_line(lines, message, tmp_path):
    (tmp_path / "clips").mkdir()
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "clips").mkdir()
    (tmp_path / "out.mp4").touch()
    path = manifest(folder, *([lines] if isinstance(lines, str) else lines))
    with pytest.raises(ManifestError, match=message) as info:
        read_manifest(path)
    assert "\n" not in str(info.value)
    assert isinstance(info.value, ConfigError)


def test_no_file_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ManifestError, match="no such manifest; give a JSON-lines file, a folder of"):
        read_manifest(tmp_path / "no.jsonl")
    with pytest.raises(ManifestError, match="has neither manifest.jsonl, nor videos"):
        read_manifest(tmp_path)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes('{"id": "a", "context": "Käse"}'.encode("latin-1"))
    with pytest.raises(ManifestError, match="not UTF-8 text .*; save it as UTF-8"):
        read_manifest(path)


def test_a_split_with_no_scene_names_those_there_are(tmp_path):
    path = manifest(tmp_path, json.dumps(ROW), json.dumps({**ROW, "id": "b", "split": "extra"}))
    with pytest.raises(ManifestError, match="no scene of split 'heldout'; it has 'extra', 'train'"):
        read_manifest(path, "heldout")
    assert [scene.id for scene in read_manifest(path, "extra")] == ["b"]
    assert [scene.id for scene in read_manifest(path)] == ["a", "b"]


def test_a_line_of_another_split_is_checked_too(tmp_path):
    path = manifest(tmp_path, json.dumps(ROW), json.dumps({"id": "b", "split": "heldout"}))
    with pytest.raises(ManifestError, match=":2: 'context'"):
        read_manifest(path, "train")


def test_what_is_written_is_read_back(tmp_path):
    (tmp_path / "clip.mp4").touch()
    rows = [
        {
            **ROW,
            "video": "clip.mp4",
            "caption": "It stops.",
            "fps": 23.976,
            "split": "heldout",
            "source": "mine",
            "n": 3,
        },
        {"id": "b", "context": "Another."},
    ]
    write_manifest(tmp_path / "manifest.jsonl", rows)
    first, second = read_manifest(tmp_path / "manifest.jsonl")
    assert first.video == (tmp_path / "clip.mp4").resolve()
    assert (first.caption, first.fps, first.split) == ("It stops.", 23.976, "heldout")
    assert first.columns == {"source": "mine", "n": 3}
    assert (second.video, second.caption, second.fps, second.split, second.columns) == (
        None,
        None,
        None,
        "train",
        {},
    )


@pytest.mark.parametrize(
    "context",
    ["Ein Käse fällt.", "红球向右滚动。", "🟥 → 🟦", 'She said "go"\nand went.', "a\u2028b\x85c", "e\u0301"],
)
def test_any_text_is_kept_as_it_is(context, tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [{"id": context, "context": context}])
    (scene,) = read_manifest(tmp_path / "manifest.jsonl")
    assert scene.id == scene.context == context


def test_a_byte_order_mark_and_windows_lines_do_no_harm(tmp_path):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    assert read_manifest(path)[0].context == ROW["context"]


def test_a_manifest_that_breaks_off_leaves_nothing(tmp_path):
    def rows():
        yield ROW
        raise RuntimeError("out of clips")

    with pytest.raises(RuntimeError, match="out of clips"):
        write_manifest(tmp_path / "manifest.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_that_breaks_off_leaves_the_old_one(tmp_path):
    path = manifest(tmp_path, json.dumps(ROW))
    with pytest.raises(TypeError):
        write_manifest(path, [{"id": object()}])
    assert read_manifest(path)[0].id == "a"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fps", [8.0, 16.0, 23.976, 24000 / 1001, 29.97, 12.5])
def test_a_clip_is_read_back_with_its_frames_and_its_rate(fps, tmp_path):
    frames = gradient()
    write_clip(tmp_path / "clip.mp4", frames, fps)
    back, rate = read_clip(tmp_path / "clip.mp4")
    assert rate == pytest.approx(fps, abs=1e-6)
    assert back.dtype == np.uint8
    assert back.shape == frames.shape
    # H.264 keeps a quarter of the colours' pixels; smooth pictures lose a few grey levels.
    assert np.abs(back.astype(int) - frames).mean() < 2.5
    assert np.abs(back.astype(int) - frames).max() < 24
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_frames_come_in_their_order_and_as_many_as_asked_for(tmp_path):
    frames = np.stack([np.full((32, 32, 3), 25 * t, np.uint8) for t in range(9)])
    write_clip(tmp_path / "clip.mp4", frames, 8.0)
    assert np.abs(read_clip(tmp_path / "clip.mp4")[0].mean((1, 2, 3)) - frames.mean((1, 2, 3))).max() < 2
    assert len(read_clip(tmp_path / "clip.mp4", max_frames=4)[0]) == 4
    assert len(read_clip(tmp_path / "clip.mp4", max_frames=40)[0]) == 9


def test_one_frame_makes_a_clip(tmp_path):
    write_clip(tmp_path / "clip.mp4", gradient(1), 8.0)
    assert read_clip(tmp_path / "clip.mp4")[0].shape == (1, 64, 48, 3)


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (gradient(height=63), 8.0, "height and width must be even for H.264; got 63x48"),
        (gradient().astype(np.float32), 8.0, r"frames must be uint8 .*; got float32"),
        (gradient()[0], 8.0, r"frames must be uint8 \(F, H, W, 3\)"),
        (gradient()[:0], 8.0, r"frames must be uint8"),
        (gradient(), 0.0, "fps > 0"),
    ],
)
def test_frames_that_make_no_clip_are_refused(frames, fps, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_clip(tmp_path / "clip.mp4", frames, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr("rlnsp.manifest.av.VideoFrame.from_ndarray", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        write_clip(tmp_path / "clip.mp4", gradient(), 8.0)
    assert list(tmp_path.iterdir()) == []


def test_an_mp4_with_sound_only_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="sound.mp4: has no video stream; encode it again"):
        read_clip(audio_only(tmp_path / "sound.mp4"))


@pytest.mark.parametrize("content", [b"", b"not a video", b"\0" * 4096])
def test_a_file_that_is_no_video_is_refused(content, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(
        ManifestError, match="broken.mp4: cannot be decoded .*; encode it again, or drop its line"
    ) as info:
        read_clip(path)
    assert "\n" not in str(info.value)


def test_a_truncated_mp4_is_refused(tmp_path):
    write_clip(tmp_path / "clip.mp4", gradient(), 8.0)
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(ManifestError, match="cut.mp4: cannot be decoded"):
        read_clip(tmp_path / "cut.mp4")


def test_no_clip_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no.mp4: is not there"):
        read_clip(tmp_path / "no.mp4")


def test_a_manifest_moves_with_its_clips(tmp_path):
    (tmp_path / "here").mkdir()
    write_clip(tmp_path / "here" / "clip.mp4", gradient(), 8.0)
    write_manifest(tmp_path / "here" / "manifest.jsonl", [{**ROW, "video": "clip.mp4"}])
    shutil.move(tmp_path / "here", tmp_path / "there")
    (scene,) = read_manifest(tmp_path / "there" / "manifest.jsonl")
    assert scene.video is not None
    assert read_clip(scene.video)[0].shape == (9, 64, 48, 3)

"""quern see: what a model sees of pictures and clips. SPDX-License-Identifier: Apache-2.0"""
import json
import pathlib
import subprocess

import pytest

from conftest import BUILD, ROOT

GOLDEN = ROOT / "tests/golden/media"
MINI = ROOT / "models/mini"


def see(*args, ok=True):
    done = subprocess.run([BUILD / "quern", "see", *map(str, args)], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == ok, done.stderr
    return done


def test_picture(tmp_path):
    row = next(r for r in json.loads((GOLDEN / "media.json").read_text())["pictures"] if r["file"] == "turned6.jpg")
    out = tmp_path / "seen.png"
    seen = json.loads(see(GOLDEN / "files/turned6.jpg", "--model", MINI, "--json", "--out", out).stdout)
    assert seen["kind"] == "image" and seen["grid"] == row["grid"] and seen["timestamps"] == []
    assert (seen["width"], seen["height"], seen["frames"]) == (row["w"], row["h"], 1)
    assert seen["tokens"] == row["grid"][1] * row["grid"][2] // 4
    head = out.read_bytes()[:24]
    assert head[:4] == b"\x89PNG"
    assert [int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")] == seen["resized"]


def test_clips():
    for row in json.loads((GOLDEN / "media.json").read_text())["clips"]:
        if row["file"] not in ("bframes.mp4", "edited.mp4", "variable.mkv", "vp9.webm"):
            continue
        seen = json.loads(see(GOLDEN / "files" / row["file"], "--model", MINI, "--json").stdout)
        assert seen["kind"] == "video" and seen["timestamps"] == row["times"] and seen["indices"] == row["index"]
        assert seen["grid"] == row["grid"] and seen["frames"] == len(row["index"])


def test_gif_as_either():
    gif = GOLDEN / "files/moving_video.gif"
    assert json.loads(see(gif, "--model", MINI, "--json").stdout)["kind"] == "image"
    assert json.loads(see(gif, "--model", MINI, "--json", "--video").stdout)["frames"] > 1
    assert "timestamps" in see(gif, "--model", MINI, "--video").stdout


def test_kwargs():
    clip = GOLDEN / "files/plain.mp4"
    seen = json.loads(see(clip, "--model", MINI, "--json", "--mm-processor-kwargs", '{"num_frames": 6}').stdout)
    assert seen["frames"] == 6
    assert "num_frames" in see(clip, "--model", MINI, "--mm-processor-kwargs", '{"frames": 6}', ok=False).stderr


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n", b"%PDF-1.7", b"\xff\xd8\xff\xe0", b"GIF89a" + b"\xff" * 20])
def test_nonsense(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    done = see(path, "--model", MINI, ok=False)
    assert done.returncode == 1 and str(path) in done.stderr

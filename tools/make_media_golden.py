#!/usr/bin/env python3
"""Draws pictures and clips of all kinds and writes what transformers' processors make of them.

Writes tests/golden/media/files/ and tests/golden/media/media.json: for each picture the grid and the SHA-256 of the
pixel values as bytes, by the torchvision processor and by the Pillow one; for each clip frame indices, rate, timestamps,
grid and the SHA-256 of the pixel values as bytes.

Pictures go to the processors as PIL objects after ImageOps.exif_transpose: so transformers puts transparency on
white. What is done otherwise here (16-bit grey) is left to tests/golden/media/vision.json.
Needs tools/requirements-media.txt, and FFmpeg's shared libraries (Debian: libavdevice59 libavfilter8).
SPDX-License-Identifier: Apache-2.0
"""
import fractions
import hashlib
import io
import json
import pathlib
import struct
import tempfile

import av
import numpy as np
import PIL
import torch
import torchvision
import transformers
from PIL import Image, ImageDraw, ImageOps
from transformers import AutoImageProcessor, AutoVideoProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/golden/media"
FILES = OUT / "files"
rng = np.random.default_rng(23)


def processors():
    folder = tempfile.mkdtemp()
    same = {"patch_size": 16, "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    image = {**same, "size": {"shortest_edge": 65536, "longest_edge": 16777216},
             "image_processor_type": "Qwen2VLImageProcessorFast", "processor_class": "Qwen3VLProcessor"}
    video = {**same, "size": {"shortest_edge": 4096, "longest_edge": 25165824},
             "video_processor_type": "Qwen3VLVideoProcessor", "processor_class": "Qwen3VLProcessor"}
    pathlib.Path(folder, "preprocessor_config.json").write_text(json.dumps(image))
    pathlib.Path(folder, "video_preprocessor_config.json").write_text(json.dumps(video))
    return (AutoImageProcessor.from_pretrained(folder), Qwen2VLImageProcessorPil.from_pretrained(folder),
            AutoVideoProcessor.from_pretrained(folder))


def digest(values):
    bytes_ = np.rint(np.asarray(values, dtype=np.float32) * 127.5 + 127.5).astype(np.uint8)
    return hashlib.sha256(bytes_.tobytes()).hexdigest()


# --- pictures ---

def noise(h, w, c=3):
    a = rng.integers(0, 256, (h, w, c), dtype=np.uint8)
    return a[:, :, 0] if c == 1 else a


def scene(h, w, c=3):
    """Soft colours with hard edges and thin lines, as a screenshot has them."""
    y, x = np.mgrid[0:h, 0:w].astype(np.float64)
    planes = [127 + 120 * np.sin(x / (7 + 3 * k) + k) * np.cos(y / (11 - 2 * k)) for k in range(c)]
    a = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    image = Image.fromarray(a if c > 1 else a[:, :, 0])
    d = ImageDraw.Draw(image)
    black, white = (0, 255) if c == 1 else ((0,) * c, (255,) * c)
    d.rectangle([w // 5, h // 5, w // 2, h // 2], fill=white, outline=black)
    d.line([0, 0, w - 1, h - 1], fill=black)
    d.ellipse([w // 2, h // 3, w - 2, h - 2], outline=white)
    return image


def stripes(h, w):
    """Large and small when packed."""
    a = np.zeros((h, w, 3), np.uint8)
    a[:, :, 0] = (np.arange(w) // 13 % 2 * 200)[None, :]
    a[:, :, 1] = (np.arange(h) // 29 % 2 * 255)[:, None]
    a[:, :, 2] = 90
    return Image.fromarray(a)


def exif(n):
    e = Image.Exif()
    e[0x0112] = n
    return e


def pictures():
    """(name, image, how to save)"""
    for h, w in [(1, 1), (2, 2), (1, 200), (200, 1), (10, 8), (31, 47), (17, 300), (64, 64), (100, 100), (256, 256)]:
        yield f"noise_{h}x{w}.png", Image.fromarray(noise(h, w)), {}
    for h, w in [(48, 80), (240, 272), (300, 200), (333, 101), (160, 31), (600, 97)]:
        yield f"scene_{h}x{w}.png", scene(h, w), {"optimize": True}
    for h, w in [(3000, 4000), (900, 600), (4112, 4112), (40, 8000), (6000, 200)]:
        yield f"stripes_{h}x{w}.png", stripes(h, w), {"optimize": True}
    for quality in (30, 75, 95):
        for sub in (0, 1, 2):
            yield f"q{quality}_s{sub}.jpg", scene(90, 123), {"quality": quality, "subsampling": sub}
    yield "411.jpg", scene(90, 123), {"quality": 80, "subsampling": "4:1:1"}
    yield "progressive.jpg", scene(121, 77), {"quality": 80, "progressive": True}
    yield "grey.jpg", scene(60, 70, 1), {"quality": 80}
    yield "restart.jpg", scene(120, 160), {"quality": 70, "restart_marker_blocks": 4}
    cmyk = Image.fromarray(np.stack([noise(40, 52, 1) for _ in range(4)], -1), "CMYK")
    yield "cmyk.jpg", cmyk, {"quality": 90}
    for n in range(1, 9):
        yield f"turned{n}.jpg", scene(40, 66), {"quality": 85, "exif": exif(n)}
    for n in (3, 6, 7):
        yield f"turned{n}.png", scene(33, 50), {"exif": exif(n)}
        yield f"turned{n}.webp", scene(33, 50), {"exif": exif(n), "lossless": True}
    yield "rgba.png", Image.fromarray(noise(70, 90, 4), "RGBA"), {}
    yield "la.png", Image.fromarray(noise(70, 90, 2), "LA"), {}
    yield "grey.png", scene(50, 60, 1), {}
    yield "bits1.png", scene(50, 61, 1).convert("1"), {}
    yield "palette.png", scene(80, 90).quantize(64), {}
    yield "palette4.png", scene(80, 91).quantize(13), {"bits": 4}
    yield "palette2.png", scene(80, 91).quantize(4), {"bits": 2}
    yield "palette_index.png", scene(80, 90).quantize(16), {"transparency": 3}
    yield "palette_alpha.png", scene(80, 90).quantize(16), {"transparency": bytes(range(0, 256, 16))}
    yield "rgb_key.png", scene(50, 50), {"transparency": (255, 255, 255)}
    yield "grey_key.png", scene(50, 50, 1), {"transparency": 255}
    yield "lossy.webp", scene(100, 131), {"quality": 60}
    yield "lossless.webp", scene(99, 64), {"lossless": True}
    yield "alpha.webp", Image.fromarray(noise(40, 44, 4), "RGBA"), {"lossless": True, "exact": True}
    yield "alpha_lossy.webp", Image.fromarray(noise(40, 44, 4), "RGBA"), {"quality": 70}
    yield "moving.webp", scene(40, 48), {"save_all": True, "append_images": [scene(40, 48).rotate(90)], "duration": 80}
    yield "plain.gif", scene(60, 77).quantize(32), {}
    yield "key.gif", scene(60, 77).quantize(32), {"transparency": 5}
    yield "interlaced.gif", scene(61, 77).quantize(32), {"interlace": 1}
    yield "two.gif", scene(60, 60).quantize(8), {}
    yield "moving.gif", scene(60, 77), {"save_all": True, "append_images": [scene(60, 77).rotate(30)], "duration": 100}
    yield "rgb.bmp", scene(33, 41), {}
    yield "palette.bmp", scene(33, 41).quantize(50), {}
    yield "grey.bmp", scene(33, 41, 1), {}
    yield "bits1.bmp", scene(33, 41, 1).convert("1"), {}
    yield "rgba.bmp", Image.fromarray(noise(30, 30, 4), "RGBA"), {}


def png_chunk(kind, data):
    import zlib
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def extra_files():
    """What Pillow does not write: 16-bit colour, an interlaced PNG."""
    import zlib
    h, w = 23, 31
    wide = rng.integers(0, 65536, (h, w, 3)).astype(">u2")
    rows = b"".join(b"\0" + wide[y].tobytes() for y in range(h))
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, 2, 0, 0, 0))
    yield "rgb16.png", head + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    a = noise(h, w)
    rows = b""
    for x0, y0, dx, dy in [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]:
        part = a[y0::dy, x0::dx]
        if part.size:
            rows += b"".join(b"\0" + part[y].tobytes() for y in range(part.shape[0]))
    head = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 1))
    yield "interlaced.png", head + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def picture_rows(torch_one, pil_one):
    files = []
    for name, image, how in pictures():
        path = FILES / name
        if name == "rgb_key.png":
            image.save(path, transparency=(255, 255, 255))
        else:
            image.save(path, **how)
        files.append(name)
    for name, data in extra_files():
        (FILES / name).write_bytes(data)
        files.append(name)
    Image.MAX_IMAGE_PIXELS = None
    for name in files:
        image = ImageOps.exif_transpose(Image.open(FILES / name))
        fast = torch_one(images=[image], return_tensors="pt")
        slow = pil_one(images=[image], return_tensors="np")
        assert fast["image_grid_thw"].tolist() == slow["image_grid_thw"].tolist()
        yield {"file": name, "w": image.width, "h": image.height, "grid": fast["image_grid_thw"][0].tolist(),
               "torch": digest(fast["pixel_values"].numpy()), "pillow": digest(slow["pixel_values"])}


# --- clips ---

def clip_frames(n, h, w):
    y, x = np.mgrid[0:h, 0:w]
    for t in range(n):
        a = np.stack([(x * 3 + t * 5) % 256, (y * 4 + t * 9) % 256, (x + y + 13 * t) % 256], -1).astype(np.uint8)
        a[(t * 3) % h:, : w // 4] = (t * 11) % 256
        yield a


def write_clip(name, n, h, w, rate, codec="libx264", pix_fmt="yuv420p", options=None, pts=None, time_base=None,
               container_options=None, tags=None):
    with av.open(str(FILES / name), "w", options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=options or {"crf": "35", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = w, h, pix_fmt
        stream.codec_context.thread_count = 1
        if tags:
            for key, value in tags.items():
                setattr(stream.codec_context, key, value)
        if time_base:
            stream.codec_context.time_base = time_base
        for i, a in enumerate(clip_frames(n, h, w)):
            frame = av.VideoFrame.from_ndarray(a, format="rgb24")
            frame.pts = pts[i] if pts else i
            frame.time_base = time_base or 1 / fractions.Fraction(rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return name


def cut_by_edit_list(source, name, ticks):
    """The same file with an edit that begins later."""
    data = bytearray((FILES / source).read_bytes())
    at = data.index(b"elst") + 4
    version, count = data[at], struct.unpack(">I", data[at + 4:at + 8])[0]
    assert version == 0 and count >= 1
    start = at + 8 + 12 * (count - 1)
    length, media = struct.unpack(">Ii", data[start:start + 8])
    data[start:start + 8] = struct.pack(">Ii", length, media + ticks)
    (FILES / name).write_bytes(data)
    return name


def clips():
    F = fractions.Fraction
    yield write_clip("plain.mp4", 45, 48, 64, 30)
    yield write_clip("ntsc.mp4", 71, 48, 64, F(30000, 1001))
    yield write_clip("film.mkv", 48, 48, 64, F(24000, 1001))
    yield write_clip("vp9.webm", 40, 48, 64, 25, "libvpx-vp9", options={"crf": "50", "b": "0"})
    yield write_clip("vp8.webm", 33, 64, 48, F(30000, 1001), "libvpx", options={"b": "60k"})
    yield write_clip("one.mp4", 1, 48, 64, 30)
    yield write_clip("two.mp4", 2, 40, 64, 25)
    yield write_clip("three.mp4", 3, 64, 64, 30)
    yield write_clip("slow.mp4", 7, 64, 64, 1)
    yield write_clip("fast.mp4", 120, 32, 48, 120)
    yield write_clip("bframes.mp4", 60, 48, 64, 24, options={"bf": "3", "crf": "35"})
    yield cut_by_edit_list("bframes.mp4", "edited.mp4", 12288 // 24 * 10)
    pts = [0, 40, 80, 200, 220, 240, 600, 640, 1000, 1500, 1520, 1540, 1560, 2000, 2500, 2600]
    yield write_clip("variable.mp4", 16, 48, 64, 25, pts=pts, time_base=F(1, 1000))
    yield write_clip("variable.mkv", 16, 48, 64, 25, pts=pts, time_base=F(1, 1000))
    yield write_clip("late.mp4", 30, 48, 64, 15, pts=[20 + i for i in range(30)], time_base=F(1, 15))
    yield write_clip("mpeg4.mov", 30, 50, 70, F(15), "mpeg4", options={"b": "80k"})
    yield write_clip("mjpeg.avi", 20, 50, 70, F(12), "mjpeg", "yuvj420p", options={"q": "8"})
    yield write_clip("fields.mp4", 24, 58, 322, 12, pix_fmt="yuv444p")
    yield write_clip("ten.mp4", 20, 48, 64, 10, pix_fmt="yuv420p10le")
    yield write_clip("bt709.mp4", 20, 64, 96, 10, tags={"colorspace": 1, "color_range": 2})
    yield write_clip("hevc.mp4", 20, 64, 96, F(25, 2), "libx265", options={"crf": "38", "x265-params": "log-level=none"})
    yield write_clip("big.mp4", 12, 720, 1280, 6, options={"crf": "45", "preset": "veryfast"})
    frames = [Image.fromarray(a).quantize(16) for a in clip_frames(9, 40, 50)]
    frames[0].save(FILES / "moving_video.gif", save_all=True, append_images=frames[1:], duration=[100, 50, 200] * 3)
    yield "moving_video.gif"


def clip_rows(video_one):
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    for name in clips():
        row = {"file": name}
        try:
            out = video_one(videos=[str(FILES / name)], return_metadata=True, return_tensors="pt")
        except Exception as error:  # a single frame is an error there
            row["error"] = str(error)[:100]
            yield row
            continue
        meta = out["video_metadata"][0]
        index = [int(i) for i in meta.frames_indices]
        times = Qwen3VLProcessor._calculate_timestamps(None, list(index), meta.fps, 2)
        yield {**row, "w": meta.width, "h": meta.height, "total": meta.total_num_frames, "fps": meta.fps, "index": index,
               "times": [f"<{t:.1f} seconds>" for t in times], "grid": out["video_grid_thw"][0].tolist(),
               "torch": digest(out["pixel_values_videos"].numpy())}


def main():
    FILES.mkdir(parents=True, exist_ok=True)
    torch_one, pil_one, video_one = processors()
    made = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0],
            "torchvision": torchvision.__version__.split("+")[0], "pillow": PIL.__version__, "av": av.__version__}
    result = {"made": made, "pictures": list(picture_rows(torch_one, pil_one)), "clips": list(clip_rows(video_one))}
    text = "{\"made\": " + json.dumps(made)
    for key in ("pictures", "clips"):
        text += f",\n\"{key}\": [\n" + ",\n".join(json.dumps(r) for r in result[key]) + "\n]"
    (OUT / "media.json").write_text(text + "}\n")
    print(len(result["pictures"]), "pictures,", len(result["clips"]), "clips")


if __name__ == "__main__":
    main()

"""quern plan --machine: projections for machines that are not this one.
SPDX-License-Identifier: Apache-2.0"""
import json
import subprocess

import pytest

from conftest import BUILD


def quern(*args):
    return subprocess.run([BUILD / "quern", *map(str, args)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Checkpoints without data: headers say all that a plan needs."""
    top, made = tmp_path_factory.mktemp("shapes"), {}
    for shape, fmt in (("qwen3.5-397b-a17b", "nvfp4"), ("qwen3.5-122b-a10b", "nvfp4"), ("qwen3.5-0.8b", "bf16")):
        made[shape] = top / shape
        r = quern("synth", shape, made[shape], "--format", fmt, "--headers")
        assert r.returncode == 0, r.stderr
    assert sum(f.stat().st_blocks for f in made["qwen3.5-397b-a17b"].iterdir()) * 512 < 200 << 20
    return made


def plan(folder, machine, *args, code=0):
    r = quern("plan", folder, "--machine", machine, "--json", *args)
    assert r.returncode == code, r.stderr
    return json.loads(r.stdout)


# tokens a second of all streams, the best public figures of 2026 for NVFP4 experts with BF16 dense layers
PUBLISHED = [("qwen3.5-397b-a17b", "4x96G:pcie5", "off", "1", 108.1), ("qwen3.5-397b-a17b", "4x96G:pcie5", "off", "8", 554.4),
             ("qwen3.5-397b-a17b", "4x96G:pcie5", "off", "64", 1590), ("qwen3.5-397b-a17b", "4x96G:pcie5", "mtp", "1", 180.4),
             ("qwen3.5-397b-a17b", "4x96G:pcie5", "mtp", "8", 668.5), ("qwen3.5-397b-a17b", "4x96G:pcie5", "mtp", "64", 2283),
             ("qwen3.5-122b-a10b", "2xrtx-pro-6000", "off", "1", 131), ("qwen3.5-122b-a10b", "2xrtx-pro-6000", "mtp", "1", 198)]


def test_expected_is_near_what_was_published(shapes):
    for shape, machine, kind, streams, published in PUBLISHED:
        p = plan(shapes[shape], machine)
        got = p["tok_s"][kind][streams]
        assert 0.7 * published < got < 1.3 * published, (shape, kind, streams, got, published)
        assert p["tok_s_limit"][kind][streams] > got
        assert p["basis"] == "projection"


def test_what_a_rank_holds(shapes):
    four, one = plan(shapes["qwen3.5-397b-a17b"], "4x96G:pcie5"), plan(shapes["qwen3.5-0.8b"], "96G")
    assert four["fits"] and four["ranks"] == 4 and 56e9 < four["bytes_per_rank"] < 65e9
    assert four["users"] >= 1 and four["context"] >= 65536 and four["limiter"] == "weights"
    assert one["ranks"] == 1 and one["terms_ms"]["off"]["1"]["reduce"] == 0
    terms = four["terms_ms"]["off"]["1"]
    step = sum(terms[k] for k in ("weights", "experts", "state", "kv", "reduce", "launches", "drafts"))
    assert abs(1000 / step - four["tok_s_limit"]["off"]["1"]) < 1
    assert abs(terms["efficiency"] - four["tok_s"]["off"]["1"] / four["tok_s_limit"]["off"]["1"]) < 0.01
    # two KV heads on eight cards: each is kept by four
    eight = plan(shapes["qwen3.5-397b-a17b"], "8x96G:pcie5")
    assert eight["page_bytes"] == four["page_bytes"]


def test_refusal_names_the_nearest(shapes):
    p = plan(shapes["qwen3.5-397b-a17b"], "1x96G", code=1)
    assert not p["fits"] and p["limiter"] == "memory"
    assert "the nearest that fits: 4 such cards" in p["reason"] and "weights" in p["reason"]
    r = quern("plan", shapes["qwen3.5-397b-a17b"], "--machine", "1x96G")
    assert r.returncode == 1 and "the nearest that fits: 4 such cards" in r.stderr


def test_machine_files_and_nonsense(shapes, tmp_path):
    f = tmp_path / "box.json"
    f.write_text('{"cards": 4, "memory": "96G", "bandwidth_gbs": 3200, "reduce_us": 3, "name": "box"}')
    fast, plain = plan(shapes["qwen3.5-397b-a17b"], f), plan(shapes["qwen3.5-397b-a17b"], "4x96G:pcie5")
    assert fast["tok_s_limit"]["off"]["1"] > 1.5 * plain["tok_s_limit"]["off"]["1"]
    for bad in ("4y96G", "0x96G", "4x96G:pcie9", "toaster", "4x1M", ""):
        r = quern("plan", shapes["qwen3.5-0.8b"], "--machine", bad)
        assert r.returncode == 1 and "like 4x96G:pcie5" in r.stderr, (bad, r.stderr)
    f.write_text('{"cards": 4}')
    r = quern("plan", shapes["qwen3.5-0.8b"], "--machine", f)
    assert r.returncode == 1 and "memory of a card is missing" in r.stderr

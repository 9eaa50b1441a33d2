"""Launch commands of other servers, as people publish them: `quern serve` starts with them unchanged, and says in a line what
became of each flag that is not ours. tests/unit/cli/test_flags.c has values, spellings and every recorded name.
SPDX-License-Identifier: Apache-2.0"""
import re
import shlex
import subprocess
import sys

import pytest

from conftest import BUILD, ROOT

MINI = ROOT / "models" / "mini"


def launch(words, tmp_path=None):
    """(exit code, stderr); M is the model, --host and --port are ours."""
    args, skip = [], False
    for word in words:
        if skip or word in ("--host", "--port"):
            skip = not skip
            continue
        args.append(word.replace("{model}", str(MINI)) if word != "M" else str(MINI))
    process = subprocess.Popen([BUILD / "quern", "serve", *args, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    is_ready = process.stdout.readline().startswith("ready http://")
    process.terminate()
    _, log = process.communicate(timeout=20)
    assert is_ready == (process.returncode == 0), log
    return process.returncode, log


# public commands for this family: wikis, cookbooks, recipes, issue threads
COMMANDS = r"""
--model M --served-model-name Qwen3.5 --reasoning-parser qwen3 --tool-call-parser qwen3_coder --tensor-parallel-size 4 --quantization modelopt_fp4 --kv-cache-dtype fp8_e4m3 --trust-remote-code --cuda-graph-max-bs 64 --max-running-requests 64 --mem-fraction-static 0.93 --chunked-prefill-size 16384 --host 0.0.0.0 --port 5000 --attention-backend flashinfer --fp4-gemm-backend b12x --moe-runner-backend b12x --enable-pcie-oneshot-allreduce --enable-metrics --sleep-on-idle --speculative-algo NEXTN --speculative-num-steps 4 --speculative-eagle-topk 1 --speculative-num-draft-tokens 6
--model M --served-model-name Qwen3.5 --tensor-parallel-size 4 --trust-remote-code --gpu-memory-utilization 0.9 --max-num-batched-tokens 8192 --max-num-seqs 128 --enable-prefix-caching --enable-chunked-prefill --enable-auto-tool-choice --tool-call-parser qwen3_coder --reasoning-parser qwen3 --host 0.0.0.0 --port 5000 --speculative-config '{"method":"mtp","num_speculative_tokens":2}'
--model M --served-model-name qwen3.5-carve --tensor-parallel-size 4 --max-model-len 16384 --max-num-seqs 16 --gpu-memory-utilization 0.9 --trust-remote-code --enable-prefix-caching --enable-auto-tool-choice --tool-call-parser qwen3_coder --reasoning-parser qwen3 --kv-cache-dtype fp8 --hf-overrides '{"text_config": {"rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "yarn", "rope_theta": 10000000, "partial_rotary_factor": 0.25, "factor": 4.0, "original_max_position_embeddings": 4096}}}'
M --served-model-name Qwen3.5-27B-NVFP4 --trust-remote-code --gpu-memory-utilization 0.85 --max-model-len 128000 --quantization modelopt --tool-call-parser qwen3_coder --enable-auto-tool-choice --reasoning-parser qwen3 --mm-encoder-tp-mode data --mm-processor-cache-type shm --speculative-config '{"method":"mtp","num_speculative_tokens":1}'
--model-path M --reasoning-parser qwen3 --tool-call-parser qwen3_coder --speculative-algorithm EAGLE --speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4 --mem-fraction-static 0.8 --host 0.0.0.0 --port 30000
M --quantization ascend --compilation-config '{"cudagraph_mode":"FULL_DECODE_ONLY"}' --additional-config '{"enable_cpu_binding":true}' --max-num-batched-tokens 16384 --speculative-config '{"method":"qwen3_5_mtp","num_speculative_tokens":3,"enforce_eager":true}' --enable-auto-tool-choice --tool-call-parser qwen3_coder --reasoning-parser qwen3
M --speculative-config '{"method": "qwen3_next_mtp", "num_speculative_tokens": 5}' --tensor-parallel-size 2 --max-model-len 262144 --max-num-batched-tokens 131072 --enable-chunked-prefill --max-num-seqs 16 --gpu-memory-utilization 0.7 --quantization fp8 --load-format fastsafetensors --attention-backend flash_attn --enable-prefix-caching --enable-auto-tool-choice --tool-call-parser qwen3_coder --reasoning-parser qwen3 --served-model-name lzrcb --port 8000 --host 0.0.0.0
--model-path M --port 30000 --trust-remote --host 0.0.0.0 --enable-metrics --tp 4 --mem-fraction-static 0.8 --torch-compile-max-bs 8  --context-length 32768 --served-model-name x --speculative-algo NEXTN --speculative-num-steps 3 --speculative-eagle-topk 1 --speculative-num-draft-tokens 4 --tool-call-parser qwen25 --mamba-scheduler-strategy extra_buffer --preferred-sampling-params '{"temperature":0.7,"top_p":0.8,"top_k":20,"min_p":0}' --chunked-prefill-size 4096 --enable-request-time-stats-logging --decode-log-interval 10
M --served-model-name qwen3.8-27b --world-size 1 --gpu-memory-utilization 0.9 --attention-backend trtllm --moe-backend flashinfer_trtllm --chunked-prefill-size 8192 --max-model-len 262144 --max-num-seqs 128 --kv-cache-dtype fp8_e4m3
env VLLM_ROCM_USE_AITER=0 vllm serve M --dtype bfloat16 --kv-cache-dtype auto --language-model-only --max-model-len 65536 --gpu-memory-utilization 0.80 --max-num-seqs 8 --max-num-batched-tokens 8192 --enable-prefix-caching --enable-chunked-prefill --speculative-config '{"method":"qwen3_next_mtp","num_speculative_tokens":2}'
VLLM_USE_FLASHINFER_MOE_FP4=1 vllm serve M -tp 1 -dp 8 --enable-expert-parallel --attention-config.use_trtllm_attention true --compilation-config.level 3 -O3 --async-scheduling --mamba-cache-mode align --mm-processor-kwargs '{"video_kwargs":{"size":{"longest_edge":234881024}}}' --generation-config vllm --override-generation-config '{"temperature":0.6,"top_k":20}'
python3 -m sglang.launch_server --model-path M --tp 1 --mamba-ssm-dtype float32 --mamba-radix-cache-strategy extra_buffer --speculative-algorithm DSPARK --speculative-draft-model-path some/Drafter --cuda-graph-max-bs 1 --max-running-requests 1 --attention-backend flashinfer --cuda-graph-bs 1 2 4 8 --grammar-backend xgrammar
SGLANG_ENABLE_SPEC_V2=1 python -m sglang.launch_server --model M --kt-weight-path M --kt-method AMXINT4 --kt-cpuinfer 2 --kt-threadpool-count 2 --kt-num-gpu-experts 8 --kt-max-deferred-experts-per-token 2 --kt-gpu-prefill-token-threshold 1024 --served-model-name a --disable-shared-experts-fusion --max-total-tokens 40000
./build/bin/llama-server -m M -ngl 999 -c 4096 -fa on -ctk q8_0 -ctv q8_0 -b 2048 -ub 1024 --temp 0.6 --top-p 0.95 --top-k 20 --min-p 0.0 --presence-penalty 1.5 --jinja -np 2 --cont-batching --no-mmap --metrics --chat-template-kwargs '{"enable_thinking":false}' --spec-type draft-mtp --spec-draft-n-max 2 -t 2 --alias qwen --reasoning-format auto
llama-server -m M --host 0.0.0.0 --port 8080 -c 4096 -fa -fmoe -rtr -amb 512 -mla 3 -ser 7,1 -ot exps=CPU -ctk f16 --parallel 1 --threads 2 --run-time-repack -mqkv -gr
docker run --gpus all --ipc=host -p 8000:8000 vllm/vllm-openai:latest --model M --max-model-len 4k --api-key a b --allowed-origins '["*"]'
""".strip().splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=[str(i) for i in range(len(COMMANDS))])
def test_command_starts(command):
    words = shlex.split(command)
    status, log = launch(words)
    assert status == 0, log
    told = re.sub(r"\n", " ", log)
    for word in words:  # nothing is dropped in silence
        if word.startswith("--") and word not in ("--host", "--port", "--model", "--temp", "--threads", "--kv-cache-dtype"):
            name = word.split("=")[0]
            ours = name[2:].replace("_", "-") in ("top-p", "top-k", "min-p", "presence-penalty", "served-model-name", "api-key", "allowed-origins",
                                                  "override-generation-config", "hf-overrides", "speculative-num-steps", "spec-draft-n-max",
                                                  "chat-template-kwargs", "speculative-config", "gpus", "ipc", "tp", "language-model-only", "mm-processor-kwargs")
            assert ours or f"{name}:" in told or f"{name} " in told, (name, log)


def table(log):
    return dict(re.findall(r"^  (\w[\w ]*?)  +(.*)$", log, re.M))


def test_sizes_are_what_can_be_used():
    """--context alone takes what the default takes; rows of a step end at the longest prompt and at a share of memory."""
    default = table(launch(["M"])[1])
    same = table(launch(["M", "--context", "4096"])[1])
    kept = re.compile(r", requests .*")  # what is left for requests moves with the machine
    assert kept.sub("", same["memory"]) == kept.sub("", default["memory"]) and same["context"] == default["context"]
    big = table(launch(["M", "--max-num-batched-tokens", "131072", "--max-model-len", "4096"])[1])
    assert "4096 prefill tokens a step" in big["compute"] and "8 sequences" in big["context"]
    assert float(re.search(r"workspace ([\d.]+) MiB", big["memory"]).group(1)) < 200


def test_depth_zero_is_off():
    for words in (["--mtp", "off"], ["--mtp", "0"], ["--speculative-num-steps", "0"], ["--spec-type", "none"],
                  ["--speculative-config", '{"method":"mtp","num_speculative_tokens":0}']):
        _, log = launch(["M", *words])
        assert table(log)["speculation"] == "off (--mtp off)", (words, log)


def test_thinking_off(start):
    """--think off, however it is spelled, holds where a request does not say."""
    def has_open_block(s, **more):
        return s.post("/apply-template", {"messages": [{"role": "user", "content": "x"}], **more})[1]["prompt"].endswith("<think>\n")
    for args in (["--think", "off"], ["--reasoning-budget", "0"], ["--reasoning", "off"]):
        s = start(*args)
        assert not has_open_block(s) and has_open_block(s, enable_thinking=True), args
    assert has_open_block(start("--think", "on"))


@pytest.mark.parametrize("words, text", [
    (["--lora-modules", "a=b"], "adapters are not supported"), (["--logit-bias", "1-1"], "send it with the request"),
    (["--embedding"], "only text generation"), (["--config", "x.yaml"], "write them out"), (["--load-format", "dummy"], "random weights"),
    (["--preferred-sampling-params", '{"stop":["x"]}'], "'stop' is no default"), (["--reasoning-budget", "500"], "thinking_budget"),
    (["--max-model-lenn", "5"], "did you mean --max-model-len?"), (["--max-num-seqs", "x"], "not a whole number")])
def test_what_would_change_answers_is_refused(words, text):
    status, log = launch(["M", *words])
    assert status == 2 and text in log.splitlines()[-1], log


def test_help():
    ours = subprocess.run([BUILD / "quern", "serve", "--help"], capture_output=True, text=True)
    theirs = subprocess.run([BUILD / "quern", "serve", "--help-foreign"], capture_output=True, text=True)
    assert ours.returncode == 0 and theirs.returncode == 0
    assert "--context" in ours.stdout and "--max-model-len" not in ours.stdout and "--tool-call-parser" not in ours.stdout
    for part in ("as --context", "--max-model-len VALUE (vt)", "refused", "-ngl VALUE (li)"):
        assert part in theirs.stdout, part


def test_documented_tables():
    result = subprocess.run([sys.executable, ROOT / "tools" / "flags_doc.py", "--check"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_sequences_are_a_bound():
    """As elsewhere: not so many whole contexts are promised; who finds no page or no state waits."""
    log = launch(["M", "--max-model-len", "4096", "--max-num-seqs", "64", "--memory", "240M"])[1]
    assert "4096 tokens; " in table(log)["context"] and "can have the whole context at a time" in log
    status, log = launch(["M", "--max-num-seqs", "1000", "--memory", "240M"])
    assert status == 0 and "1000 sequences at once were asked for" in log and "4096 tokens" in table(log)["context"]

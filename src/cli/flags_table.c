/* What becomes of the flags of other servers. The names are those of their own definitions
 * (tools/foreign_flags.py; tests/golden/flags/ has the recorded lists), the sentences are ours.
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/flags.h"

/* clang-format off: a row is a sentence and its names */
const struct qn_flag_rule qn_flag_rules[] = {
    {QN_FLAG_OWN, QN_VALUE_TEXT, "model", NULL, NULL,
     "gguf-path/k1 -m/li1 model/vslit1 model-path/skt1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "host", NULL, NULL,
     "host/vslikt1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "port", NULL, NULL,
     "-p/li1 port/vslikt1"},
    {QN_FLAG_OWN, QN_VALUE_COUNT, "context", NULL, NULL,
     "-c/li1 context-length/s1 ctx-size/li1 max-model-len/vt1"},
    {QN_FLAG_OWN, QN_VALUE_COUNT, "max-seqs", NULL, NULL,
     "max-batch-size/k1 max-num-active-seqs/v1 max-num-seqs/vt1 max-running-requests/s1 -np/li1 "
     "parallel/li1"},
    {QN_FLAG_OWN, QN_VALUE_COUNT, "max-queue", NULL, NULL,
     "max-num-queued-reqs/v1 max-queued-requests/s1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "tp", NULL, NULL,
     "tensor-parallel-size/vst1 tp/kt1 -tp/v1 tp-size/s1"},
    {QN_FLAG_OWN, QN_VALUE_COUNT, "step-tokens", NULL, NULL,
     "chunked-prefill-size/st1 max-num-batched-tokens/v1 max-num-scheduled-tokens/v1"},
    {QN_FLAG_OWN, QN_VALUE_KV, "kv", NULL, NULL,
     "kv-cache-dtype/vst1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "memory-part", NULL, NULL,
     "device-memory-utilization/v1 gpu-memory-utilization/vt1 mem-fraction-static/s1"},
    {QN_FLAG_OWN, QN_VALUE_ON, "no-prefix-cache", NULL, NULL,
     "disable-radix-cache/s0"},
    {QN_FLAG_OWN, QN_VALUE_ON, "no-prefix-cache", NULL, NULL,
     "no-cache-prompt/l0"},
    {QN_FLAG_OWN, QN_VALUE_OFF, "no-prefix-cache", NULL, NULL,
     "cache-prompt/l0 enable-prefix-caching/vtb"},
    {QN_FLAG_OWN, QN_VALUE_GIB, "ram-tier", NULL, NULL,
     "hicache-size/s1 kv-offloading-size/v1"},
    {QN_FLAG_OWN, QN_VALUE_MIB, "ram-tier", NULL, NULL,
     "cache-ram/li1 -cram/li1"},
    {QN_FLAG_OWN, QN_VALUE_LIST, "served-model-name", NULL, NULL,
     "-a/li1 alias/li1 model-name/k1 served-model-name/vst+"},
    {QN_FLAG_OWN, QN_VALUE_LIST, "api-key", NULL, NULL,
     "api-key/vslikt+"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "api-key-file", NULL, NULL,
     "api-key-file/li1"},
    {QN_FLAG_OWN, QN_VALUE_LIST, "allowed-origins", NULL, NULL,
     "allowed-origins/v1 cors-origins/l1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "template", NULL, NULL,
     "chat-template/vsli1 chat-template-file/li1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "template-kwargs", NULL, NULL,
     "chat-template-kwargs/li1 default-chat-template-kwargs/vsj"},
    {QN_FLAG_OWN, QN_VALUE_ON, "allow-request-template", NULL, NULL,
     "trust-request-chat-template/vsb"},
    {QN_FLAG_OWN, QN_VALUE_ON, "stream-usage", NULL, NULL,
     "enable-force-include-usage/vb stream-response-default-include-usage/s0"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "temperature", NULL, NULL,
     "temp/li1 temperature/lk1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "top-p", NULL, NULL,
     "top-p/lik1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "top-k", NULL, NULL,
     "top-k/lik1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "min-p", NULL, NULL,
     "min-p/li1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "presence-penalty", NULL, NULL,
     "presence-penalty/lik1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "frequency-penalty", NULL, NULL,
     "frequency-penalty/lik1"},
    {QN_FLAG_OWN, QN_VALUE_NUMBER, "repetition-penalty", NULL, NULL,
     "repeat-penalty/li1 repetition-penalty/k1"},
    {QN_FLAG_OWN, QN_VALUE_LIMIT, "max-tokens", NULL, NULL,
     "max-new-tokens/k1 -n/vli1 n-predict/li1 predict/li1"},
    {QN_FLAG_OWN, QN_VALUE_SAMPLING, "override-generation-config", NULL, NULL,
     "override-generation-config/vj preferred-sampling-params/stj"},
    {QN_FLAG_OWN, QN_VALUE_LEVEL, "log-level", NULL, NULL,
     "log-level/vskt1 log-level-http/st1 uvicorn-log-level/v1"},
    {QN_FLAG_OWN, QN_VALUE_COUNT, "threads", NULL, NULL,
     "cpu-infer/k1 kt-cpuinfer/s1 -t/li1 threads/li1"},
    {QN_FLAG_OWN, QN_VALUE_DEVICE, "device", NULL, NULL,
     "-dev/li1 device/vslikt1"},
    {QN_FLAG_OWN, QN_VALUE_DEPTH, NULL, NULL, NULL,
     "draft/li? -draft/i1 draft-max/li? draft-n/li? num-speculative-tokens/p1 spec-draft-n-max/l1 "
     "spec-tokens/v1 speculative-num-steps/st1"},
    {QN_FLAG_OWN, QN_VALUE_SPEC, NULL, NULL, NULL,
     "-sc/vj speculative-config/vtj"},
    {QN_FLAG_OWN, QN_VALUE_ALGO, NULL, NULL, NULL,
     "spec-method/v1 spec-type/li1 speculative-algorithm/st1"},
    {QN_FLAG_OWN, QN_VALUE_MTP, NULL, NULL, NULL,
     "-mtp/i0 mtp/l? multi-token-prediction/i0"},
    {QN_FLAG_OWN, QN_VALUE_NO_MTP, NULL, NULL, NULL,
     "-no-mtp/i0 no-multi-token-prediction/i0"},
    {QN_FLAG_OWN, QN_VALUE_THINK, NULL, NULL, NULL,
     "-rea/li? reasoning/li? reasoning-budget/li1"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "hf-overrides", NULL, NULL,
     "hf-overrides/vtj json-model-override-args/s1"},
    {QN_FLAG_OWN, QN_VALUE_SAME, NULL, NULL, NULL,
     "rope-freq-base/li1 rope-freq-scale/li1 rope-scale/lik1 rope-scaling/vli1 rope-theta/v1 "
     "yarn-attn-factor/li1 yarn-beta-fast/li1 yarn-beta-slow/li1 yarn-ext-factor/li1 yarn-orig-ctx/li1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change the positions the model was made for; quern reads rope scaling from config.json alone", "none,1,1.0,0,0.0,-1,-1.0,{},null",
     "rope-alpha/k1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change the checkpoint's configuration; edit a copy of its config.json", "{},null,auto,none",
     "decrypted-config-file/s1 hf-config-path/v1 model-class-overrides/vj -okv/i1 override-kv/li1 "
     "override-neuron-config/vj"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change which experts or layers run; quern runs the model as published", "0,none,1,-1,-1.0",
     "experts-per-token/k1 -ger/i0 grouped-expert-routing/i0 uno-lora-path/s1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "adapters are not supported; merge the adapter into the checkpoint", "false,none,null,[]",
     "control-vector/li1 control-vector-scaled/li1 default-mm-loras/vj enable-lora/vsb "
     "enable-mixed-moe-lora-format/vb enable-prompt-adapter/vb kt-expert-lora-path/s1 kt-lora-path/s1 "
     "lora/li1 lora-modules/v+ lora-paths/s+ lora-scaled/li1 prompt-adapters/v+ "
     "qlora-adapter-name-or-path/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "a sampler that quern does not have; leave it out, or give its off value", "0,0.0,-1,-1.0,1,1.0,none,false",
     "adaptive-target/li1 cfg-scale/i1 dry-multiplier/li1 dynamic-temperature/k1 dynatemp-range/li1 "
     "mirostat/li1 penalize-nl/i0 skew/k1 smoothing-factor/k1 tfs/i1 top-a/k1 top-n-sigma/li1 "
     "top-nsigma/l1 typical/lik1 typical-p/l1 xtc-probability/li1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "the order of samplers is fixed; leave it out", NULL,
     "sampler-seq/l1 samplers/li1 sampling-seq/li1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "a constraint on every answer is not supported; send it with the request", "none,null",
     "allowlist-keyword/i1 allowlist-keyword-delay/i1 allowlist-pieces/i1 allowlist-unicode-rule/i1 "
     "ban-strings/k1 banned-n/i1 banned-string-file/i1 cfg-negative-prompt/i1 "
     "cfg-negative-prompt-file/i1 expiring-logit-bias-file/i1 grammar/li1 grammar-file/li1 healing/k1 "
     "ignore-eos/li0 -j/li1 -jf/l1 json-mode/k1 json-schema/li1 json-schema-file/l1 -l/li1 "
     "logit-bias/li1 mode/k1 modes/k1 -r/vli1 reverse-prompt/li1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change what answers hold; ask for it in the request", "false,none,null,off",
     "aux-output-config/vj enable-per-request-metrics/vb enable-prompt-embeds/vb "
     "enable-return-aux-hidden-states/s0 enable-return-hidden-states/s0 enable-return-indexer-topk/s0 "
     "enable-return-routed-experts/vsb per-request-spec-decode-metrics/v1 process-output/i0 "
     "return-hidden-states-mode/s1 return-input-ids/s0 return-output-ids/s0 return-sampling-mask/vb "
     "return-tokens-as-token-ids/vb -sp/li0 special/li0"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change answers; ask for thinking in the request (enable_thinking, thinking_budget)", "false,none,null,default",
     "anthropic-disabled-thinking-effort/v1 enable-strict-thinking/s0 force-think/kb "
     "reasoning-budget-message/li1 reasoning-config/vj reasoning-effort/l1 reasoning-effort-map/vj"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "would change prompts; the template decides", "false,none,assistant",
     "cohere-format/v1 cohere-is-reasoning-model/vb completion-template/s1 "
     "exclude-tools-when-tool-choice-none/vb hf-chat-template-name/s1 in-prefix/i1 in-prefix-bos/i0 "
     "in-suffix/i1 no-jinja/l0 no-prefill-assistant/li0 response-role/v1 skip-chat-parsing/li0 -spf/i1 "
     "spm-infill/li0 system-prompt/k1 system-prompt-file/i1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "log-probabilities are those of the unchanged logits", "raw_logprobs,raw-logprobs",
     "logprobs-mode/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "code of others is never run", "none,null,[]",
     "custom-sigquit-handler/s1 custom-weight-loader/s+ enable-custom-logit-processor/st0 "
     "forward-hooks/sj io-processor-plugin/v1 logits-processor-pattern/v1 logits-processors/v+ "
     "middleware/v+ reasoning-parser-plugin/v1 scheduler-cls/v1 sidecar/s1 sidecar-args/sj "
     "tool-call-parser-plugin/p1 tool-parser-plugin/v1 worker-cls/v1 worker-extension-cls/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "answers are not marked", "false,none,null,0",
     "enable-watermark/s0 watermark/v1 watermark-config/vsj"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "quern speaks plain HTTP on a TCP port; put a proxy in front", "none,null,false",
     "enable-http2/s0 enable-ssl-refresh/vsb grpc/v0 grpc-mode/s0 smg-grpc-mode/s0 ssl-ca-certs/vs1 "
     "ssl-cert-file/li1 ssl-cert-reqs/v1 ssl-certfile/vsk1 ssl-ciphers/v1 ssl-key-file/li1 "
     "ssl-keyfile/vsk1 ssl-keyfile-password/s1 uds/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "paths have no prefix here; put a proxy in front", "none,null,/",
     "api-prefix/l1 fastapi-root-path/s1 root-path/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "only text generation is served", "none,null,auto,generate,-1,false",
     "convert/v1 embd-gemma-default/l0 embedding/li0 embeddings/li0 enable-mis/s0 is-embedding/s0 "
     "multi-item-scoring-delimiter/s1 override-pooler-config/vj pooler-config/vj pooling/li1 rerank/l0 "
     "reranking/l0 runner/v1 task/v1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "asks for another role in a cluster; quern is one process", "null,none,0,false",
     "data-parallel-rank/v1 decoupled-spec-role/s1 diffusion-config/vj disaggregation-mode/st1 "
     "dllm-algorithm/s1 -dpn/v1 ec-transfer-config/vj elastic-ep-join-mode/s1 enable-elastic-ep/vb "
     "enable-pdmux/s0 enable-scale-out/vb encoder-only/s0 headless/v0 kv-transfer-config/vj "
     "language-only/s0 mm-encoder-only/vb node-rank/vst1 rpc/li1 skip-tokenizer-init/vstb "
     "tokens-only/vb"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "quern serves a folder or file; fetch it with quern pull", "none,null",
     "docker-repo/l1 -dr/li? -hf/l1 hf-file/li1 hf-repo/li1 -hff/li1 -hfr/li1 model-url/li1 -mu/li1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "options are read from the command line and from QUERN_ variables; write them out", "none,null",
     "config/vs1 ext-yaml/t1 models-dir/l1 models-preset/l1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "names a model that is not the one served", NULL,
     "fim-qwen-1.5b-default/l0 fim-qwen-14b-spec/l0 fim-qwen-30b-default/l0 fim-qwen-3b-default/l0 "
     "fim-qwen-7b-default/l0 fim-qwen-7b-spec/l0 gpt-oss-120b-default/l0 gpt-oss-20b-default/l0 "
     "vision-gemma-12b-default/l0 vision-gemma-4b-default/l0"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "a context that is full ends the answer; texts are not shifted", "off,0,1,false,none",
     "context-shift/li? -gan/i1 grp-attn-n/i1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "random weights make no answers", "!dummy",
     "load-format/vst1"},
    {QN_FLAG_REFUSE, QN_VALUE_TEXT, NULL, "a prompt that is too long is an error; ask for truncation in the request (truncate_prompt_tokens)", "false",
     "allow-auto-truncate/s0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: the model is run exactly, without this shortcut", NULL,
     "defer-experts/i0 kt-max-deferred-experts-per-token/s1 prefill-kv-cache-dequant-dtype/s1 -ser/i1 "
     "smart-expert-reduction/i1 speculative-accept-threshold-acc/s1 "
     "speculative-accept-threshold-single/s1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: penalties look at the whole answer", NULL,
     "repeat-last-n/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: requests may ask for up to 20", NULL,
     "enable-output-logprobs/t0 max-logprobs/v1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: a context that is full ends the answer", NULL,
     "-gaw/i1 grp-attn-w/i1 keep/li1 no-context-shift/li0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: there are no routes for administration", NULL,
     "admin-api-key/s1 app-key/t1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: responses are stored until memory for them is used up", NULL,
     "enable-response-store/s0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: a switch for the other server's own machinery", NULL,
     "debug-cuda-graph/s0 debug-tensor-dump-inject/s1 debug-tensor-dump-input-file/s1 "
     "debug-tensor-dump-layers/s+ debug-tensor-dump-output-folder/s1 "
     "dynamic-batch-tokenizer-batch-size/s1 dynamic-batch-tokenizer-batch-timeout/s1 "
     "enable-elastic-expert-backup/s0 enable-paged-experts/s0 extra-metric-labels/sj "
     "fail-on-environ-validation/vb mlx-enable-sampling/s0 msprobe-dump-config/s1 "
     "no-skip-chat-parsing/l0 num-redundant-experts/v1 return-aux-hidden-state-layer-ids/s+ "
     "sampling-mask-max-tokens/s1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: the model's own call and reasoning format is always parsed", NULL,
     "enable-auto-tool-choice/vb enable-reasoning/vp0 enable-thinking/p0 no-reasoning-preserve/l0 "
     "parallel-tool-calls/i0 -ptcall/i0 reasoning-format/li1 reasoning-parser/vst1 "
     "reasoning-preserve/l0 strip-thinking-cache/s0 tool-call-parser/vs1 tool-strict-level/v1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: templates are always rendered", NULL,
     "chat-template-content-format/v1 -e/li0 escape/li0 interleave-mm-strings/vb jinja/li0 "
     "no-escape/li0 prefill-assistant/l0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: the prefix cache is always on (--no-prefix-cache turns it off)", NULL,
     "cache-idle-slots/l0 cache-lens/k1 cache-ram-n-min/i1 cache-ram-similarity/i1 cache-reuse/l1 "
     "checkpoint-min-step/l1 -cms/l1 -cram-n-min/i1 -crs/i1 ctx-checkpoints/li1 "
     "ctx-checkpoints-eviction/i1 ctx-checkpoints-interval/i1 ctx-checkpoints-tolerance/i1 "
     "-ctx-ckpt/i1 -ctx-ckpt-e/i1 -ctx-ckpt-i/i1 -ctx-ckpt-t/i1 -ctxcp/l1 "
     "disable-chunked-prefix-cache/s0 disable-kvstore/t0 enable-mamba-shared-prefix-checkpoint/vb "
     "enable-session-radix-cache/s0 enable-streaming-session/s0 kvstore-io-backend/t1 "
     "kvstore-mem-layout/t1 kvstore-ratio/t1 kvstore-size/t1 kvstore-storage-backend/t1 "
     "kvstore-storage-backend-extra-config/t1 no-cache-idle-slots/l0 "
     "prefix-cache-retention-interval/v1 prefix-caching-hash-algo/v1 prefix-granularity/t1 "
     "prefix-match-unit/v1 prompt-cache/i1 prompt-cache-all/i0 prompt-cache-ro/i0 "
     "radix-cache-backend/s1 radix-eviction-policy/s1 radix-eviction-policy-config/sj "
     "reasoning-tokens/i1 recurrent-ckpt-mode/i1 slot-prompt-similarity/li1 slot-save-path/li1 "
     "spec-ckpt-mode/i1 -sps/li1 swa-checkpoints/l1 swa-prefix-tails/s1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: no code of a checkpoint is ever run", NULL,
     "config-format/v1 model-config-parser/s1 model-impl/vs1 trust-remote-code/vstb"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "allowed-local-media-path", NULL, NULL,
     "allowed-local-media-path/v1 media-path/l1"},
    {QN_FLAG_OWN, QN_VALUE_LIST, "allowed-media-domains", NULL, NULL,
     "allowed-media-domains/vs+"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "limit-mm-per-prompt", NULL, NULL,
     "limit-mm-data-per-request/sj limit-mm-per-prompt/vj"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "media-io-kwargs", NULL, NULL,
     "media-io-kwargs/vj"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "mm-processor-kwargs", NULL, NULL,
     "mm-process-config/sj mm-processor-kwargs/vj"},
    {QN_FLAG_OWN, QN_VALUE_ON, "language-model-only", NULL, NULL,
     "language-model-only/vstb"},
    {QN_FLAG_OWN, QN_VALUE_TEXT, "mmproj", NULL, NULL,
     "-mm/l1 mmproj/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: nothing to set here; pictures are read, resized and looked at by quern itself", NULL,
     "asr-max-buffer-seconds/s1 "
     "asr-max-concurrent-sessions/s1 audio/i1 disable-chunked-mm-input/vb "
     "disable-fast-image-processor/s0 disable-mm-preprocessor-cache/v0 ec-manager-config/vj "
     "enable-adaptive-dispatch-to-encoder/s0 enable-broadcast-mm-inputs-process/s0 enable-mm-embeds/vb "
     "enable-mm-global-cache/s0 enable-multimodal/s0 enable-multimodal-encoder-data-parallel/v0 "
     "enable-precise-embedding-interpolation/s0 enable-prefix-mm-cache/s0 encoder-bootstrap-port/s1 "
     "encoder-register-urls/s+ encoder-transfer-backend/s1 encoder-urls/s+ image/i1 "
     "image-max-tokens/li1 image-min-tokens/li1 image-processor-backend/s1 "
     "keep-mm-feature-on-device/s0 "
     "media-url-max-file-size-mb/s1 "
     "mm-attention-backend/st1 mm-device-do-normalize/vb mm-enable-dp-encoder/sb "
     "mm-encoder-attn-backend/v1 mm-encoder-attn-dtype/v1 mm-encoder-fp8-scale-path/v1 "
     "mm-encoder-fp8-scale-save-margin/v1 mm-encoder-fp8-scale-save-path/v1 mm-encoder-tp-mode/vt1 "
     "mm-feature-transport/s1 mm-global-cache-backend/s1 mm-hasher-algorithm/v1 mm-io-worker-num/s1 "
     "mm-ipc-gpu-memory-gb/v1 mm-max-concurrent-calls/s1 mm-per-request-timeout/s1 "
     "mm-preprocess-cache-size-mb/s1 mm-processor-cache-gb/v1 "
     "mm-processor-cache-type/v1 mm-processor-device/v1 "
     "mm-processor-worker-num/s1 mm-shm-cache-max-object-size-mb/v1 mm-tensor-ipc/v1 -mmdev/l1 "
     "mmproj-auto/l0 mmproj-device/l1 mmproj-offload/l0 mmproj-url/li1 -mmu/l1 "
     "mtmd-batch-max-tokens/l1 mtmd-kq-type/i1 no-mmproj/l0 no-mmproj-auto/l0 no-mmproj-offload/li0 "
     "skip-mm-profiling/vb threads-mtmd/i1 -tm/i1 trust-mm-content-hashes/s0 "
     "trust-request-mm-kwargs/vb video-ffmpeg-dir/l1 video-fps/l1 video-pruning-method/v1 "
     "video-pruning-rate/v1 video-timestamp-interval/l1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: each tensor's format is read from the file", NULL,
     "allow-deprecated-quantization/vb architectures/k1 cache-8bit/k1 cache-q4/k1 "
     "calculate-kv-scales/vb check-tensors/li0 checkpoint-engine-wait-weights-before-ready/s0 "
     "delete-ckpt-after-loading/st0 dtype/vst1 engram-config/vj fast-safetensors/k1 ignore-patterns/v+ "
     "kt-amx-method/s1 kt-amx-weight-path/s1 kt-method/s1 kt-weight-path/s1 kv-cache-quant-method/t1 "
     "lazy-mode/l1 -lm/l1 load-mode/l1 load-publish-endpoint/s1 load-q4/k1 "
     "load-snapshot-publish-interval/s1 load-watch-interval/st1 -lzm/l1 "
     "max-parallel-loading-workers/v1 model-checksum/s? model-loader-extra-config/vsj "
     "modelexpress-config/s1 modelopt-checkpoint-restore-path/s1 modelopt-checkpoint-save-path/s1 "
     "modelopt-export-path/s1 modelopt-quant/s1 optimize-config-path/k1 override-attention-dtype/v1 "
     "pt-load-map-location/vj -q/v1 q4-gguf-path/k1 quantization/vst1 quantization-config/vj "
     "quantization-param-path/st1 quantize-and-serve/s0 remote-instance-weight-loader-backend/s1 "
     "remote-instance-weight-loader-seed-instance-ip/s1 "
     "remote-instance-weight-loader-seed-instance-service-port/s1 "
     "remote-instance-weight-loader-send-weights-group-ports/sj "
     "remote-instance-weight-loader-start-seed-via-transfer-engine/s0 rl-on-policy-target/s1 "
     "rl-quant-profile/s1 safetensors-load-strategy/v1 safetensors-prefetch-block-size/v1 "
     "safetensors-prefetch-num-threads/v1 startup-weight-load-mode/s1 torchao-config/s1 "
     "validate-quants/i0 -vq/i0 weight-cache-mode/s1 weight-cache-socket/s1 weight-cache-timeout/s1 "
     "weight-loader-disable-mmap/s0 weight-loader-drop-cache-after-load/s0 "
     "weight-loader-prefetch-checkpoints/s0 weight-loader-prefetch-num-threads/st1 "
     "weight-transfer-config/vj weight-version/st1 -wgt/i1 worst-graph-tokens/i1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: the recurrent state is float32", NULL,
     "enable-int8-mamba-checkpoint/s0 enable-mamba-cache-stochastic-rounding/vsb "
     "int8-mamba-ckpt-size/s1 mamba-cache-dtype/v1 mamba-cache-philox-rounds/vs1 "
     "mamba-ssm-cache-dtype/v1 mamba-ssm-dtype/st1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: the KV cache has one type, --kv", NULL,
     "cache-type-k/li1 cache-type-k-draft/li1 cache-type-k-first/i1 cache-type-k-last/i1 "
     "cache-type-v/li1 cache-type-v-draft/li1 cache-type-v-first/i1 cache-type-v-last/i1 -ctk/li1 "
     "-ctk-first/i1 -ctk-last/i1 -ctkd/li1 -ctv/li1 -ctv-first/i1 -ctv-last/i1 -ctvd/li1 -ictk/i1 "
     "indexer-cache-type-k/i1 k-cache-hadamard/i0 -khad/i0 kv-cache-dtype-skip-layers/v+ "
     "qsa-indexer-dtype/s1 speculative-draft-kv-cache-dtype/s1 v-cache-hadamard/i0 -vhad/i0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: all weights and states are on one device", NULL,
     "base-gpu-id/st1 -cmoe/li0 cpu-moe/li0 cpu-offload-gb/vs1 cpu-offload-params/v+ -cuda/i1 "
     "cuda-params/i1 device-ids/v1 enable-draft-weights-cpu-backup/s0 enable-memory-saver/st0 "
     "enable-weights-cpu-backup/s0 fit/li? -fit/l? fit-ctx/l1 fit-margin/i1 fit-target/l1 -fitc/l1 "
     "-fitt/l1 -gfm/i1 gpu-fit-margin/i1 gpu-id-step/st1 gpu-layers/li1 gpu-split/k1 "
     "kt-num-gpu-experts/s1 kv-offload/l0 -kvo/l0 list-devices/l0 low-mem/k1 main-gpu/li1 "
     "max-extra-alloc/i1 max-gpu/i1 -mea/i1 memory-gpu-only/k1 -mg/li1 n-cpu-ffn/l1 n-cpu-moe/li1 "
     "n-gpu-layers/li1 -ncffn/l1 -ncmoe/li1 -ngl/li1 -nkvo/li0 no-host/l0 no-kv-offload/li0 "
     "no-offload-only-active-experts/i0 -no-ooae/i0 no-op-offload/l0 offload-backend/v1 "
     "offload-group-size/vs1 offload-mode/s1 offload-num-in-group/vs1 offload-params/v+ "
     "offload-policy/i1 offload-prefetch-step/vs1 -op/i1 op-offload/l0 -ot/li1 override-tensor/li1 "
     "ple-offload-backend/s1 ple-offload-dir/s1 ple-offload-embedding/sb -sm/li1 -smf16/i0 -smf32/i0 "
     "-smgs/i0 split-mode/li1 split-mode-f16/i0 split-mode-f32/i0 split-mode-graph-scheduling/i0 "
     "swap-space/v1 tensor-split/li1 -ts/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: ranks share the model by --tp alone", NULL,
     "attention-context-parallel-size/s1 dcp/p1 -dcp/v1 dcp-size/s1 decode-context-parallel-size/vs1 "
     "enable-deepep-moe/s0 enable-ep-moe/s0 enable-expert-parallel/vtb "
     "enable-nsa-prefill-context-parallel/s0 enable-prefill-context-parallel/s0 ep/s1 -ep/vb "
     "ep-size/st1 expert-parallel-size/st1 -pcp/v1 pp/p1 -pp/v1 pp-size/s1 "
     "prefill-context-parallel-size/v1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: one process serves", NULL,
     "-C/l1 -Cb/l1 -Cbd/l1 -Cd/l1 -Cr/l1 -Crb/l1 -Crd/l1 allow-credentials/vb allowed-headers/vj "
     "allowed-methods/vj api-server-count/v1 batch-notify-size/s1 cors-credentials/l0 cors-headers/l1 "
     "cors-methods/l1 cpu-distributed-timeout-seconds/v1 cpu-mask/l1 cpu-mask-batch/l1 "
     "cpu-mask-batch-draft/l1 cpu-mask-draft/l1 cpu-range/l1 cpu-range-batch/l1 cpu-range-draft/l1 "
     "cpu-strict/l1 cpu-strict-batch/l1 cpu-strict-batch-draft/l1 cpu-strict-draft/l1 "
     "data-parallel-address/vt1 data-parallel-backend/v1 data-parallel-external-lb/vb "
     "data-parallel-hybrid-lb/vb data-parallel-multi-port-external-lb/v0 data-parallel-rpc-port/vt1 "
     "data-parallel-size/vst1 data-parallel-size-local/v1 data-parallel-start-rank/v1 "
     "data-parallel-supervisor-port/v1 detokenizer-worker-num/s1 -dio/p0 direct-io/p0 "
     "disable-async-output-proc/v0 disable-custom-all-reduce/vsb disable-fastapi-docs/vb "
     "disable-frontend-multiprocessing/vb disable-tokenizer-batch-decode/s0 "
     "disaggregation-bootstrap-port/st1 disaggregation-decode-allocation-policy/s1 "
     "disaggregation-decode-dp/s1 disaggregation-decode-enable-offload-kvcache/s0 "
     "disaggregation-decode-enable-radix-cache/s0 disaggregation-decode-extra-slots/s1 "
     "disaggregation-decode-host-receive-threshold/s1 disaggregation-decode-polling-interval/s1 "
     "disaggregation-decode-retraction-backup/s1 disaggregation-decode-tp/s1 "
     "disaggregation-enable-kv-checksum/s0 disaggregation-ib-device/st1 "
     "disaggregation-layerwise-interval/t1 disaggregation-prefill-pp/s1 "
     "disaggregation-transfer-backend/st1 dist-init-addr/st1 dist-timeout/s1 "
     "distributed-executor-backend/v1 distributed-timeout-seconds/vt1 dp/p1 -dp/v1 -dpa/v1 -dpb/v1 "
     "-dpe/vb -dph/vb -dpl/v1 -dpm/v0 -dpp/v1 -dpr/v1 elastic-ep-backend/s1 elastic-ep-initial-size/s1 "
     "elastic-ep-join-rank-offset/s1 elastic-ep-max-dp-size/v1 elastic-ep-scale-timeout/s1 "
     "enable-fault-tolerance/vb enable-http-worker-reuseport/s0 enable-offline-docs/vb "
     "enable-pcie-oneshot-allreduce/p0 enable-pcie-oneshot-allreduce-fusion/p0 "
     "enable-server-load-tracking/vb enable-shm-tensor-arena/vb enable-sleep-mode/vb "
     "enable-symm-mem/s0 enable-tokenizer-batch-encode/s0 engine-use-ray/p0 fault-tolerance-config/vj "
     "gated-launch-port/s1 gc-threshold/s+ gc-warning-threshold-secs/s1 grpc-http-sidecar-port/s1 "
     "grpc-port/vs1 grpc-response-timeout-secs/s1 h11-max-header-count/v1 "
     "h11-max-incomplete-event-size/v1 http2-initial-connection-window-size/s1 "
     "http2-max-concurrent-streams/s1 incremental-streaming-output/s0 load-balance-method/st1 "
     "master-addr/v1 master-port/v1 max-ep-size/s1 -mli/i0 mlock/i0 nccl-init-addr/s1 nccl-port/s1 "
     "-ndio/p0 nnodes/vst1 no-cors-credentials/l0 no-direct-io/p0 no-mmap/i0 nprocs-per-node/t1 "
     "numa/li1 numa-bind/vb numa-bind-cpus/v+ numa-bind-nodes/v+ numa-node/s+ "
     "pcie-oneshot-allreduce-max-size/p1 pdlb-url/st1 pipeline-parallel-size/vs1 poll/l1 poll-batch/l1 "
     "poll-batch-draft/l1 poll-draft/l1 pre-warm-nccl/s0 prio/l1 prio-batch/l1 prio-batch-draft/l1 "
     "prio-draft/l1 priority-scheduling-preemption-threshold/s1 ray-workers-use-nsight/vb "
     "renderer-num-workers/v1 reuse-port/l0 rl-control-port/t1 shutdown-timeout/v1 "
     "sleep-idle-seconds/l1 sleep-mode-backend/v1 sleep-mode-offload-cudagraph/vb sleep-on-idle/s0 "
     "sleep-preserve-parameter-names/v+ smg-http-sidecar-port/s1 soft-watchdog-timeout/s1 "
     "sse-keep-alive-interval/v1 sse-ping-interval/l1 stream-output/st0 -tb/li1 threads-batch/li1 "
     "threads-http/li1 timeout/li1 -to/li1 tokenizer-backend/s1 tokenizer-pool-extra-config/vj "
     "tokenizer-pool-size/v1 tokenizer-pool-type/v1 tokenizer-worker-num/s1 use-ray/s0 "
     "watchdog-config/vj watchdog-timeout/s1 web/k1 web-cross-domain/k1 worker-use-ray/p0 "
     "world-size/tp1 zmq-engine-index/t1 zmq-msgpack/tb"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: decided from the checkpoint and the machine", NULL,
     "abort-on-priority-when-disabled/s0 -ac/vj additional-config/vj all2all-backend/vt1 -amb/i1 "
     "-asc/v1 async-scheduling/vb attention/i1 attention-backend/vst1 attention-config/vj "
     "attention-data-parallel-size/s1 attention-max-batch/i1 attn-cp-size/s1 attn-dp-size/s1 "
     "attn-tp-size/t1 -b/li1 backend-sampling/l0 batch-size/lik1 bf16-gemm-backend/s1 block-size/vt1 "
     "boundary-reduction/s1 -bs/l0 c128-page-size/s1 -cb/li0 chunk/i1 chunk-separator/i1 "
     "chunk-size/ik1 chunks/i1 comm-fusion-max-num-tokens/t1 cont-batching/li0 context-bucket/s1 "
     "cp-kv-cache-interleave-size/v1 cp-strategy/s1 dbo-decode-token-threshold/v1 "
     "dbo-prefill-token-threshold/v1 dcp-comm-backend/vs1 dcp-kv-cache-interleave-size/v1 "
     "dcp-q-replicate/vb dcp-replicate-q-proj/sb decode-attention-backend/s1 deepep-config/s1 "
     "deepep-dispatcher-output-dtype/s1 deepep-mode/st1 deepep-v2-mode/s1 "
     "deepseek-v4-indexer-prefill-max-logits-mb/t1 deepseek-v4-mega-moe-max-num-tokens/t1 "
     "deepseek-v4-prefill-chunk-size/t1 default-priority-value/s1 defrag-thold/li1 dense-tp-size/t1 "
     "disable-aiter-allreduce-fusion-in-decode/s0 disable-aiter-allreduce-fusion-in-prefill/s0 "
     "disable-attn-tp-gather/s0 disable-cascade-attn/vb disable-flashinfer-autotune/st0 "
     "disable-flashinfer-cutlass-moe-fp4-allgather/st0 disable-hybrid-kv-cache-manager/vb "
     "disable-hybrid-swa-memory/s0 disable-nccl-for-dp-synchronization/vb disable-nccl-nvls/t0 "
     "disable-overlap-schedule/st0 disable-pdl/t0 disable-prefill-graph/t0 "
     "disable-priority-preemption/s0 disable-sampling-tp-sync/t0 disable-shared-experts-fusion/s0 "
     "disable-sliding-window/vb disable-symm-mem/t0 disable-tf32/t0 "
     "disable-weight-loader-prefetch-checkpoints/t0 dllm-algorithm-config/s1 dllm-fdfo/sb "
     "dp-sampling/t0 dp-sampling-min-bs/t1 dp-size/s1 dp-supervisor-probe-failure-threshold/v1 "
     "dp-supervisor-probe-interval-s/v1 dp-supervisor-probe-timeout-s/v1 dp-sync-interval/v1 "
     "draft-moe-backend/t1 drafter-attention-backend/t1 ds-channel-config-path/s1 "
     "ds-heavy-channel-num/s1 ds-heavy-channel-type/s1 ds-heavy-token-num/s1 "
     "ds-sparse-decode-threshold/s1 dsa/i0 -dsa/i0 dsa-decode-backend/s1 "
     "dsa-paged-mqa-logits-backend/s1 dsa-prefill-backend/s1 dsa-top-k/i1 dsa-topk-backend/s1 "
     "dsa-triton-union/s1 -dsatk/i1 dsv4-attn-backend/s1 dsv4-prefill-backend/s1 -dt/li1 dwdp-size/s1 "
     "eagle3-layers-to-capture/t1 enable-aiter-allreduce-fusion/s0 enable-allreduce-fusion/t0 "
     "enable-amd-monokernel/s0 enable-attn-tp-input-scattered/s0 enable-batch-sharded-sampling/vb "
     "enable-chunked-prefill/vb enable-cp-decode-attn-tp/s0 enable-cumem-allocator/vb enable-dbo/vb "
     "enable-decoder-swa-bounded-replay/sb enable-deepseek-v4-fp4-indexer/s0 "
     "enable-dense-mlp-attn-tp/s0 enable-deterministic-inference/s0 enable-double-sparsity/s0 "
     "enable-dp-attention/s0 enable-dp-attention-local-control-broadcast/s0 enable-dp-lm-head/s0 "
     "enable-dsa-cache-layer-split/s0 enable-dsa-fused-indexer/sb enable-dynamic-batch-tokenizer/s0 "
     "enable-dynamic-chunking/s0 enable-encoder-swa-bounded-replay/s0 enable-ep-weight-filter/vb "
     "enable-eplb/vstb enable-expert-distribution-metrics/st0 enable-flash-late-interaction/vb "
     "enable-flashinfer-allreduce-fusion/s0 enable-flashinfer-autotune/vb enable-flashinfer-mla/s1 "
     "enable-flashmla/s1 enable-flexkv/s0 enable-fp32-lm-head/s0 enable-fused-moe-sum-all-reduce/s0 "
     "enable-fused-qk-norm-rope/sb enable-hc-sp/vb enable-hicache/s0 enable-hierarchical-cache/s0 "
     "enable-hisparse/s0 enable-kv-cache-sharding/s0 enable-layernorm-sp/s0 enable-lean-attention/s0 "
     "enable-linear-replayssm/s0 enable-linear-replayssm-spec/s0 enable-linker-mla-dedup/s0 "
     "enable-lmcache/s0 enable-megamoe-for-layernorm-sp/s0 enable-mixed-batch/t0 enable-mixed-chunk/s0 "
     "enable-mscclpp/s0 enable-multi-layer-eagle/s0 enable-nan-detection/st0 "
     "enable-nccl-comm-suspend/vb enable-nccl-nvls/s0 enable-nvidia-megakernel/s0 enable-p2p-check/st0 "
     "enable-page-major-kv-layout/s0 enable-pd-role-switch/s0 enable-prefill-cp/s0 "
     "enable-prefill-delayer/s0 enable-priority-scheduling/s0 enable-quant-communications/s0 "
     "enable-replay-ssm/t0 enable-scattered-sconv/s0 enable-shared-experts-attn-tp/s0 "
     "enable-single-batch-overlap/s0 enable-tf32-matmul/sb enable-torch-symm-mem/s0 "
     "enable-tp-lm-head-all-to-all/sb enable-two-batch-overlap/s0 "
     "enable-unified-cache-external-linker/s0 enable-unified-memory/s0 enable-w4a4-mxfp4-megamoe/s0 "
     "enable-waterfill/s0 enforce-disable-flashinfer-allreduce-fusion/s0 "
     "enforce-shared-experts-fusion/s0 engine-info-bootstrap-port/s1 ep-dispatch-algorithm/st1 "
     "ep-num-redundant-experts/st1 eplb-algorithm/st1 eplb-config/vj eplb-log-balancedness/vb "
     "eplb-min-rebalancing-utilization-threshold/s1 eplb-rebalance-layers-per-chunk/s1 "
     "eplb-rebalance-num-iterations/s1 eplb-step-interval/v1 eplb-window-size/v1 "
     "expert-balancedness-report-mode/s1 expert-distribution-recorder-buffer-size/st1 "
     "expert-distribution-recorder-mode/st1 expert-placement-strategy/v1 experts-shared-outer-loras/sb "
     "-fa/li? -fdn/i1 -fidx/i0 flash-attn/li? flashinfer-a2a-dispatch-type/s1 "
     "flashinfer-allreduce-fusion-backend/s1 flashinfer-autotune-skip-ops/s+ "
     "flashinfer-mla-disable-ragged/s0 flashinfer-mxfp4-moe-precision/s1 flexkv-config-file/s1 "
     "-fmoe/p0 force-deterministic-rsag/t0 fp4-gemm-backend/s1 fp4-gemm-runner-backend/p1 "
     "fp8-gemm-backend/s1 fp8-gemm-runner-backend/p1 -fug/p0 fused-delta-net/i1 fused-indexer-topk/i0 "
     "fused-moe/p0 fused-up-gate/p0 fuseep-mode/s1 -gap/i1 gdn-decode-backend/p1 "
     "gdn-prefill-backend/v1 -gr/i0 graph-attn-precision/i1 graph-reduce-type/i1 graph-reuse/i0 "
     "-grt/i1 hicache-host-memory-fraction/s1 hicache-host-memory-mode/s1 hicache-io-backend/s1 "
     "hicache-mem-layout/s1 hicache-ratio/s1 hicache-storage-backend/s1 "
     "hicache-storage-backend-extra-config/s1 hicache-storage-prefetch-policy/s1 "
     "hicache-storage-prefetch-retry-max-attempts/s1 hicache-storage-prefetch-retry-poll-interval/s1 "
     "hicache-write-policy/s1 hierarchical-sparse-attention-extra-config/s1 hisparse-config/s1 "
     "hybrid-kvcache-ratio/s? init-expert-location/st1 ir-op-priority/vj kda-backend/t1 "
     "kda-decode-backend/v1 kda-prefill-backend/v1 kernel-config/vj kt-enable-dynamic-expert-update/s0 "
     "kt-expert-placement-strategy/s1 kt-gpu-experts-ratio/s1 kt-gpu-prefill-token-threshold/s1 "
     "kt-numa-nodes/s+ kt-threadpool-count/s1 kv-cache-memory-bytes/v1 kv-cache-metrics/vb "
     "kv-cache-metrics-sample/v1 kv-canary/s1 kv-canary-real-data/s1 kv-canary-sweep-interval/s1 "
     "kv-events-config/vstj kv-offloading-backend/v1 kv-sharing-fast-prefill/vb kv-unified/l0 "
     "kv-unified-per-slot/l1 kvc2-config-dir/k1 -kvu/l0 linear-attn-backend/s1 "
     "linear-attn-decode-backend/s1 linear-attn-prefill-backend/s1 linear-attn-verify-backend/s1 "
     "linear-backend/v1 linear-replayssm-cache-len/s1 lmcache-config-file/s1 "
     "long-prefill-token-threshold/v1 long-prefill-token-threshold-adaptive/vb "
     "low-latency-max-num-tokens-per-gpu/t1 mamba-backend/vs1 mamba-block-size/v1 mamba-cache-mode/v1 "
     "mamba-full-memory-ratio/s1 mamba-max-states-per-path/s1 mamba-radix-cache-strategy/s1 "
     "mamba-scheduler-strategy/s1 mamba-ssu-algorithm/v1 mamba-track-interval/s1 "
     "max-long-partial-prefills/v1 max-mamba-cache-size/s1 max-micro-batch-size/s1 "
     "max-num-partial-prefills/v1 max-num-queued-tokens/v1 max-prefill-tokens/st1 "
     "max-seq-len-to-capture/v1 max-total-tokens/st1 merge-qkv/i0 merge-up-gate-experts/i0 "
     "min-free-slots-delay/s1 -mla/i1 mla-chunk-multiplier/t1 mla-disable-ragged/t0 mla-use/i1 "
     "-mmad/p0 moe-a2a-backend/s1 moe-backend/vt1 moe-data-parallel-size/s1 moe-dense-tp-size/s1 "
     "moe-dp-size/s1 moe-runner-backend/s1 moe-tp-size/t1 monokernel/vb monokernel-backend/s1 "
     "mooncake-ib-device/s1 -mqkv/i0 -muge/i0 multi-step-stream-outputs/vb n-share-experts-fusion/s1 "
     "no-cont-batching/li0 no-draft-scale/k1 -no-fa/i0 no-flash-attn/ik? -no-fmoe/i0 -no-fug/i0 "
     "no-fused-moe/i0 no-fused-mul-multiadd/i0 no-fused-up-gate/i0 -no-gr/i0 no-graph-reuse/i0 "
     "no-kv-unified/l0 -no-kvu/l0 -no-mmad/i0 no-repack/l0 no-slots/li0 -nocb/li0 -nr/l0 "
     "nsa-decode-backend/s1 nsa-prefill-backend/s1 nsa-prefill-cp-mode/s1 "
     "num-continuous-decode-steps/s1 num-gpu-blocks-override/v1 num-lookahead-slots/v1 "
     "num-reserved-decode-tokens/s1 num-scheduler-steps/v1 optimistic-prefill-attempts/s1 "
     "optimization-level/v1 page-size/sk1 paged-experts-num-resident/s1 pdmux-config-path/s1 "
     "performance-mode/v1 pp-async-batch-depth/s1 pp-max-micro-batch-size/s1 preemption-mode/v1 "
     "prefetch-experts/i0 prefetch-experts-threads/i1 prefill-attention-backend/s1 prefill-cp-mode/s1 "
     "prefill-decode-interval/s1 prefill-decode-interval-min-bs/s1 "
     "prefill-delayer-forward-passes-buckets/s+ prefill-delayer-max-delay-ms/s1 "
     "prefill-delayer-max-delay-passes/s1 prefill-delayer-queue-min-ratio/s1 "
     "prefill-delayer-token-usage-low-watermark/s1 prefill-delayer-wait-seconds-buckets/s+ "
     "prefill-graph-capture-sizes/t+ prefill-graph-max-tokens/t1 prefill-max-requests/s1 "
     "prefill-only-disable-kv-cache/s0 prefill-round-robin-balance/s? prefill-schedule-interval/v1 "
     "-rcache/i0 repack/l0 replayssm-buffer-len/v1 retraction-policy/s1 rope-cache/i0 -rtr/i0 "
     "run-time-repack/i0 sampling-backend/st1 -sas/i0 sched-strategy/k1 schedule-conservativeness/s1 "
     "schedule-low-priority-values-first/s0 schedule-policy/s1 scheduler-async/i0 "
     "scheduler-delay-factor/v1 scheduler-recv-interval/s1 scheduler-reserve-full-isl/vb "
     "scheduling-policy/v1 shared-experts-tp-size/s1 simple-io/i0 slots/l0 sm-group-num/s1 "
     "sparse-indexer-topk-backend/v1 spec-autotune/i0 speculative-attention-mode/s1 "
     "speculative-draft-attention-backend/s1 speculative-dsa-topk-backend/s1 "
     "speculative-enable-w4a4-mxfp4-megamoe/sb speculative-moe-a2a-backend/s1 "
     "speculative-moe-runner-backend/s1 speculative-use-block-verification/s0 "
     "speculative-use-rejection-sampling/s0 swa-bounded-replay/vb swa-compress/i0 swa-full/l0 "
     "swa-full-tokens-ratio/s1 tbo-token-distribution-threshold/s1 -thp/i0 transparent-huge-pages/i0 "
     "triton-attention-num-kv-splits/s1 triton-attention-reduce-in-fp32/st0 "
     "triton-attention-split-tile-size/s1 -ub/li1 ubatch-size/vli1 "
     "unified-cache-external-linker-backend/s1 unified-cache-external-linker-config/sj "
     "use-fp64-gumbel/vb use-replayssm/vb use-v2-block-manager/v0 utilization-percentage/k1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: one line a request is logged (--log-level)", NULL,
     "aggregate-engine-logging/v0 all-logits/i0 crash-dump-folder/s1 decode-log-interval/st1 "
     "disable-access-log-for-endpoints/v1 disable-log-requests/vb disable-log-stats/v0 "
     "disable-uvicorn-access-log/vb enable-log-deltas/vb enable-log-outputs/vb "
     "enable-log-request-stats/tb enable-log-requests/vtb enable-logging-iteration-details/vb "
     "enable-request-time-stats-logging/s0 -ld/i1 log-colors/l? log-config-file/v1 log-dir/k1 "
     "log-disable/l0 log-error-stack/vb log-file/lk1 log-format/i1 log-jsonl/l0 log-prefix/l0 "
     "log-prompts-dir/l1 log-requests/s0 log-requests-format/s1 log-requests-level/st1 "
     "log-requests-target/s+ log-timestamps/l0 log-verbose/l0 log-verbosity/l1 logdir/i1 "
     "logging-config/v1 -lv/l1 max-log-len/v1 minilog/i0 no-log-jsonl/l0 no-log-prefix/l0 "
     "no-log-timestamps/l0 no-perf/l0 perf/l0 -pps/i0 print-timings/k1 print-token-count/i1 -ptc/i1 "
     "save-all-logits/i1 show-time-cost/s0 use-tqdm-on-load/vb uvicorn-access-log-exclude-prefixes/s+ "
     "-v/li0 verbose/li0 verbose-prompt/i0 verbosity/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: one grammar engine does all forms", NULL,
     "constrained-json-disable-any-whitespace/s0 constrained-json-max-whitespace-cnt/s1 "
     "constrained-json-whitespace-pattern/s1 disable-any-whitespace/t0 disable-capturable-grammar/t0 "
     "disable-outlines-disk-cache/s0 grammar-backend/st1 grammar-compile-max-retries/t1 "
     "grammar-compile-timeout-secs/t1 guided-decoding-backend/v1 structured-outputs-config/vj"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: nothing is compiled at start", NULL,
     "-O/vj -cc/vj compilation-config/vj cuda-graph-backend-decode/s1 cuda-graph-backend-prefill/s1 "
     "cuda-graph-bs/s+ cuda-graph-bs-decode/s+ cuda-graph-bs-prefill/s+ cuda-graph-config/s1 "
     "cuda-graph-max-bs/s1 cuda-graph-max-bs-decode/s1 cuda-graph-max-bs-prefill/s1 "
     "cuda-graph-max-seq-len-prefill/s1 cuda-graph-prefill-max-context/s1 cuda-graph-sizes/v+ "
     "cudagraph-capture-sizes/vt+ cudagraph-metrics/vb disable-autotune/t0 disable-cuda-graph/s0 "
     "disable-cuda-graph-padding/st0 disable-decode-cuda-graph/s0 disable-piecewise-cuda-graph/s0 "
     "disable-prefill-cuda-graph/s0 enable-cudagraph-gc/st0 enable-piecewise-cuda-graph/s? "
     "enable-profile-cuda-graph/s0 enable-torch-compile/s0 enable-torch-compile-debug-mode/s0 "
     "enforce-eager/vtb enforce-piecewise-cuda-graph/s0 jit-monitor-mode/v1 jit-monitor-verbose/vb "
     "max-cudagraph-capture-size/vt1 no-warmup/li0 piecewise-cuda-graph-compiler/s1 "
     "piecewise-cuda-graph-max-tokens/s1 piecewise-cuda-graph-tokens/s+ skip-server-warmup/st0 "
     "torch-compile-max-bs/s1 use-cuda-graph/kb warmup/l0 warmup-batch/i0 warmups/st1 -wb/i0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: drafts come from the model's own MTP head, a chain of them", NULL,
     "-cd/i1 -cmoed/l0 cpu-moe-draft/l0 ctx-size-draft/i1 -dc/vj decoupled-spec-bind-endpoint/s1 "
     "decoupled-spec-connect-endpoints/sj decoupled-spec-rank/s1 decrypted-draft-config-file/s1 "
     "-devd/li1 device-draft/li1 dflash/l0 draft-gguf-path/k1 draft-min/li? draft-model-dir/k1 "
     "draft-model-path/k1 draft-model-path-use-base/t0 draft-n-min/li? draft-output/i1 "
     "draft-output-file/i1 draft-p-min/li1 draft-p-split/l1 draft-params/i1 eagle3/l0 "
     "gpu-layers-draft/li1 hf-repo-draft/l1 -hfd/l1 -hfrd/l1 -lcd/li1 -lcs/li1 "
     "lookup-cache-dynamic/li1 lookup-cache-static/li1 -md/li1 model-draft/li1 "
     "mtp-requantize-output-tensor/i1 -mtprot/i1 n-cpu-moe-draft/l1 n-gpu-layers-draft/li1 -ncmoed/l1 "
     "-ngld/li1 ngram-decoding/k1 ngram-prompt-lookup-max/p1 ngram-prompt-lookup-min/p1 "
     "no-spec-draft-backend-sampling/l0 -otd/l1 output-draft/i1 override-tensor-draft/l1 p-split/i1 "
     "-ps/i1 spec-default/l0 spec-draft-backend-sampling/l0 spec-draft-cpu-mask/l1 "
     "spec-draft-cpu-mask-batch/l1 spec-draft-cpu-moe/l0 spec-draft-cpu-range/l1 "
     "spec-draft-cpu-strict/l1 spec-draft-cpu-strict-batch/l1 spec-draft-device/l1 spec-draft-hf/l1 "
     "spec-draft-model/l1 spec-draft-n-cpu-moe/l1 spec-draft-n-min/l1 spec-draft-ncmoe/l1 "
     "spec-draft-ngl/l1 spec-draft-override-tensor/l1 spec-draft-p-min/l1 spec-draft-p-split/l1 "
     "spec-draft-poll/l1 spec-draft-poll-batch/l1 spec-draft-prio/l1 spec-draft-prio-batch/l1 "
     "spec-draft-threads/l1 spec-draft-threads-batch/l1 spec-draft-type-k/l1 spec-draft-type-v/l1 "
     "spec-model/v1 spec-ngram-map-k-min-hits/l1 spec-ngram-map-k-size-m/l1 spec-ngram-map-k-size-n/l1 "
     "spec-ngram-map-k4v-min-hits/l1 spec-ngram-map-k4v-size-m/l1 spec-ngram-map-k4v-size-n/l1 "
     "spec-ngram-min-hits/li? spec-ngram-mod-n-match/l1 spec-ngram-mod-n-max/l1 "
     "spec-ngram-mod-n-min/l1 spec-ngram-simple-min-hits/l1 spec-ngram-simple-size-m/l1 "
     "spec-ngram-simple-size-n/l1 spec-ngram-size-m/li? spec-ngram-size-n/li? spec-replace/i1 "
     "spec-stage/i1 spec-synth-len/l1 spec-synth-rates/l1 spec-trace-dir/s1 speculative-adaptive/s0 "
     "speculative-adaptive-config/s1 speculative-dflash-block-size/s1 "
     "speculative-disable-by-batch-size/p1 speculative-domino-candidate-pool-size/s1 "
     "speculative-draft-load-format/s1 speculative-draft-model/s1 speculative-draft-model-path/st1 "
     "speculative-draft-model-quantization/st1 speculative-draft-model-revision/s1 "
     "speculative-draft-sink-size/s1 speculative-draft-tensor-parallel-size/p1 "
     "speculative-draft-window-size/s1 speculative-dspark-align-verify-tokens-to-graph-tier/s0 "
     "speculative-dspark-block-size/s1 speculative-dspark-confidence-sts-path/s1 "
     "speculative-dspark-sps-table-path/s1 speculative-eagle-topk/st1 speculative-model/p1 "
     "speculative-ngram-branch-length/s1 speculative-ngram-capacity/s1 "
     "speculative-ngram-external-corpus-max-tokens/s1 speculative-ngram-external-corpus-path/s1 "
     "speculative-ngram-external-sam-budget/s1 speculative-ngram-match-type/s1 "
     "speculative-ngram-max-bfs-breadth/s1 speculative-ngram-max-match-window-size/s1 "
     "speculative-ngram-max-trie-depth/s1 speculative-ngram-min-bfs-breadth/s1 "
     "speculative-ngram-min-match-window-size/s1 speculative-num-draft-tokens/st1 "
     "speculative-token-map/s1 suffix-corpus/i1 suffix-max-depth/i1 suffix-pattern-len/i1 -tbd/li1 "
     "-td/li1 threads-batch-draft/li1 threads-draft/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed without adapters, which are not loaded", NULL,
     "enable-lora-bias/vb enable-lora-overlap-loading/s0 enable-moe-shared-loras/vb "
     "enable-tower-connector-lora/vb fully-sharded-loras/vb long-lora-scaling-factors/v+ "
     "lora-backend/s1 lora-drain-wait-threshold/s1 lora-dtype/v1 lora-eviction-policy/s1 "
     "lora-extra-vocab-size/v1 lora-init-without-apply/li0 lora-strict-loading/sb "
     "lora-target-modules/vs+ lora-use-virtual-experts/s0 max-cpu-loras/v1 max-loaded-loras/s1 "
     "max-lora-chunk-size/s1 max-lora-cls-labels/v1 max-lora-rank/vs1 max-loras/v1 "
     "max-loras-per-batch/s1 max-prompt-adapter-token/v1 max-prompt-adapters/v1 "
     "specialize-active-lora/vb"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: the model's own is used", NULL,
     "generation-config/v1 sampling-defaults/s1 tokenizer/vt1 tokenizer-mode/vst1 tokenizer-path/s1 "
     "tokenizer-revision/v1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: a folder is served as it is; quern pull fetches a revision", NULL,
     "code-revision/v1 download-dir/vst1 file-storage-path/s1 hf-token/vli? -hft/li? model-dir/k1 "
     "no-code-formatting/k1 offline/l0 revision/vst1 tags/l1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: requests bring their seed", NULL,
     "random-seed/s1 -s/li1 seed/vlit1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: answers always carry x-request-id and cached tokens", NULL,
     "enable-cache-report/st0 enable-prompt-tokens-details/vb enable-request-id-headers/vb"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: tokens are sent as they come", NULL,
     "stream-interval/vst1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "not needed: /metrics is always there", NULL,
     "bucket-e2e-request-latency/s+ bucket-inter-token-latency/s+ bucket-time-to-first-token/s+ "
     "collect-tokens-histogram/s0 custom-histogram-buckets/vj enable-forward-pass-metrics/s0 "
     "enable-metrics/st0 enable-metrics-for-all-schedulers/s0 enable-mfu-metrics/vsb "
     "export-metrics-to-file/s0 export-metrics-to-file-dir/s1 forward-pass-metrics-ipc-name/s1 "
     "forward-pass-metrics-worker-id/s1 generation-tokens-buckets/s+ metrics/li0 metrics-reporters/t1 "
     "prompt-tokens-buckets/s+ show-hidden-metrics-for-version/v1 "
     "tokenizer-metrics-allowed-custom-labels/s+ tokenizer-metrics-custom-labels-header/s1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: no spans are exported; --trace DIR leaves a file a request", NULL,
     "collect-detailed-traces/v+ enable-layerwise-nvtx-marker/s0 enable-layerwise-nvtx-tracing/vb "
     "enable-nvtx/t0 enable-trace/s0 enable-trace-replay/vb otlp-service-name/s1 "
     "otlp-traces-endpoint/vs1 profiler-config/vj trace-modules/s1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: the chat page, /props and /slots are always there", NULL,
     "enable-tokenizer-info-endpoint/vb fingerprint-mode/v1 fingerprint-value/v1 models-autoload/l0 "
     "models-max/l1 no-models-autoload/l0 no-ui/l0 no-ui-mcp-proxy/l0 no-webui/l0 "
     "no-webui-mcp-proxy/l0 path/li1 props/l0 ui/l0 ui-config/l1 ui-config-file/l1 ui-mcp-proxy/li0 "
     "webui/li? webui-config/l1 webui-config-file/l1 webui-mcp-proxy/li0"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: tools run at the client", NULL,
     "-ag/l0 agent/l0 mcp-servers-config/l1 mcp-servers-json/l1 -no-ag/l0 no-agent/l0 tool-server/vs1 "
     "tools/l1 tools-runtime/l1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: a switch of the sampler named beside it, which is not used", NULL,
     "adaptive-decay/li1 adaptive-updt-w-cur/i0 control-vector-layer-range/li2 dry-allowed-length/li1 "
     "dry-base/li1 dry-penalty-last-n/li1 dry-run/i0 dry-sequence-breaker/li1 dynatemp-exp/li1 "
     "mirostat-ent/li1 mirostat-lr/li1 xtc-threshold/li1"},
    {QN_FLAG_NOTE, QN_VALUE_TEXT, NULL, "noted: of the other programs that share these flags; a server does not use it", NULL,
     "amnesia/k1 assistant-store-dir/k1 attention-use-fp4-indexer-cache/t? backend-type/k1 "
     "backup-count/k1 -bf/li1 binary-file/li1 botname/k1 cache-list/l0 -cl/l0 -cnv/i0 -co/i0 color/i0 "
     "completion-bash/l0 context-file/i1 conversation/i0 cpu-memory-size-GB/k1 db-database/k1 "
     "db-host/k1 db-name/k1 db-pool-size/k1 db-port/k1 db-type/k1 disable-hicache-numa-detect/s0 "
     "-dkvc/i0 dump-kv-cache/i0 embd-normalize/li1 embd-output-format/i1 embd-separator/i1 -f/li1 "
     "file/li1 file-upload-dir/k1 from-chunk/i1 hellaswag/i0 hellaswag-tasks/i1 -i/i0 -if/i0 "
     "in-file/i1 infill/i0 interactive/i0 interactive-first/i0 junk/i1 kl-divergence/i0 "
     "kl-divergence-base/i1 length/k1 method/i1 multiline-input/i0 multiple-choice/i0 "
     "multiple-choice-tasks/i1 n-repetitions/i1 negative-file/i1 no-display-prompt/i0 no-ppl/i0 "
     "-npl/i1 -npp/i1 -nrep/i1 -ns/i1 -ntg/i1 -o/i1 -ofreq/i1 output/i1 output-file/i1 "
     "output-format/i1 output-frequency/i1 output-tensor-name/i0 pca-batch/i1 pca-iter/i1 peg/i0 "
     "perplexity/i0 pos/i1 positive-file/i1 ppl-output-type/i1 ppl-stride/i1 prompt/li1 prompt-file/k1 "
     "record-kt-gpu-expert-distribution/s0 response-chunk/k1 save-frequency/i1 send-done/i0 "
     "sequences/i1 sql-save-file/i1 sqlite-zstd-ext-file/i1 sweep-memory/i0 sweep-stride/i1 "
     "user-algorithm/k1 user-secret-key/k1 username/k1 winogrande/i0 winogrande-tasks/i1"},
};
/* clang-format on */
const int qn_flag_n_rule = (int)QN_COUNT(qn_flag_rules);

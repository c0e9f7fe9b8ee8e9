#!/usr/bin/env bash
# The records that figures of the papers still need, on one GPU: `bash benchmarks/reproduce.sh results/h200/papers`.
# At most 13 minutes, the most wanted first. Each step is bounded and leaves its records at once; the same
# command goes on where it was cut.
set -u
OUT=${1:?folder to write, e.g. results/h200/papers}
FPBENCH="${PYTHON:-python3} -m fp_bench"

# Speed-ups, densities, search times: FlashPrefill V2's Table 1, XAttention's Figs 4 and 5, MInference's Figs 10 and 12.
timeout 240 $FPBENCH latency --inputs structured:version=1 --lens 4k-256k --shape 32/8/128 --rounds 2 --out "$OUT/llama-heads" --methods \
  dense,dense:impl=fa2,flashprefill:alpha=0.18,flexprefill:gamma=0.95,xattention,xattention:stride=16,minference
# Threshold, top-k and top-p on the same energies.
timeout 90 $FPBENCH latency --inputs structured:version=1 --lens 4k-128k --shape 32/8/128 --rounds 3 --out "$OUT/rules" \
  --methods dense:impl=cudnn,flashprefill:alpha=0.18,flashprefill:rule=topk,flashprefill:rule=topp
# Density against alpha (V2's Table 9) and against XAttention's stride (its Table 7).
alphas=$(printf ',flashprefill:alpha=%s' 0.2 0.1 0.05 0.025 0.0125)
timeout 60 $FPBENCH latency --inputs structured:version=1 --lens 64k --shape 32/8/128 --rounds 2 --methods "dense:impl=cudnn$alphas" --out "$OUT/alphas"
strides=xattention:stride=4,xattention,xattention:stride=16,xattention:stride=64
timeout 60 $FPBENCH latency --inputs structured:version=1 --lens 32k --shape 32/8/128 --rounds 2 --methods dense:impl=cudnn,$strides --out "$OUT/strides"
# End to end, four layers of LLaMA-3-8B.
timeout 120 $FPBENCH latency --ttft --model random:benchmarks/models/llama-3-8b-4-layers --lens 10k,50k,100k,200k \
  --rounds 2 --samples 1 --methods dense:impl=fa2,minference --out "$OUT/ttft-llama-3-8b"
# The other heads of Table 1; FlashPrefill alone is measured to 256K in results/h200/latency-32-4-128.
timeout 180 $FPBENCH latency --inputs structured:version=1 --lens 4k-128k --shape 32/4/128 --rounds 2 --out "$OUT/qwen3-30b-heads" \
  --methods dense,dense:impl=fa2,flashprefill,flexprefill,xattention,minference

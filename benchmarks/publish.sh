#!/usr/bin/env bash
# What is published under results/ for one GPU: `bash benchmarks/publish.sh results/h200`. Takes about ten minutes.
# Each step is bounded and leaves its records at once, so a machine that goes away costs one step.
set -u
OUT=${1:?folder to write, e.g. results/h200}
FPBENCH="${PYTHON:-python3} -m fp_bench"
BOTH=flashprefill,flashprefill:backend=triton

for shape in 32/8/128 32/4/128; do
  timeout 240 $FPBENCH latency --inputs structured:version=1 --lens 4k-256k --shape $shape --methods dense,dense:impl=fa2,$BOTH --out "$OUT/latency-${shape//\//-}"
done
timeout 120 $FPBENCH latency --inputs structured:version=1 --lens 4k-128k --rounds 2 \
  --methods dense:impl=cudnn,flashprefill:alpha=0,flashprefill:alpha=0:backend=triton --out "$OUT/every-block"
# Sink 2, window 4 and 4 % at random: 6.2 %, 5.1 % and 4.6 % of the block pairs.
for cell in 64k:0.062 128k:0.051 256k:0.046; do
  timeout 90 $FPBENCH latency --lens "${cell%:*}" --rounds 3 --inputs "density:${cell#*:}" --methods dense:impl=cudnn,$BOTH --out "$OUT/given-density"
done
timeout 90 $FPBENCH capture --lens 4k,16k,64k --out runs/retriever
timeout 180 $FPBENCH latency --inputs captured:runs/retriever --lens 4k,16k,64k --rounds 2 --methods dense:impl=cudnn,$BOTH --out "$OUT/captured"
for run in a b; do
  timeout 120 $FPBENCH latency --inputs structured:version=1 --lens 4k,16k,64k --methods dense:impl=cudnn,flashprefill --out "$OUT/same-twice-$run"
done
timeout 60 "${PYTHON:-python3}" -m benchmarks.host_time --out "$OUT/host-time"
timeout 200 "${PYTHON:-python3}" -m tests.soak.hopper_launches 10000

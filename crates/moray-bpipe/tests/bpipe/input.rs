//! Bad input: one clear line each, never a panic.

use crate::command::words;

#[test]
fn bad_options_give_clear_errors() {
    let estimate = "estimate --global-batch 128 --stages 8";
    let simulate = "simulate --forward-us 1 --backward-us 2";
    let cases: &[(&str, &str)] = &[
        (
            &format!("{estimate} --stage-mfu 3=40"),
            "global batch: expected a positive multiple of micro-batch 3, got 128",
        ),
        (&format!("{estimate} --stage-mfu 0=40"), "micro-batch: expected a positive number, got 0"),
        (
            "estimate --global-batch 128 --stages 1 --stage-mfu 1=40",
            "pipeline depth: expected at least 2 stages, got 1",
        ),
        ("estimate --stages 8 --stage-mfu 1=40", "global batch: expected --global-batch, got none"),
        (estimate, "measurements: expected a stage MFU or a stage time for at least one micro-batch size, got none"),
        (
            &format!("{estimate} --stage-time-us 1=-5"),
            "time in µs at micro-batch 1: expected a positive number, got -5",
        ),
        (
            &format!("{estimate} --stage-time-us 1=NaN"),
            "time in µs at micro-batch 1: expected a positive number, got NaN",
        ),
        (
            &format!("{estimate} --stage-mfu 1=140"),
            "stage MFU at micro-batch 1: expected more than 0 and at most 1, got 1.4",
        ),
        (&format!("{estimate} --stage-mfu 1=40,1=41"), "measurements of micro-batch 1: expected 1 values, got 2"),
        (&format!("{estimate} --stage-mfu 1=40 --stage-time-us 2=9"), "micro-batch 2: expected a stage MFU"),
        (&format!("{estimate} --stage-mfu 1=40 --preset gpt5"), "preset: expected one of llama-7b, llama-13b"),
        (&format!("{estimate} --stage-mfu 1=40 --baseline 2"), "baseline micro-batch 2: expected one of the measured"),
        (&format!("{estimate} --stage-mfu one=40"), "expected MICRO_BATCH=NUMBER such as 2=55.2"),
        (&format!("{estimate} --stage-mfu 1=40 --memory-gib 80 --reserve-gib 90"), "memory less reserve in GiB"),
        (&format!("{estimate} --stage-mfu 1=40 --peak-tflops=-1"), "peak tflops: expected a positive number, got -1"),
        (
            &format!("{estimate} --stage-mfu 1=40 --memory-gib 80 --preset llama-7b --tensor-parallel 5"),
            "tensor parallelism of llama-7b (32 heads): expected a divisor of the heads, got 5",
        ),
        (
            "estimate --global-batch 128 --stages 64 --stage-mfu 1=40 --memory-gib 80 --preset llama-7b",
            "stages of llama-7b (32 layers): expected at most one per layer, got 64",
        ),
        (&format!("{simulate} --stages 8 --micro-batches 32 --cap 4"), "activation cap: expected at least 5"),
        (&format!("{simulate} --stages 8 --micro-batches 0"), "micro-batches: expected at least 1, got 0"),
        (&format!("{simulate} --stages 1 --micro-batches 4"), "pipeline depth: expected at least 2 stages, got 1"),
        (&format!("{simulate} --stages 8 --micro-batches 4 --lookahead 0"), "lookahead: expected at least 1, got 0"),
        (
            &format!("{simulate} --stages 8 --micro-batches 4 --link-gb-s 0"),
            "link bandwidth: expected a positive number",
        ),
        (
            &format!("{simulate} --stages 8 --micro-batches 4 --stages-per-node 0"),
            "stages per node: expected a positive",
        ),
        (
            &format!("{simulate} --stages 8 --micro-batches 12 --schedule interleaved"),
            "interleaved 1F1B: expected micro-batches in a multiple of 8 stages, got 12",
        ),
        (
            &format!("{simulate} --stages 8 --micro-batches 16 --schedule interleaved --chunks 1"),
            "interleaved chunks: expected at least 2, got 1",
        ),
        (
            &format!("{simulate} --stages 64 --micro-batches 4000000"),
            "schedule size: expected at most 40000000 operations",
        ),
        (&format!("{simulate} --stages 4294967295 --micro-batches 1"), "pipeline depth: expected at most 65536 stages"),
        (
            &format!("{simulate} --stages 65536 --micro-batches 4000000000 --schedule all"),
            "schedule size: expected at most",
        ),
        (
            "estimate --global-batch 128 --stages 4294967295 --stage-mfu 1=40",
            "pipeline depth: expected at most 65536 stages",
        ),
        (
            "simulate --forward-us 1,2,3 --backward-us 2 --stages 4 --micro-batches 8",
            "forward times: expected 4 values, got 3",
        ),
        (
            "simulate --forward-us 0 --backward-us 2 --stages 4 --micro-batches 8",
            "forward time of stage 0 in ns: expected",
        ),
        (
            "simulate --forward-us=-1 --backward-us 2 --stages 4 --micro-batches 8",
            "forward times: expected zero or a positive",
        ),
        (
            "simulate --forward-us 1e30 --backward-us 2 --stages 4 --micro-batches 8",
            "forward time: expected at most 1e12",
        ),
        (&format!("{simulate} --stages 4 --micro-batches 8 --head-us 3"), "head times: expected 2 values, got 1"),
        (
            &format!("{simulate} --stages 4 --micro-batches 8 --weight-grad-share 2"),
            "weight gradient share: expected 0 to 1",
        ),
        (
            "simulate --global-batch 8 --stages 4",
            "times: expected --forward-us and --backward-us, or measurements, got none",
        ),
        ("simulate --global-batch 8 --stages 4 --stage-time-us 1=3,2=5", "micro-batch: expected --micro-batch"),
        (
            "simulate --global-batch 8 --stages 4 --stage-time-us 1=3 --micro-batch 2",
            "times at micro-batch 2: expected",
        ),
        (
            "simulate --global-batch 8 --stages 4 --stage-mfu 1=3",
            "times: expected --stage-time-us, or --stage-mfu with",
        ),
        (
            "explain --global-batch 8 --stages 4 --stage-mfu 1=30",
            "second micro-batch size: expected two measured sizes",
        ),
        (
            "explain --global-batch 8 --stages 4 --stage-mfu 1=30,2=40 --to 4",
            "micro-batch 4: expected one of the measured",
        ),
        ("explain --claims --measured /nonexistent/profile.json", "/nonexistent/profile.json: "),
        ("estimate --profile /nonexistent/profile.csv", "/nonexistent/profile.csv: "),
    ];
    for (line, expected) in cases {
        let got = words(line).expect_err(line);
        assert!(got.contains(expected), "{line}\n  expected {expected}\n  got      {got}");
    }
}

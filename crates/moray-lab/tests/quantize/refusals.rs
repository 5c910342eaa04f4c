//! Bad input: typed errors that say what was expected and what was there.

use std::fs;
use std::path::Path;

use moray::w4a8::{Format, Offset};
use moray_lab::fixture::Fixture;
use moray_lab::load::forward_config;
use moray_lab::packed::StoredArray;
use moray_lab::quantize::{Job, Layout, Method, Options, Pass, Site, Source, Streams, quantize_layer};
use moray_lab::{Checkpoint, Error};
use serde_json::json;

use super::layouts::{golden_arrays, gptq_config, write_model};
use super::{cpu, fixture, open, tokens};

fn refused(change: impl FnOnce(&mut Job<'_>), before: impl FnOnce(&Path)) -> Error {
    let (cpu, directory) = (cpu(), tempfile::tempdir().unwrap());
    let checkpoint = open(&fixture());
    let text = tokens(512, &fixture(), 1);
    let out = directory.path().join("out");
    before(&out);
    let options = Options { context: 64, ..Options::new(Method::Gptq, Format::per_channel()) };
    let mut job = Job {
        cpu: &cpu,
        checkpoint: &checkpoint,
        options,
        layout: Layout::Moray,
        calibration: &text,
        evaluation: None,
        questions: None,
        out: &out,
    };
    change(&mut job);
    job.run(&mut |_, _, _| ()).map(drop).expect_err("a refusal")
}

#[track_caller]
fn check(error: &Error, variant: &str, message: &str) {
    let (debug, text) = (format!("{error:?}"), error.to_string());
    assert!(debug.starts_with(variant), "expected {variant}, got {debug}");
    assert!(text.contains(message), "expected a message with {message:?}, got {text:?}");
}

#[test]
fn runs_that_cannot_be_are_refused_before_anything_is_written() {
    let short = refused(|job| job.calibration = &job.calibration[..191], |_| ());
    check(&short, "Kernel", "got 191 tokens for 192 columns");
    let group = refused(|job| job.options.format = Format::per_group(128, Offset::None), |_| ());
    check(&group, "Kernel", "groups of 128 and K = 64");
    check(&refused(|job| job.options.format = Format::w8(), |_| ()), "Kernel", "expected a 4-bit format, got 8 bits");
    check(&refused(|job| job.options.context = 1, |_| ()), "Kernel", "context");
    check(&refused(|job| job.options.context = 4096, |_| ()), "Kernel", "got 4096");
    let used = refused(
        |_| (),
        |out| {
            fs::create_dir(out).unwrap();
            fs::write(out.join("mine"), "work").unwrap();
        },
    );
    check(&used, "Malformed", "expected an empty directory or none, got one with files");
    let other = refused(
        |_| (),
        |out| {
            let partial = out.with_file_name("out.partial");
            fs::create_dir(&partial).unwrap();
            fs::write(partial.join("run.json"), "{}").unwrap();
        },
    );
    check(&other, "Malformed", "an interrupted run of the same program, model, text and options");
}

#[test]
fn what_cannot_be_written_is_named() {
    let file = refused(|_| (), |out| fs::write(out.with_file_name("out.partial"), "a file").unwrap());
    check(&file, "Io", "out.partial");
    // a write that fails midway, as on a full disk: the shard's temporary name is taken by a directory
    let midway = refused(
        |_| (),
        |out| {
            fs::create_dir_all(out.with_file_name("out.partial").join("layer-00000.safetensors.tmp")).unwrap();
        },
    );
    check(&midway, "Io", "layer-00000.safetensors.tmp");
}

#[test]
fn what_qqq_layout_cannot_hold_is_refused_before_the_work_by_the_switch() {
    let refused = |fixture: &Fixture, format| {
        let (cpu, directory) = (cpu(), tempfile::tempdir().unwrap());
        let (checkpoint, text) = (open(fixture), tokens(512, fixture, 1));
        let out = directory.path().join("out");
        let options = Options { context: 64, ..Options::new(Method::Gptq, format) };
        let (layout, calibration) = (Layout::Qqq, &text[..]);
        let job = Job {
            cpu: &cpu,
            checkpoint: &checkpoint,
            options,
            layout,
            calibration,
            evaluation: None,
            questions: None,
            out: &out,
        };
        let error = job.run(&mut |_, _, _| ()).map(drop).expect_err("a refusal");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is written");
        error
    };
    let scales = refused(&fixture(), Format::two_level(64));
    check(&scales, "Kernel", "--layout qqq: expected --weights per-channel or qqq, got two-level");
    // two heads of 16 for keys: N = 32
    let narrow = refused(&Fixture { head_dim: 16, ..fixture() }, Format::per_channel());
    check(
        &narrow,
        "Kernel",
        "--layout qqq: expected matrices of N and K in multiples of 64, got self_attn.k_proj of [32, 64]",
    );
}

#[test]
fn sizes_that_only_moray_reads_in_qqq_layout_are_warned_of() {
    let (cpu, text) = (cpu(), tokens(512, &fixture(), 1));
    let warnings = |fixture: &Fixture, format, layout| {
        let checkpoint = open(fixture);
        let options = Options::new(Method::Gptq, format);
        let (calibration, out) = (&text[..], Path::new("out"));
        Job { cpu: &cpu, checkpoint: &checkpoint, options, layout, calibration, evaluation: None, questions: None, out }
            .warnings()
    };
    let small = Fixture { n_kv_heads: 4, ..fixture() };
    // q, k, v: (K, N) = (64, 128); o: (128, 64); gate and up: (64, 192), down: (192, 64)
    let found = warnings(&small, Format::per_channel(), Layout::Qqq);
    let expected = "(64, 256), (128, 128), (128, 64), (64, 128), got [N, K] of mlp.gate_proj [192, 64], mlp.up_proj \
                    [192, 64], mlp.down_proj [64, 192]";
    assert!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
    assert!(warnings(&small, Format::per_channel(), Layout::Moray).is_empty());
    let tiled = Fixture { d_ff: 256, ..small };
    assert!(warnings(&tiled, Format::per_channel(), Layout::Qqq).is_empty());
    let single = Fixture { hidden: 256, d_ff: 512, ..tiled };
    let found = warnings(&single, Format::qqq(), Layout::Qqq);
    let expected = "one group of 128 is a scale for each channel, got [N, K] of self_attn.o_proj [256, 128]";
    assert!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
    assert!(warnings(&single, Format::per_channel(), Layout::Qqq).is_empty());
}

#[test]
fn activations_that_overflow_are_refused_by_layer_and_site() {
    let (cpu, fixture) = (cpu(), fixture());
    let checkpoint = open(&fixture);
    let options = Options { context: 64, ..Options::new(Method::Full, Format::per_channel()) };
    let source = Source::new(&checkpoint, &options);
    let pass = Pass::new(&cpu, forward_config(checkpoint.config()).unwrap(), 64);
    let mut layer = source.layer(0).unwrap();
    layer.site_mut(Site::GateUp).weight.data.iter_mut().for_each(|w| *w *= 1e37);
    let mut streams = Streams::new(source.embedded(&tokens(256, &fixture, 1)).unwrap(), &[64; 4], fixture.hidden);
    let error = quantize_layer(&pass, &options, &layer, 7, &mut streams).unwrap_err();
    check(&error, "Kernel", "before down of layer 7");
}

/// A GPTQ directory with one thing changed.
fn gptq(change: impl FnOnce(&mut Vec<StoredArray>, &mut serde_json::Value)) -> moray_lab::Result<()> {
    let (mut arrays, _) = golden_arrays("gptq.safetensors");
    let mut config = gptq_config();
    change(&mut arrays, &mut config);
    let directory = tempfile::tempdir().unwrap();
    let fixture = Fixture { hidden: 128, d_ff: 128, n_layers: 1, n_kv_heads: 4, head_dim: 32, ..Fixture::default() };
    write_model(directory.path(), &fixture, &config, &arrays);
    let checkpoint = Checkpoint::open(directory.path())?;
    checkpoint.layer_quantized(0, moray_lab::checkpoint::LayerTensor::Q).map(drop)
}

fn array<'a>(arrays: &'a mut [StoredArray], suffix: &str) -> &'a mut StoredArray {
    arrays.iter_mut().find(|array| array.name.ends_with(suffix)).unwrap()
}

#[test]
fn arrays_that_contradict_their_layout_are_refused_by_name() {
    gptq(|_, _| ()).unwrap();
    let missing = gptq(|arrays, _| arrays.retain(|array| !array.name.ends_with("scales"))).unwrap_err();
    check(&missing, "MissingTensor", "q_proj.scales");
    let shape = gptq(|arrays, _| array(arrays, "qweight").shape = vec![32, 64]).unwrap_err();
    check(&shape, "Malformed", "expected [16, 128], got [32, 64]");
    let kind = gptq(|arrays, _| array(arrays, "qweight").dtype = safetensors::Dtype::F32).unwrap_err();
    check(&kind, "TensorType", "expected I32, got F32");
    let order = gptq(|arrays, _| array(arrays, "g_idx").bytes[0] = 1).unwrap_err();
    check(&order, "Unsupported", "expected groups of equally many inputs, got one of 63");
    let order = gptq(|arrays, _| array(arrays, "g_idx").bytes[0] = 2).unwrap_err();
    check(&order, "Unsupported", "expected a group below 2, got 2");
    let infinite = gptq(|arrays, _| array(arrays, "scales").bytes[1] = 0x7c).unwrap_err();
    check(&infinite, "Kernel", "finite numbers");
    let unknown = gptq(|arrays, _| arrays.push(StoredArray::f32("p.other", &[1], &[0.0]))).unwrap_err();
    check(&unknown, "UnexpectedTensor", "other");
    for (key, value, message) in [
        ("bits", json!(8), "expected 8 bits in groups of 64, as the configuration says, got 4 bits in 2 groups"),
        ("group_size", json!(16), "got 16"),
        ("group_size", json!(-1), "expected 4 bits in whole channels, as the configuration says"),
        ("checkpoint_format", json!("marlin"), "got marlin"),
        ("quant_method", json!("hqq"), "got hqq"),
    ] {
        let error = gptq(|_, config| config[key] = value).unwrap_err();
        assert!(error.to_string().contains(message), "{key}: {error}");
    }
}

#[test]
fn qqq_scales_that_overflow_int8_and_other_versions_are_refused() {
    let (mut arrays, _) = golden_arrays("qqq_group.safetensors");
    let open = |arrays: &[StoredArray], config: serde_json::Value| {
        let directory = tempfile::tempdir().unwrap();
        let fixture = Fixture {
            hidden: 256,
            d_ff: 256,
            n_layers: 1,
            n_q_heads: 8,
            n_kv_heads: 8,
            head_dim: 32,
            ..Fixture::default()
        };
        write_model(directory.path(), &fixture, &config, arrays);
        let checkpoint = Checkpoint::open(directory.path())?;
        checkpoint.layer_quantized(0, moray_lab::checkpoint::LayerTensor::Q).map(drop)
    };
    let qqq = json!({"quant_method": "qqq", "wbits": 4, "group_size": 128});
    open(&arrays, qqq.clone()).unwrap();
    // every group scale 16: codes reach ±128
    let groups = array(&mut arrays, "s_group");
    groups.bytes.chunks_exact_mut(2).for_each(|b| b.copy_from_slice(&half::f16::from_f32(16.0).to_le_bytes()));
    check(&open(&arrays, qqq.clone()).unwrap_err(), "Kernel", "< 127.5, got");
    let mut rotated = qqq;
    rotated["rotation"] = json!("hadamard");
    check(&open(&arrays, rotated).unwrap_err(), "Unsupported", "rotation");
    check(&open(&arrays, json!({"quant_method": "moray", "version": 2})).unwrap_err(), "Unsupported", "got 2");
}

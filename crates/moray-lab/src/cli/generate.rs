//! `moray generate`: continues a prompt.

use std::io::Write;
use std::time::Instant;

use clap::Args;
use moray::llama::{Backend, Model, Sampler, Sampling, Sequence, Session};
use serde::{Deserialize, Serialize};

use super::device::cuda;
use super::{Device, Run, Switches, written};
use crate::error::{Error, Result};
use crate::machine::{peak_memory_bytes, read_bandwidth};

/// Arguments of `moray generate`.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// How the model runs.
    #[command(flatten)]
    pub switches: Switches,
    /// The text to continue.
    #[arg(long, short, allow_hyphen_values = true)]
    pub prompt: String,
    /// Tokens to generate at most.
    #[arg(short, default_value_t = 128)]
    pub n: usize,
    /// 0 takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    pub temperature: f32,
    /// Draws from the most probable tokens that make up this probability.
    #[arg(long, default_value_t = 1.0)]
    pub top_p: f32,
    /// Draws from tokens of at least this fraction of the largest probability.
    #[arg(long, default_value_t = 0.0)]
    pub min_p: f32,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Go on after an end-of-text token.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Report as JSON, the text included, instead of streaming it.
    #[arg(long)]
    pub json: bool,
}

/// What a run of `moray generate` reports.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The continuation.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Seconds to load the model.
    pub load_seconds: f64,
    /// Tokens a second over the prompt.
    pub prefill_tokens_per_second: f64,
    /// Tokens a second after it.
    pub decode_tokens_per_second: f64,
    /// Bytes of weights that a dense token reads.
    pub weight_bytes_per_token: usize,
    /// Gigabytes (10⁹) a second of weights during decoding, as if every weight were read.
    pub decode_gb_per_second: f64,
    /// Gigabytes a second that the device reads from memory, measured now.
    pub read_bandwidth_gb_per_second: f64,
    /// The one in percent of the other.
    pub bandwidth_percent: f64,
    /// Bytes of the KV cache.
    pub kv_bytes: usize,
    /// Largest resident set of this process before the bandwidth was measured.
    pub peak_memory_bytes: Option<usize>,
}

/// Runs the command.
///
/// # Errors
/// What is wrong with the switches, the model or the prompt.
pub fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<()> {
    // before the model is loaded
    arguments.switches.check_device()?;
    let run = arguments.switches.load()?;
    run.warn();
    let json = arguments.json;
    let mut stream = |text: &str| {
        if json {
            return Ok(());
        }
        written(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    };
    let report = generate(&run, arguments, &mut stream)?;
    if json {
        return written(
            serde_json::to_writer_pretty(&mut *out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        );
    }
    written(write_report(&report, out))
}

/// Generates, handing each complete piece of text to `stream`, and measures.
///
/// # Errors
/// As [`run`].
pub fn generate(run: &Run, arguments: &Arguments, stream: &mut dyn FnMut(&str) -> Result<()>) -> Result<Report> {
    match arguments.switches.device {
        Device::Cpu => {
            let bandwidth = || Ok(read_bandwidth(&run.cpu));
            generate_on(&run.cpu, &run.model, run, arguments, stream, &bandwidth, &by_calls)
        }
        Device::Cuda => cuda::generate(run, arguments, stream),
    }
}

/// Measures the bytes a second that a device reads from its memory.
pub(super) type Bandwidth<'a> = &'a dyn Fn() -> Result<f64>;

/// The next token after one that has been chosen.
pub(super) type Next<'s> = Box<dyn FnMut(u32) -> Result<u32> + 's>;

/// How tokens follow one another in a session after its prompt: begins with the sampler that chose the first, and that token.
pub(super) type Decode<'a, B> =
    &'a dyn for<'s> Fn(&'s B, &'s Model<B>, &'s mut Session<B>, Sampler, u32) -> Result<Next<'s>>;

/// Decodes by single calls.
pub(super) fn by_calls<'s, B: Backend>(
    backend: &'s B,
    model: &'s Model<B>,
    session: &'s mut Session<B>,
    sampler: Sampler,
    _first: u32,
) -> Result<Next<'s>> {
    let mut samplers = backend.samplers(&[sampler], model.config().vocab)?;
    Ok(Box::new(move |token| {
        let sequence = Sequence { slot: 0, tokens: &[token] };
        Ok(model.next_tokens(backend, session, &[sequence], &mut samplers)?[0])
    }))
}

/// Generates on a device.
///
/// # Errors
/// As [`run`].
pub(super) fn generate_on<B: Backend>(
    backend: &B,
    model: &Model<B>,
    run: &Run,
    arguments: &Arguments,
    stream: &mut dyn FnMut(&str) -> Result<()>,
    bandwidth: Bandwidth<'_>,
    decode: Decode<'_, B>,
) -> Result<Report> {
    let config = run.checkpoint.config();
    let tokenizer = &run.tokenizer;
    let prompt = tokenizer.encode(&arguments.prompt, config.add_bos)?;
    if prompt.is_empty() {
        return Err(Error::Kernel(moray::Error::Shape { what: "prompt", expected: "at least one token", got: 0 }));
    }
    let context = prompt.len().saturating_add(arguments.n);
    if context > config.context_length {
        let (what, limit) = ("prompt and generated tokens".into(), config.context_length + 1);
        return Err(Error::Index { what, limit, got: context });
    }
    let sampling = Sampling { temperature: arguments.temperature, top_p: arguments.top_p, min_p: arguments.min_p };
    let mut sampler = Sampler::new(sampling, arguments.seed)?;
    let mut settings = arguments.switches.settings(run, 1, context)?;
    settings.max_tokens = prompt.len().min(256);
    let mut session = model.session(backend, settings)?;

    let start = Instant::now();
    let logits = model.prefill(backend, &mut session, 0, &prompt)?;
    let prefill_seconds = start.elapsed().as_secs_f64();
    let mut token = sampler.sample(logits)?;
    let mut text_stream = tokenizer.stream_after(&prompt);
    let (mut text, mut generated) = (String::new(), 0);
    let mut next = decode(backend, model, &mut session, sampler, token)?;
    let start = Instant::now();
    while generated < arguments.n && (arguments.ignore_eos || !config.eos.contains(&token)) {
        let piece = text_stream.push(token);
        stream(&piece)?;
        text.push_str(&piece);
        generated += 1;
        if generated < arguments.n {
            token = next(token)?;
        }
    }
    let decode_seconds = start.elapsed().as_secs_f64();
    drop(next);
    let rest = text_stream.finish();
    stream(&rest)?;
    text.push_str(&rest);
    let peak_memory_bytes = peak_memory_bytes();
    let weight_bytes = run.weight_bytes_per_token();
    let decoded = generated.saturating_sub(1) as f64;
    let decode_tokens_per_second = decoded / decode_seconds;
    let bandwidth = bandwidth()?;
    let used = decode_tokens_per_second * weight_bytes as f64;
    Ok(Report {
        text,
        prompt_tokens: prompt.len(),
        generated_tokens: generated,
        load_seconds: run.load_seconds,
        prefill_tokens_per_second: prompt.len() as f64 / prefill_seconds,
        decode_tokens_per_second,
        weight_bytes_per_token: weight_bytes,
        decode_gb_per_second: used / 1e9,
        read_bandwidth_gb_per_second: bandwidth / 1e9,
        bandwidth_percent: 100.0 * used / bandwidth,
        kv_bytes: session.kv_bytes(),
        peak_memory_bytes,
    })
}

fn write_report(report: &Report, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "\n")?;
    writeln!(
        out,
        "loaded in {:.2} s; prefill {} tokens, {:.1} tok/s; decode {} tokens, {:.1} tok/s",
        report.load_seconds,
        report.prompt_tokens,
        report.prefill_tokens_per_second,
        report.generated_tokens,
        report.decode_tokens_per_second
    )?;
    write!(
        out,
        "weights {:.1} MB a token, {:.1} GB/s, {:.0}% of the {:.1} GB/s that memory reads; KV cache {:.1} MB",
        report.weight_bytes_per_token as f64 / 1e6,
        report.decode_gb_per_second,
        report.bandwidth_percent,
        report.read_bandwidth_gb_per_second,
        report.kv_bytes as f64 / 1e6
    )?;
    match report.peak_memory_bytes {
        Some(bytes) => writeln!(out, "; peak memory {:.1} MB", bytes as f64 / 1e6),
        None => writeln!(out),
    }
}

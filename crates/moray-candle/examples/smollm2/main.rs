//! SmolLM2 in candle with moray's linear layers: continues a text, and measures against candle's own quantized products.
//!
//! `cargo run --release --example smollm2 -- MODEL.gguf [PROMPT [TOKENS [ROUNDS]]]`; without rounds nothing is measured.

mod llama;
mod speed;

use std::fs::File;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::tokenizer::TokenizerFromGguf;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Error, Result, Tensor, bail};
use candle_transformers::models::quantized_llama::ModelWeights;
use llama::Llama;
use moray_candle::{QuantizedLinear, Runtime};
use tokenizers::Tokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;

/// Positions that the models have room for.
const POSITIONS: usize = 1024;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |index: usize, default: &str| arguments.get(index).cloned().unwrap_or_else(|| default.into());
    let count = |index: usize, default: &str| argument(index, default).parse::<usize>().map_err(Error::wrap);
    let (path, prompt) =
        (argument(0, "models/SmolLM2-135M-Instruct.Q4_1.gguf"), argument(1, "The lighthouse was built"));
    let (n, rounds) = (count(2, "32")?, count(3, "0")?);

    let mut file = File::open(&path)?;
    let content = Content::read(&mut file)?;
    let mut tokenizer = Tokenizer::from_gguf(&content)?;
    // candle's reader does not know how this model's tokenizer cuts texts: digits one by one, no blank put before
    let cuts = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(cuts)));
    let prompt = tokenizer.encode(prompt, true).map_err(Error::wrap)?.get_ids().to_vec();
    if prompt.is_empty() || prompt.len() + n > POSITIONS {
        bail!("prompt: expected at least one token, and {POSITIONS} with those that follow, got {}", prompt.len());
    }

    // the one line that differs: what a layer is made of
    let runtime = Runtime::detect();
    let mut moray = Llama::load(&content, &mut file, POSITIONS, |w| QuantizedLinear::from_qtensor(&runtime, &w))?;
    let mut candle = Llama::load(&content, &mut file, POSITIONS, |w: QTensor| QMatMul::from_qtensor(w))?;
    let mut transformers = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;

    let own = |model: &mut ModelWeights, tokens: &[u32], position: usize| {
        model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, position)?.flatten_all()
    };
    let (candles, theirs) = (
        greedy(&prompt, n, |tokens, position| candle.forward(tokens, position))?,
        greedy(&prompt, n, |tokens, position| own(&mut transformers, tokens, position))?,
    );
    if candles != theirs {
        bail!("expected candle-transformers' tokens {theirs:?}, got {candles:?}");
    }
    let morays = greedy(&prompt, n, |tokens, position| moray.forward(tokens, position))?;
    let text = |tokens: &[u32]| tokenizer.decode(tokens, true).map_err(Error::wrap);
    println!("moray:  {:?}", text(&morays)?);
    println!("candle: {:?}", text(&candles)?);

    if rounds > 0 {
        speed::matmuls(&runtime, rounds)?;
        let mut models: [(&str, speed::Forward<'_>); 2] = [
            ("candle-transformers", Box::new(|tokens, position| own(&mut transformers, tokens, position))),
            ("moray-candle", Box::new(|tokens, position| moray.forward(tokens, position))),
        ];
        speed::models(&mut models, rounds)?;
    }
    Ok(())
}

/// The most probable continuation, one token at a time, up to an end of text (0 and 2 in SmolLM2).
fn greedy(prompt: &[u32], n: usize, mut forward: impl FnMut(&[u32], usize) -> Result<Tensor>) -> Result<Vec<u32>> {
    let mut tokens = prompt.to_vec();
    let mut logits = forward(prompt, 0)?;
    for made in 1..=n {
        let next = logits.argmax(0)?.to_scalar::<u32>()?;
        if [0, 2].contains(&next) {
            break;
        }
        tokens.push(next);
        if made < n {
            logits = forward(&[next], tokens.len() - 1)?;
        }
    }
    Ok(tokens.split_off(prompt.len()))
}

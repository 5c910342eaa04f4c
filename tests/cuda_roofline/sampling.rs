//! The choice of the next token of one sequence from its logits, at the vocabularies of LLaMA-2 and Llama-3.

use moray::llama::cuda::Samplers;
use moray::llama::{Sampler, Sampling};

use crate::counter::{Counter, with_bytes};

const VOCABULARIES: [usize; 2] = [32_000, 128_256];

/// How a token is chosen, and how often the blocks wait for each other for it: kernels/llama/sampling.cu.
const SETTINGS: [(&str, Sampling, usize); 3] = [
    ("greedy", Sampling::GREEDY, 0),
    ("temperature", Sampling { temperature: 0.8, top_p: 1.0, min_p: 0.05 }, 1),
    ("top-p", Sampling { temperature: 0.8, top_p: 0.9, min_p: 0.0 }, 4),
];

/// Logits between −8 and 8, most of them near 0: what a draw does depends on how many are alike.
fn logits(vocab: usize) -> Vec<f32> {
    let logit = |v: u32| {
        let bytes = v.wrapping_mul(0x9E37_79B1).rotate_left(13).wrapping_mul(0x85EB_CA6B).to_le_bytes();
        (bytes.iter().map(|&byte| f32::from(byte)).sum::<f32>() - 510.0) / 64.0
    };
    (0..vocab as u32).map(logit).collect()
}

pub fn count(counter: &mut Counter) {
    let multiprocessors = counter.device.multiprocessors();
    for (name, setting, waits) in SETTINGS {
        for vocab in VOCABULARIES {
            let device = &counter.device;
            let sampler = Sampler::new(setting, 7).unwrap();
            let mut samplers = Samplers::new(device, &[sampler], vocab).unwrap();
            let logits = device.upload(&logits(vocab)).unwrap();
            let mut token = device.zeros::<u32>(1).unwrap();
            let launches = counter.launches(|device| {
                samplers.sample(device, &logits.as_view(), &mut token.as_view_mut()).unwrap();
            });
            let bytes = 4 * vocab;
            let launches = with_bytes(launches, &[("llama_sample", bytes, 0)]);
            let launches = launches.into_iter().map(|launch| launch.waits(waits, 0)).collect();
            counter.row(&format!("sampling/{name}/vocab-{vocab}"), Some(multiprocessors), bytes, launches);
        }
    }
}

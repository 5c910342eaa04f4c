//! Sessions that compute some neurons only.

use crate::device::device;
use crate::near::{LEN, run, settings};
use crate::plain::{D_FF, Kind, Plain, tokens};
use moray::Cpu;
use moray::attention::{HeadNorm, KvDtype};
use moray::llama::{MlpPolicy, PromptRule, Settings, cuda};
use moray::sparse_mlp::policy::{Cats, Griffin, TopK};
use moray::w4a8::Mode;

fn policies(n_layers: usize) -> Vec<MlpPolicy> {
    vec![
        MlpPolicy::Dense,
        MlpPolicy::TopK(TopK::by_gate(0.5, D_FF).unwrap()),
        MlpPolicy::Cats(Cats::new(vec![0.02; n_layers]).unwrap()),
        MlpPolicy::prompt(PromptRule::Griffin(Griffin::new(0.5).unwrap())),
        MlpPolicy::prompt(PromptRule::TdaQuantile(0.4)),
    ]
}

fn mean_apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / a.len() as f64
}

#[test]
fn logits_under_every_policy_are_as_near_to_the_cpus_as_those_are_to_each_other() {
    let Some(device) = device() else { return };
    let (kind, cpu, tokens) = (Kind { heads: (8, 4, 16), ..Kind::default() }, Cpu::detect(), tokens(31, LEN));
    let model = Plain::new(&kind, 30).w4a8_by_neuron(Mode::PerGroup { group_size: 32, offset: true });
    let uploaded = cuda::upload(&device, &model).unwrap();
    for mlp in policies(kind.n_layers) {
        for heads in [None, Some(HeadNorm::new(0.5, 0).unwrap())] {
            let settings = Settings { mlp: mlp.clone(), heads, ..settings(LEN) };
            let expected = run(&cpu, &model, &settings, &tokens, LEN - 10);
            let precise = Settings { kv_dtype: KvDtype::F32, ..settings.clone() };
            // rounding K and V alone moves the CPU's logits this far; the device also rounds q and the softmax's weights,
            // to as many bits
            let floor = mean_apart(&run(&cpu, &model, &precise, &tokens, LEN - 10), &expected);
            let got = mean_apart(&run(&device, &uploaded, &settings, &tokens, LEN - 10), &expected);
            println!("{mlp:?}, {heads:?}: {got}, between the CPU's {floor}");
            assert!(got <= 2.0 * floor, "{mlp:?}, {heads:?}: {got} apart, the CPU's {floor}");
        }
    }
}

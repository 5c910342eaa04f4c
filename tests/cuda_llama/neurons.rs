//! Sessions that compute some neurons only.

use std::sync::Arc;

use crate::above_inputs::AboveInputs;
use crate::device::device;
use crate::near::{LEN, run, settings};
use crate::plain::{D_FF, Kind, Plain, tokens};
use moray::Cpu;
use moray::attention::KvDtype;
use moray::llama::{Settings, cuda};
use moray::policy::{Cats, Griffin, HeadNorm, PolicyConfig, Random, Site, TdaQuantile, TopK};
use moray::w4a8::{Format, Offset};

/// None, or one for neurons or inputs of the MLP.
fn policies(n_layers: usize) -> Vec<Vec<Arc<dyn PolicyConfig>>> {
    vec![
        vec![],
        vec![Arc::new(TopK::by_gate(0.5, D_FF).unwrap())],
        vec![Arc::new(Cats::new(vec![0.02; n_layers]).unwrap())],
        vec![Arc::new(Griffin::new(0.5).unwrap())],
        vec![Arc::new(TdaQuantile::new(0.4).unwrap())],
        vec![Arc::new(Random::new(Site::Neurons, 0.5).unwrap())],
        vec![Arc::new(AboveInputs(0.5))],
    ]
}

fn mean_apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / a.len() as f64
}

#[test]
fn logits_under_every_policy_are_as_near_to_the_cpus_as_those_are_to_each_other() {
    let Some(device) = device() else { return };
    let (kind, cpu, tokens) = (Kind { heads: (8, 4, 16), ..Kind::default() }, Cpu::detect(), tokens(31, LEN));
    let model = Plain::new(&kind, 30).w4a8_by_neuron(Format::per_group(32, Offset::F16));
    let uploaded = cuda::upload(&device, &model).unwrap();
    for policies in policies(kind.n_layers) {
        let neurons = Settings { policies, ..settings(LEN) };
        for settings in [neurons.clone(), neurons.with(HeadNorm::new(0.5, 0).unwrap())] {
            let what = &settings.policies;
            let expected = run(&cpu, &model, &settings, &tokens, LEN - 10);
            let precise = Settings { kv_dtype: KvDtype::F32, ..settings.clone() };
            // rounding K and V alone moves the CPU's logits this far; the device also rounds q and the softmax's weights,
            // to as many bits
            let floor = mean_apart(&run(&cpu, &model, &precise, &tokens, LEN - 10), &expected);
            let got = mean_apart(&run(&device, &uploaded, &settings, &tokens, LEN - 10), &expected);
            println!("{what:?}: {got}, between the CPU's {floor}");
            assert!(got <= 2.0 * floor, "{what:?}: {got} apart, the CPU's {floor}");
        }
    }
}

//! What thresholds on one layer's inputs do to the rest of a model.

use moray::Cpu;
use moray::attention::{Heads, KvDtype, Span};
use moray::llama::{Backend, Buffers, CpuWork, MatrixInputs, Model, Norm, Pass, Settings};
use moray::policy::{Effect, Wanted};
use moray::sparse_mlp::{Score, ScoreOn, Selection};
use moray::{Error, Result};

use crate::eval::Distribution;

/// A text of which is known what each layer of a model makes of it, so that a change of one layer needs no run of those before it.
#[derive(Debug)]
pub(super) struct Effects<'a> {
    cpu: &'a Cpu,
    model: &'a Model<Cpu>,
    spans: [Span; 1],
    /// x \[tokens, d\] before each layer, and after the last.
    states: Vec<Vec<f32>>,
    /// f32 \[tokens, vocab\].
    logits: Vec<f32>,
    buffers: Buffers<Cpu>,
    work: CpuWork,
    linear: moray::input_sparse::Workspace,
}

impl<'a> Effects<'a> {
    /// Runs the text through the whole model.
    ///
    /// # Errors
    /// [`Error::Shape`] for a text without tokens, [`Error::Unsupported`] for a model by neuron; otherwise those of the forward pass.
    pub(super) fn new(cpu: &'a Cpu, model: &'a Model<Cpu>, tokens: &[u32]) -> Result<Self> {
        let (config, len) = (model.config(), tokens.len());
        let Some(first) = model.layers().first().filter(|_| len > 0) else {
            return Err(Error::Shape { what: "calibration", expected: "at least 1 token", got: len });
        };
        let settings = Settings { max_tokens: len, kv_dtype: KvDtype::F16, ..Settings::dense(len) };
        let mut work = cpu.work(config, first.mlp.neurons(), &settings)?;
        let mut buffers = Buffers::new(cpu, config, &first.mlp, len)?;
        let spans = [Span { slot: 0, start: 0, len }];
        cpu.begin(&mut work, tokens, &spans, &[])?;
        cpu.embed(&mut work, model.embedding(), &mut buffers.x)?;
        let linear = moray::input_sparse::Workspace::with_capacity(len, config.d_model);
        let mut effects = Effects { cpu, model, spans, states: Vec::new(), logits: Vec::new(), buffers, work, linear };
        for layer in 0..model.layers().len() {
            effects.states.push(effects.buffers.x.clone());
            effects.run(layer, [0.0; 4])?;
        }
        effects.states.push(effects.buffers.x.clone());
        effects.logits = effects.find_logits()?;
        Ok(effects)
    }

    /// What thresholds on the inputs of a layer's matrices change.
    ///
    /// # Errors
    /// [`Error::Index`] for a layer that is not there; otherwise those of the forward pass.
    pub(super) fn of(&mut self, layer: usize, thresholds: [f32; 4], on: Effect) -> Result<f64> {
        let n_layers = self.model.layers().len();
        if layer >= n_layers {
            return Err(Error::Index { what: "layer", limit: n_layers, got: layer });
        }
        self.buffers.x.copy_from_slice(&self.states[layer]);
        self.run(layer, thresholds)?;
        if on == Effect::Block {
            let squares = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum();
            let whole = &self.states[layer + 1];
            let changed: f64 = squares(&mut self.buffers.x.iter().zip(whole).map(|(new, old)| new - old));
            return Ok(changed / squares(&mut whole.iter().copied()).max(f64::MIN_POSITIVE));
        }
        (layer + 1..n_layers).try_for_each(|layer| self.run(layer, [0.0; 4]))?;
        let (vocab, tokens) = (self.model.config().vocab, self.spans[0].len);
        let changed = self.find_logits()?;
        let rows = self.logits.chunks_exact(vocab).zip(changed.chunks_exact(vocab));
        let divergence = |(whole, changed)| Distribution::new(whole).divergence_of(&Distribution::new(changed));
        Ok(rows.map(divergence).sum::<f64>() / tokens as f64)
    }

    /// Runs a layer on what the buffers hold.
    fn run(&mut self, index: usize, thresholds: [f32; 4]) -> Result<()> {
        let Effects { cpu, model, spans, buffers, work, .. } = self;
        let layer = &model.layers()[index];
        let above = |threshold| Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold };
        let [qkv, output, gate_up, down] = thresholds.map(above);
        // the same positions again
        cpu.truncate(work, 0, 0)?;
        let mut pass = Pass {
            backend: *cpu,
            config: model.config(),
            spans: &spans[..],
            kv: moray::attention::KvPolicy::WriteAll,
            inputs: MatrixInputs { qkv, output, down },
            buffers,
            work,
        };
        layer.attention(&mut pass, index, Heads::All, None)?;
        layer.mlp(&mut pass, index, &gate_up, Wanted::Nothing)
    }

    /// The logits of what the buffers hold, all by the output layer itself.
    fn find_logits(&mut self) -> Result<Vec<f32>> {
        let Effects { cpu, model, spans, buffers, linear, .. } = self;
        let (config, tokens) = (model.config(), spans[0].len);
        let mut normed = vec![0.0; tokens * config.d_model];
        let norm = Norm { x: &buffers.x, weight: model.final_norm(), eps: config.rms_eps };
        cpu.rms_norm(norm, tokens, &mut normed)?;
        let mut logits = vec![0.0; tokens * config.vocab];
        model.lm_head().forward(cpu, (&normed, 0.0), None, &mut logits, linear)?;
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use moray::llama::{LogitRows, Sequence};
    use moray::policy::{PolicyConfig, Projection, Teal};

    use super::*;
    use crate::fixture::Fixture;

    const TOKENS: [u32; 24] = [3, 8, 20, 1, 7, 7, 31, 5, 12, 40, 2, 9, 33, 18, 4, 26, 11, 11, 6, 30, 22, 14, 25, 10];

    /// The definition: the whole model runs under a policy of thresholds for each matrix, and all logits are compared.
    #[test]
    fn effects_on_the_distribution_match_runs_of_the_whole_model_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        Fixture { n_layers: 3, d_ff: 128, ..Fixture::default() }.write_gguf(&path).unwrap();
        for weights in ["dense", "g32"] {
            let way: crate::cli::Way = format!("--weights {weights} --inputs teal:0.5").parse().unwrap();
            let run = way.on(&path).switches.load().unwrap();
            let all_logits = |thresholds: &dyn Fn(usize, usize) -> f32| {
                let mut settings = Settings::dense(TOKENS.len());
                settings.max_logits = TOKENS.len();
                for (place, projection) in Projection::ALL.into_iter().enumerate() {
                    let teal = Teal::new(projection, (0..3).map(|layer| thresholds(layer, place)).collect()).unwrap();
                    settings.policies.push(Arc::new(teal) as Arc<dyn PolicyConfig>);
                }
                let mut session = run.model.session(&run.cpu, settings).unwrap();
                let sequences = [Sequence { slot: 0, tokens: &TOKENS }];
                run.model.forward(&run.cpu, &mut session, &sequences, LogitRows::All).unwrap().to_vec()
            };
            let vocab = run.model.config().vocab;
            let whole = all_logits(&|_, _| 0.0);
            let mut effects = Effects::new(&run.cpu, &run.model, &TOKENS).unwrap();
            assert_eq!(effects.logits, whole);
            for layer in 0..3 {
                for thresholds in [[0.0; 4], [0.4, 0.0, 0.0, 0.0], [0.0, 0.02, 0.0, 0.01], [0.2, 0.01, 0.3, 0.02]] {
                    let changed = all_logits(&|l, place| if l == layer { thresholds[place] } else { 0.0 });
                    let pairs = whole.chunks_exact(vocab).zip(changed.chunks_exact(vocab));
                    let expected = pairs
                        .map(|(whole, changed)| Distribution::new(whole).divergence_of(&Distribution::new(changed)))
                        .sum::<f64>()
                        / TOKENS.len() as f64;
                    let found = effects.of(layer, thresholds, Effect::Divergence).unwrap();
                    assert_eq!(found, expected, "{weights} {layer} {thresholds:?}");
                    assert_eq!(found > 0.0, thresholds != [0.0; 4]);
                }
            }
        }
    }

    #[test]
    fn effects_on_a_block_are_those_of_its_own_output_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        Fixture { n_layers: 2, d_ff: 128, ..Fixture::default() }.write_gguf(&path).unwrap();
        let way: crate::cli::Way = "--weights dense --inputs teal:0.5".parse().unwrap();
        let run = way.on(&path).switches.load().unwrap();
        let mut effects = Effects::new(&run.cpu, &run.model, &TOKENS).unwrap();
        for layer in 0..2 {
            assert_eq!(effects.of(layer, [0.0; 4], Effect::Block).unwrap(), 0.0);
            // without any input the layer passes on what it was given
            let (before, after) = (effects.states[layer].clone(), effects.states[layer + 1].clone());
            let square = |x: f32| f64::from(x) * f64::from(x);
            let changed: f64 = before.iter().zip(&after).map(|(before, after)| square(before - after)).sum();
            let expected = changed / after.iter().map(|&x| square(x)).sum::<f64>();
            assert_eq!(effects.of(layer, [f32::MAX; 4], Effect::Block).unwrap(), expected);
            let some = effects.of(layer, [0.2, 0.01, 0.3, 0.02], Effect::Block).unwrap();
            assert!(some > 0.0 && some < expected, "{some} of {expected}");
        }
        assert!(matches!(effects.of(2, [0.0; 4], Effect::Block), Err(Error::Index { what: "layer", .. })));
        assert!(matches!(Effects::new(&run.cpu, &run.model, &[]), Err(Error::Shape { .. })));
    }
}

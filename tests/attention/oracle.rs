//! Attention in f64, from the definition.

use moray::attention::*;
use moray::{Cpu, Isa};
use proptest::prelude::*;

use crate::case::{Case, Model, any_case};

/// One row's output, and how far f32 arithmetic may be from it, element by element.
///
/// With u = 2⁻²⁴: a score is a chain of d products of scaled operands, off by (d + 3)·u·Σ|q k| · log₂ e / √d, and by 2·u more where
/// keys are codes, whose scale the chain is multiplied with and the test's k already is; taking the maximum away and 2^x add 128·u
/// and 2·u. That is a weight's relative error (times ln 2 < 1), made twice, since the sum of weights has it too. Scales of values
/// add 2·u. The chain over n positions and a rescaling per block add n·u and 4·u each, in numerator and denominator.
fn attention_f64(q: &[f32], rows: impl Iterator<Item = (Vec<f32>, Vec<f32>)>, d: usize) -> (Vec<f64>, Vec<f64>) {
    let u = 2f64.powi(-24);
    let (mut scores, mut values, mut score_error) = (Vec::new(), Vec::new(), 0f64);
    for (k, v) in rows {
        let products = || q.iter().zip(&k).map(|(&q, &k)| f64::from(q) * f64::from(k));
        scores.push(products().sum::<f64>() / (d as f64).sqrt());
        let magnitude: f64 = products().map(f64::abs).sum();
        score_error = score_error.max((d + 5) as f64 * u * magnitude * std::f64::consts::LOG2_E / (d as f64).sqrt());
        values.push(v);
    }
    if scores.is_empty() {
        return (vec![0.0; d], vec![0.0; d]);
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let n = scores.len() as f64;
    let relative = 2.0 * (2.0 * score_error + 132.0 * u + n * u + (n / 64.0 + 2.0) * 4.0 * u);
    let average = |f: fn(f64) -> f64, i: usize| {
        weights.iter().zip(&values).map(|(weight, v)| weight / sum * f(f64::from(v[i]))).sum::<f64>()
    };
    ((0..d).map(|i| average(|v| v, i)).collect(), (0..d).map(|i| relative * average(f64::abs, i)).collect())
}

fn check(case: &Case, model: &Model, out: &[f32]) {
    let (shape, q, d) = (case.shape, case.q(), case.shape.head_dim);
    let mut row = 0;
    for (index, span) in case.spans.iter().enumerate() {
        for position in span.start..span.end() {
            for head in 0..shape.n_q_heads {
                let columns = row * shape.q_elems() + head * d..row * shape.q_elems() + (head + 1) * d;
                let got = &out[columns.clone()];
                if !case.heads.as_heads().contains(&shape, index, head) {
                    assert!(got.iter().all(|x| x.to_bits() == 0), "a skipped head's output is not zero");
                    continue;
                }
                let held = (0..=position).filter_map(|j| model.rows[span.slot][j][head / shape.group_size()].clone());
                let (expected, bound) = attention_f64(&q[columns], held, d);
                for i in 0..d {
                    let error = (f64::from(got[i]) - expected[i]).abs();
                    assert!(
                        error <= bound[i],
                        "span {index}, position {position}, head {head}, element {i}: {} instead of {}, bound {:e}",
                        got[i],
                        expected[i],
                        bound[i]
                    );
                }
            }
            row += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn attention_matches_f64_for_any_shape_batch_selection_and_policy(case in any_case(300)) {
        let cpu = Cpu::new(case.threads, Isa::detect()).unwrap();
        let (cache, model) = case.fill(&cpu);
        check(&case, &model, &case.attend(&cpu, &cache));
    }

    #[test]
    fn bytes_read_match_the_rows_visible_to_running_groups(case in any_case(300)) {
        let cpu = Cpu::new(1, Isa::detect()).unwrap();
        let (cache, model) = case.fill(&cpu);
        let (shape, heads) = (case.shape, case.heads.as_heads());
        let mut rows = 0;
        for (index, span) in case.spans.iter().enumerate().filter(|(_, span)| span.len > 0) {
            for kv_head in 0..shape.n_kv_heads {
                if (0..shape.n_q_heads).any(|h| h / shape.group_size() == kv_head && heads.contains(&shape, index, h)) {
                    rows += (0..span.end()).filter(|&j| model.rows[span.slot][j][kv_head].is_some()).count();
                }
            }
        }
        let scale_bytes = if case.dtype == KvDtype::Int8 { 4 } else { 0 };
        let expected = rows * 2 * (shape.head_dim * case.dtype.bytes() + scale_bytes);
        prop_assert_eq!(bytes_read(&case.call(&case.spans, heads), &cache).unwrap(), expected);
    }
}

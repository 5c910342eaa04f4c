//! 16-bit and f32 weights, and the activation, against f64.

use moray::Cpu;
use moray::sparse_mlp::{Activation, IndexList, Matrix, Selection, activate_product};

use crate::case::{all_weights, call, subset};
use crate::common::{Random, bits, cpus};

/// Rounding errors of the f32 path, stage by stage against f64: u = 2⁻²⁴ for each of the K steps of a sum of products,
/// with the sum of their sizes, plus the elementwise steps.
#[test]
fn dense_rows_match_f64_within_the_bound_of_f32_sums() {
    let random = &mut Random::new(8);
    let u = f64::from(f32::EPSILON) / 2.0;
    for (d, d_ff, m) in [(576, 96, 2), (100, 77, 3), (7, 5, 1)] {
        for weights in &all_weights(random, d, d_ff)[..3] {
            let x = random.weights(m * d, 1.0);
            let list = subset(random, d_ff, 0.6);
            let selection = Selection::List(IndexList::new(&list, d_ff).unwrap());
            let row = |matrix, j: u32| {
                let mut row = vec![0.0; d];
                weights.row(matrix, j as usize, &mut row).unwrap();
                row
            };
            let dot = |a: &[f32], b: &[f32]| {
                let terms = || a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
                (terms().sum::<f64>(), (d as f64 + 4.0) * u * terms().map(f64::abs).sum::<f64>())
            };
            for cpu in cpus() {
                let (y, ws) = call(&cpu, weights, &x, &selection, None);
                for t in 0..m {
                    let x = &x[t * d..(t + 1) * d];
                    for (&j, &h) in list.iter().zip(ws.hidden(t)) {
                        let (g, g_error) = dot(x, &row(Matrix::Gate, j));
                        let (up, up_error) = dot(x, &row(Matrix::Up, j));
                        // |silu′| < 1.1; exp, sum, quotient and product round a few times
                        let (a, a_error) = (g / (1.0 + (-g).exp()), 1.1 * g_error);
                        let bound = a_error * (up.abs() + up_error) + a.abs() * up_error + 8.0 * u * (a * up).abs();
                        assert!((f64::from(h) - a * up).abs() <= bound, "{h} against {}, bound {bound}", a * up);
                    }
                    for n in 0..d {
                        let terms = || {
                            let h = ws.hidden(t).iter();
                            list.iter().zip(h).map(|(&j, &h)| f64::from(h) * f64::from(row(Matrix::Down, j)[n]))
                        };
                        let bound = (list.len() as f64 + 1.0) * u * terms().map(f64::abs).sum::<f64>();
                        let (got, expected) = (f64::from(y[t * d + n]), terms().sum::<f64>());
                        assert!((got - expected).abs() <= bound, "{got} against {expected}, bound {bound}");
                    }
                    if d > 500 {
                        break; // one token of the large shape is enough for f64
                    }
                }
            }
        }
    }
}

#[test]
fn silu_matches_f64_within_four_roundings_over_its_range() {
    let gate: Vec<f32> = (-87_000..=90_000).map(|i| i as f32 / 1000.0).collect();
    let mut results = cpus().into_iter().map(|cpu| {
        let mut up = vec![1.0; gate.len()];
        activate_product(&cpu, Activation::Silu, &gate, &mut up).unwrap();
        up
    });
    let portable = results.next().unwrap();
    results.for_each(|other| assert_eq!(bits(&other), bits(&portable)));
    for (&g, &got) in gate.iter().zip(&portable) {
        let exact = f64::from(g) / (1.0 + (-f64::from(g)).exp());
        // exp's reduction, polynomial and last step, the sum, the quotient: 4 half units in the last place and 2⁻²⁷
        let bound = 4.5 * exact.abs() * f64::from(f32::EPSILON) / 2.0;
        assert!((f64::from(got) - exact).abs() <= bound, "silu({g}) = {got}, exactly {exact}");
    }
    let mut far = [1.0f32; 4];
    activate_product(&Cpu::detect(), Activation::Silu, &[-1e4, 1e4, 0.0, -100.0], &mut far).unwrap();
    // below −88 the exponential stays e⁸⁸, so a gate of −1e4 leaves 6.1e-35 and one of −100 leaves 6.1e-37, rounded as above
    let capped = |gate: f64| gate / (1.0 + 88f64.exp()) * (1.0 + 4.5 * f64::from(f32::EPSILON) / 2.0);
    assert!(far[1] == 1e4 && far[2] == 0.0);
    for (got, gate) in [(far[0], -1e4), (far[3], -100.0)] {
        assert!((capped(gate)..=0.0).contains(&f64::from(got)), "silu({gate}) = {got}");
    }
}

//! Neurons copied out of weights against the list on those weights, bit for bit.

use moray::sparse_mlp::{
    Gathered, IndexList, Matrix, Score, ScoreOn, Selection, Weights, Workspace, bytes_read, forward,
};
use moray::{Cpu, Error, Isa};
use proptest::prelude::*;

use crate::case::{all_weights, call, four_bit, shape, subset};
use crate::common::{Random, bits, cpus};

fn gather(cpu: &Cpu, weights: &Weights, list: &[u32]) -> Gathered {
    let list = IndexList::new(list, weights.shape().d_ff).unwrap();
    let mut gathered = Gathered::with_capacity(weights, list.indices().len()).unwrap();
    gathered.gather(cpu, weights, list).unwrap();
    gathered
}

fn compare(seed: u64, d_model: usize, d_ff: usize, m: usize, list: &[u32]) {
    let random = &mut Random::new(seed);
    let (x, residual) = (random.weights(m * d_model, 1.0), random.weights(m * d_model, 1.0));
    let selection = Selection::List(IndexList::new(list, d_ff).unwrap());
    for (which, weights) in all_weights(random, d_model, d_ff).iter().enumerate() {
        let (expected, by_list) = call(&Cpu::detect(), weights, &x, &selection, Some(&residual));
        for cpu in cpus() {
            let gathered = gather(&cpu, weights, list);
            assert_eq!((gathered.list(), gathered.weights().shape().d_ff), (list, list.len()));
            let (y, ws) = call(&cpu, gathered.weights(), &x, &Selection::All, Some(&residual));
            assert_eq!(bits(&y), bits(&expected), "weights {which}, {d_model}×{d_ff}, m{m}, {:?}", cpu.isa());
            // a sum of 0 times a scale below 0 has a sign in one order and none in the other
            (0..m).for_each(|t| assert_eq!(ws.hidden(t), by_list.hidden(t), "weights {which}, token {t}"));
        }
        let threads = Cpu::new(5, Isa::detect()).unwrap();
        let gathered = gather(&threads, weights, list);
        let (y, _) = call(&threads, gathered.weights(), &x, &Selection::All, Some(&residual));
        assert_eq!(bits(&y), bits(&expected), "weights {which} on five threads");
    }
}

#[test]
fn gathered_neurons_match_the_list_bit_for_bit_on_every_form_and_shape() {
    let random = &mut Random::new(3);
    for (d_model, d_ff) in [(32, 32), (96, 160), (576, 320), (100, 77), (64, 2304)] {
        let every: Vec<u32> = (0..d_ff as u32).collect();
        for (m, q) in [(1, 0.5), (3, 0.1), (5, 0.9), (20, 0.9), (70, 0.4)] {
            compare(m as u64, d_model, d_ff, m, &subset(random, d_ff, q));
        }
        compare(7, d_model, d_ff, 1, &every);
        compare(8, d_model, d_ff, 2, &[]);
        compare(9, d_model, d_ff, 1, &every[d_ff - 1..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn gathered_neurons_match_the_list_bit_for_bit_on_random_lists(
        seed: u64, d in 1usize..140, d_ff in 1usize..200, m in 1usize..9, q in 0f32..1.0,
    ) {
        let (d, d_ff) = if seed % 2 == 0 { (d, d_ff) } else { (d.next_multiple_of(32), d_ff.next_multiple_of(32)) };
        compare(seed, d, d_ff, m, &subset(&mut Random::new(seed), d_ff, q));
    }
}

#[test]
fn groups_of_every_size_and_mixed_kinds_match_the_list() {
    let (random, cpu) = (&mut Random::new(4), Cpu::detect());
    let (d_model, d_ff) = (384, 1280);
    for (kinds, size) in [([2, 1, 3], 64), ([3, 0, 2], 128), ([0, 3, 1], 128), ([1, 2, 0], 64)] {
        let weights = four_bit(random, kinds, size, shape(d_model, d_ff)).weights;
        let list = subset(random, d_ff, 0.3);
        let gathered = gather(&cpu, &weights, &list);
        for m in [1, 4, 20] {
            let x = random.weights(m * d_model, 1.0);
            let by_list = Selection::List(IndexList::new(&list, d_ff).unwrap());
            let (expected, _) = call(&cpu, &weights, &x, &by_list, None);
            let (y, _) = call(&cpu, gathered.weights(), &x, &Selection::All, None);
            assert_eq!(bits(&y), bits(&expected), "{kinds:?} {size} m{m}");
        }
        let mut rows = [vec![0.0; d_model], vec![0.0; d_model]];
        for (at, &j) in list.iter().enumerate() {
            for matrix in [Matrix::Gate, Matrix::Up, Matrix::Down] {
                weights.row(matrix, j as usize, &mut rows[0]).unwrap();
                gathered.weights().row(matrix, at, &mut rows[1]).unwrap();
                assert_eq!(bits(&rows[0]), bits(&rows[1]), "{matrix:?} {j}");
            }
        }
    }
}

#[test]
fn memory_that_is_used_again_matches_fresh_memory() {
    let (random, cpu) = (&mut Random::new(5), Cpu::detect());
    let (d_model, d_ff) = (96, 320);
    for weights in all_weights(random, d_model, d_ff) {
        let mut gathered = Gathered::with_capacity(&weights, 200).unwrap();
        let mut ws = Workspace::new(&weights, 1).unwrap();
        for q in [0.5, 0.1, 0.55, 0.02] {
            let list = subset(random, d_ff, q);
            let (x, view) = (random.weights(d_model, 1.0), IndexList::new(&list, d_ff).unwrap());
            gathered.gather(&cpu, &weights, view).unwrap();
            let (expected, _) = call(&cpu, &weights, &x, &Selection::List(view), None);
            let mut y = vec![f32::NAN; d_model];
            // the workspace has seen the list itself before
            forward(&cpu, &weights, &x, &Selection::List(view), None, &mut y, &mut ws).unwrap();
            forward(&cpu, gathered.weights(), &x, &Selection::All, None, &mut y, &mut ws).unwrap();
            assert_eq!(bits(&y), bits(&expected), "{q}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_leaves_no_neurons() {
    let (random, cpu) = (&mut Random::new(6), Cpu::detect());
    let weights = four_bit(random, [2; 3], 32, shape(64, 96)).weights;
    let other = four_bit(random, [1; 3], 32, shape(64, 96)).weights;
    let list = IndexList::new(&[1, 5, 95], 96).unwrap();
    let mut gathered = Gathered::with_capacity(&weights, 3).unwrap();
    gathered.gather(&cpu, &weights, list).unwrap();
    let more = IndexList::new(&[1, 5, 94, 95], 96).unwrap();
    let refused = gathered.gather(&cpu, &weights, more);
    assert!(matches!(refused, Err(Error::Shape { what: "neurons to gather", got: 4, .. })));
    let short = IndexList::new(&[1], 95).unwrap();
    assert!(matches!(gathered.gather(&cpu, &weights, short), Err(Error::Length { what: "list's limit", .. })));
    assert_eq!(gathered.list(), [1, 5, 95]);
    assert!(matches!(gathered.gather(&cpu, &other, list), Err(Error::Unsupported { .. })));
    assert_eq!((gathered.list(), gathered.weights().shape().d_ff), (&[][..], 0));
    gathered.gather(&cpu, &weights, list).unwrap();
    assert!(matches!(Gathered::with_capacity(gathered.weights(), 1), Err(Error::Unsupported { .. })));
    let (x, mut ws) = (random.weights(64, 1.0), Workspace::new(&weights, 1).unwrap());
    let mut y = vec![0.5; 64];
    let score = Score::plain(ScoreOn::Gate);
    let some = IndexList::new(&[1], 3).unwrap();
    for selection in [Selection::List(some), Selection::TopK { score, k: 1 }] {
        let refused = forward(&cpu, gathered.weights(), &x, &selection, None, &mut y, &mut ws);
        assert!(matches!(refused, Err(Error::Unsupported { what: "selection", .. })));
    }
    assert!(y.iter().all(|&y| y == 0.5));
    assert_eq!(
        bytes_read(gathered.weights(), &Selection::All, &[0, 1, 2]),
        // a tile of 16 rows each of gate and up, and three rows and two blocks of down
        2 * (512 + 16 * 2 * 4) + 3 * 32 + 2 * 256
    );
}

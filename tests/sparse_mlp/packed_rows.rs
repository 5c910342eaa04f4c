//! Gate and up in tiles against the same rows by neuron, bit for bit.

use moray::sparse_mlp::{
    Gate, Gathered, IndexList, Input, Matrix, Selection, Shape, Weights, Workspace, bytes_read, forward, gate_up,
};
use moray::w4a8::Activations;
use moray::{Cpu, Error};
use proptest::prelude::*;

use crate::case::{all_weights, call, four_bit, masks_of, selections, shape, subset};
use crate::common::{Random, bits, cpus};

const PACKED: [&[Matrix]; 3] = [&[Matrix::Gate], &[Matrix::Up], &[Matrix::Gate, Matrix::Up]];

/// Whether a selection reads all rows of gate, and of up.
fn reads_all(selection: &Selection<'_>) -> [bool; 2] {
    match selection {
        Selection::All => [true, true],
        Selection::Threshold { score, .. } | Selection::TopK { score, .. } => {
            [true, score.on != moray::sparse_mlp::ScoreOn::Gate]
        }
        _ => [false, false],
    }
}

fn compare(random: &mut Random, weights: &Weights, m: usize) {
    let Shape { d_model, d_ff, .. } = weights.shape();
    let (x, residual) = (random.weights(m * d_model, 1.0), random.weights(m * d_model, 1.0));
    let (list, words) = (subset(random, d_ff, 0.5), masks_of(random, m, d_ff, 0.4));
    let factors: Vec<f32> = (0..d_ff).map(|_| random.unit()).collect();
    for matrices in PACKED {
        let packed = weights.clone().with_packed_rows(&Cpu::detect(), matrices).unwrap();
        for selection in selections(&list, &words, &factors, m, d_ff) {
            let [gate, up] = reads_all(&selection);
            let served = matrices.iter().all(|&matrix| if matrix == Matrix::Gate { gate } else { up });
            if !served {
                let (mut y, mut workspace) = (vec![7.0; x.len()], Workspace::new(&packed, m).unwrap());
                let error = forward(&Cpu::detect(), &packed, &x, &selection, None, &mut y, &mut workspace).unwrap_err();
                assert!(matches!(error, Error::Unsupported { what: "selection", .. }), "{error}");
                assert!(y.iter().all(|&y| y == 7.0), "{matrices:?}, {selection:?}");
                continue;
            }
            let (expected, by_neuron) = call(&Cpu::detect(), weights, &x, &selection, Some(&residual));
            for cpu in cpus() {
                let (y, ws) = call(&cpu, &packed, &x, &selection, Some(&residual));
                assert_eq!(bits(&y), bits(&expected), "{matrices:?}, {selection:?}, m{m}, {:?}", cpu.isa());
                assert_eq!(ws.kept(), by_neuron.kept(), "{matrices:?}, {selection:?}");
            }
        }
    }
}

#[test]
fn packed_rows_match_rows_by_neuron_on_every_form() {
    let random = &mut Random::new(17);
    for (d_model, d_ff) in [(32, 32), (96, 160), (576, 320), (64, 2304)] {
        for (kinds, size) in [([0, 0, 0], 32), ([1, 2, 3], 32), ([2, 3, 1], 32), ([3, 1, 2], 32)] {
            let weights = four_bit(random, kinds, size, shape(d_model, d_ff)).weights;
            let biases = [d_ff, d_ff, d_model].map(|n| random.weights(n, 0.1));
            let weights = weights.with_biases(&biases[0], &biases[1], &biases[2]).unwrap();
            for m in [1, 3, 20] {
                compare(random, &weights, m);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn packed_rows_match_rows_by_neuron_on_random_sizes(seed: u64, d in 1usize..6, d_ff in 1usize..10, m in 1usize..40) {
        let random = &mut Random::new(seed);
        let kinds = [0, 1, 2].map(|_| random.below(4));
        let weights = four_bit(random, kinds, 32, shape(32 * d, 32 * d_ff)).weights;
        compare(random, &weights, m);
    }
}

#[test]
fn packed_rows_hold_the_same_numbers_and_are_read_whole() {
    let random = &mut Random::new(5);
    let (d_model, d_ff) = (64, 96);
    for weights in all_weights(random, d_model, d_ff) {
        let packed = weights.clone().with_packed_rows(&Cpu::detect(), &[Matrix::Gate, Matrix::Up]).unwrap();
        let (mut a, mut b) = (vec![0.0; d_model], vec![0.0; d_model]);
        for (matrix, j) in [(Matrix::Gate, 0), (Matrix::Up, 95), (Matrix::Down, 31)] {
            weights.row(matrix, j, &mut a).unwrap();
            packed.row(matrix, j, &mut b).unwrap();
            assert_eq!(bits(&a), bits(&b), "{matrix:?} {j}");
        }
        let every: Vec<u32> = (0..d_ff as u32).collect();
        let read = bytes_read(&packed, &Selection::All, &every);
        assert!(read <= packed.bytes() && read > packed.bytes() / 2, "{read} of {}", packed.bytes());
    }
}

#[test]
fn parts_take_all_neurons_of_packed_rows_and_refuse_some() {
    let (random, cpu) = (&mut Random::new(9), Cpu::detect());
    let (d_model, d_ff) = (64, 96);
    let weights = four_bit(random, [2, 1, 3], 32, shape(d_model, d_ff)).weights;
    let packed = weights.clone().with_packed_rows(&cpu, &[Matrix::Gate]).unwrap();
    let mut x = Activations::default();
    x.quantize(&cpu, &random.weights(2 * d_model, 1.0), 2, d_model).unwrap();
    let every: Vec<u32> = (0..d_ff as u32).collect();
    let (all, some) = (IndexList::new(&every, d_ff).unwrap(), IndexList::new(&every[16..48], d_ff).unwrap());

    let gate_of = |weights: &Weights, list: IndexList<'_>| {
        let mut gate = vec![0.0; 2 * list.indices().len()];
        let computed = Gate::Computed(Some((&mut gate[..]).into()));
        gate_up(&cpu, weights, Input::Int8(&x), list, 0..list.indices().len(), computed, None).map(|()| gate)
    };
    assert_eq!(bits(&gate_of(&packed, all).unwrap()), bits(&gate_of(&weights, all).unwrap()));
    assert!(matches!(gate_of(&packed, some), Err(Error::Unsupported { what: "selection", .. })));

    // up is by neuron still
    let hidden_of = |weights: &Weights| {
        let (gate, mut hidden) = (vec![0.5; 2 * 32], vec![0.0; 2 * 32]);
        let out = Some((&mut hidden[..]).into());
        gate_up(&cpu, weights, Input::Int8(&x), some, 0..32, Gate::Given(&gate), out).unwrap();
        hidden
    };
    assert_eq!(bits(&hidden_of(&packed)), bits(&hidden_of(&weights)));
}

#[test]
fn rows_that_are_inputs_and_gathered_weights_are_not_packed() {
    let (random, cpu) = (&mut Random::new(2), Cpu::detect());
    let weights = four_bit(random, [1; 3], 32, shape(32, 64)).weights;
    for matrices in [&[Matrix::Down][..], &[Matrix::Gate, Matrix::Down]] {
        let error = weights.clone().with_packed_rows(&cpu, matrices).unwrap_err();
        assert!(matches!(error, Error::Unsupported { what: "rows to pack", .. }), "{error}");
    }
    let packed = weights.clone().with_packed_rows(&cpu, &[Matrix::Up]).unwrap();
    assert!(Gathered::with_capacity(&packed, 3).is_err());
    let mut gathered = Gathered::with_capacity(&weights, 64).unwrap();
    let every: Vec<u32> = (0..64).collect();
    assert!(gathered.gather(&cpu, &packed, IndexList::new(&every, 64).unwrap()).is_err());
    gathered.gather(&cpu, &weights, IndexList::new(&every, 64).unwrap()).unwrap();
    assert!(gathered.weights().clone().with_packed_rows(&cpu, &[Matrix::Gate]).is_err());
}

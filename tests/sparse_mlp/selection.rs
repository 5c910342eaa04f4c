//! What selections keep, and how their forms become each other.

use moray::sparse_mlp::{
    Activation, IndexList, Score, ScoreOn, Selection, Shape, TokenMasks, Weights, list_from_mask, mask_from_list,
};

use crate::case::{all_weights, call, has, masks_of, subset};
use crate::common::{Random, cpus};

#[test]
fn exact_top_k_takes_the_lower_index_where_scores_are_equal() {
    let shape = Shape { d_model: 1, d_ff: 100, activation: Activation::Relu };
    // neurons 10..90 have the same gate; 5 is higher
    let gate: Vec<f32> =
        (0..100).map(|j| if j == 5 { 2.0 } else { f32::from(u8::from((10..90).contains(&j))) }).collect();
    let weights = Weights::new(shape, &gate, &[1.0; 100], &[1.0f32; 100]).unwrap();
    for cpu in cpus() {
        for k in [1, 2, 40, 71, 81] {
            let selection = Selection::TopK { score: Score::plain(ScoreOn::Gate), k };
            let (y, ws) = call(&cpu, &weights, &[1.0], &selection, None);
            assert!(ws.kept().iter().copied().eq(std::iter::once(5).chain(10..9 + k as u32)), "{k}: {:?}", ws.kept());
            assert_eq!(y, [k as f32 + 1.0]);
        }
    }
}

#[test]
fn empty_list_gives_bias_and_residual_and_single_list_one_neuron() {
    for weights in all_weights(&mut Random::new(10), 64, 96) {
        let weights = weights.with_biases(&[], &[], &[0.25; 64]).unwrap();
        let x = [0.5; 128];
        for cpu in cpus() {
            let none = Selection::List(IndexList::new(&[], 96).unwrap());
            let (y, ws) = call(&cpu, &weights, &x, &none, Some(&[2.0; 128]));
            assert_eq!(y, [2.25; 128]);
            assert!(ws.kept().is_empty() && ws.hidden(1).is_empty());
            let single = Selection::List(IndexList::new(&[95], 96).unwrap());
            assert_eq!(call(&cpu, &weights, &x, &single, None).1.hidden(1).len(), 1);
        }
    }
}

#[test]
fn forms_convert_into_each_other_without_loss() {
    let random = &mut Random::new(12);
    for n in [1, 63, 64, 65, 200] {
        let list = subset(random, n, 0.4);
        let mut mask = vec![u64::MAX; n.div_ceil(64)];
        mask_from_list(IndexList::new(&list, n).unwrap(), &mut mask).unwrap();
        assert_eq!(list_from_mask(&mask, n).unwrap().indices(), list);
        let words = masks_of(random, 3, n, 0.2);
        let union = TokenMasks::new(&words, 3, n).unwrap().union();
        let expected: Vec<u32> = (0..n as u32).filter(|&j| (0..3).any(|t| has(&words, n, t, j as usize))).collect();
        assert_eq!(union.indices(), expected);
    }
    assert_eq!(IndexList::with_count(&[3, 7, 9, 9], 3, 10).unwrap().indices(), [3, 7, 9]);
}

//! The policies of a session together.

use std::sync::Arc;

use moray::Error;
use moray::attention::{AttentionShape, Heads, Span};
use moray::policy::{
    CoreInfer, Griffin, HeadNorm, Lists, ModelSizes, Observed, Policy, PolicyConfig, PolicySet, Projection, Random,
    Site, Sizes, TdaQuantile, Teal, TopK, Values, Wanted,
};
use moray::sparse_mlp::{NeuronList, Score, ScoreOn, Selection};

use crate::{sizes, token};

fn set(configs: &[Arc<dyn PolicyConfig>]) -> PolicySet {
    PolicySet::new(configs, &sizes(2, 64)).unwrap()
}

#[test]
fn a_site_without_a_policy_is_whole_and_wants_nothing() {
    let mut set = set(&[Arc::new(TopK::by_gate(0.5, 64).unwrap())]);
    assert!(set.has(Site::Neurons) && !set.has(Site::Heads));
    assert!(matches!(set.select(Site::Heads, 0, &token(0, 0)).unwrap(), Selection::All));
    assert!(matches!(set.select(Site::Neurons, 0, &token(0, 0)).unwrap(), Selection::TopK { k: 32, .. }));
    assert_eq!(set.wants(Site::Heads, &token(0, 0)), Wanted::Nothing);
    assert_eq!(set.select_heads(0, &token(0, 0)).unwrap(), Heads::All);
    assert_eq!((set.unsettled(&token(0, 0)), set.usage().fraction(&[Site::Neurons])), (None, None));
    set.observe(Site::Neurons, 0, &token(0, 0), &Observed::LENGTHS).unwrap();
    assert_eq!((set.usage().fraction(&[Site::Neurons]), set.usage().fraction(&[Site::Heads])), (Some(0.5), None));
}

#[test]
fn two_policies_of_one_site_are_refused() {
    let both: [Arc<dyn PolicyConfig>; 2] =
        [Arc::new(TopK::by_gate(0.5, 64).unwrap()), Arc::new(Griffin::new(0.5).unwrap())];
    let error = PolicySet::new(&both, &sizes(2, 64)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "policies", .. }), "{error}");
}

#[test]
fn slots_go_their_own_way_from_prompt_to_generation_and_back() {
    let mut set = set(&[Arc::new(Griffin::new(0.25).unwrap()), Arc::new(HeadNorm::new(0.5, 0).unwrap())]);
    let hidden: Vec<f32> = (0..64).map(|j| if j % 4 == 1 { 1.0 } else { 0.1 }).collect();
    let out: Vec<f32> = (0..32).map(|i| if i / 8 < 2 { 2.0 } else { 1.0 }).collect();
    let both = [Span { slot: 0, start: 1, len: 1 }, Span { slot: 1, start: 0, len: 1 }];
    assert_eq!(set.unsettled(&both), Some(Site::Neurons));
    for layer in 0..2 {
        assert!(matches!(set.select(Site::Neurons, layer, &token(0, 0)).unwrap(), Selection::All));
        set.observe(Site::Neurons, layer, &token(0, 0), &Observed::new(&hidden, 64, 64)).unwrap();
        set.observe(Site::Heads, layer, &token(0, 0), &Observed::new(&out, 32, 32)).unwrap();
    }
    assert!(matches!(set.begin_generation(1), Err(Error::Shape { .. })), "slot 1 has no prompt");
    set.begin_generation(0).unwrap();
    set.begin_generation(0).unwrap();
    assert_eq!(set.unsettled(&token(0, 1)), None);
    assert_eq!(set.select_heads(0, &both).unwrap(), Heads::Mask { words: &[0b0011, 0b1111] });
    let Selection::Masks(masks) = set.select(Site::Neurons, 1, &both).unwrap() else { panic!("lists of their own") };
    assert_eq!((masks.token(0), masks.token(1)), (&[0x2222_2222_2222_2222][..], &[u64::MAX][..]));
    let Selection::List(list) = set.select(Site::Neurons, 1, &both[..1]).unwrap() else { panic!("one list") };
    assert!(list.indices().iter().copied().eq((0..16).map(|j| 4 * j + 1)));
    // slot 1 is in its prompt: its values are wanted, and only slot 0 counts
    assert_eq!(set.wants(Site::Neurons, &both), Wanted::Copied(Values::Hidden));
    set.observe(Site::Neurons, 0, &both, &Observed::new(&[hidden.clone(), hidden].concat(), 64, 64)).unwrap();
    set.observe(Site::Heads, 0, &both, &Observed::new(&[out.clone(), out].concat(), 32, 32)).unwrap();
    assert_eq!((set.usage().fraction(&[Site::Neurons]), set.usage().fraction(&[Site::Heads])), (Some(0.25), Some(0.5)));
    assert_eq!(set.wants(Site::Neurons, &token(0, 2)), Wanted::Lengths);
    set.end_token(0).unwrap();
    set.reset(0).unwrap();
    assert_eq!(set.unsettled(&token(0, 0)), Some(Site::Neurons));
    assert!(set.reset(2).is_err() && set.end_token(2).is_err() && set.begin_generation(2).is_err());
    let none = set.observe(Site::Neurons, 0, &token(0, 0), &Observed::LENGTHS);
    assert!(matches!(none, Err(Error::Length { expected: 64, got: 0, .. })), "a prompt's values are needed");
}

#[test]
fn lists_of_heads_become_the_masks_of_every_span() {
    let attention = AttentionShape::new(70, 70, 8).unwrap();
    let sizes = Sizes { model: ModelSizes { n_layers: 1, d_model: 8, d_ff: 64, attention }, slots: 2, max_tokens: 2 };
    let list = NeuronList::new(vec![0, 31, 32, 69], 70).unwrap();
    let norm = HeadNorm::new(0.5, 0).unwrap();
    let mut set = PolicySet::new(&[Arc::new(Lists::new(Site::Heads, vec![list]))], &sizes).unwrap();
    let spans = [Span { slot: 0, start: 0, len: 1 }, Span { slot: 1, start: 4, len: 1 }];
    let heads = set.select_heads(0, &spans).unwrap();
    assert_eq!(heads, Heads::Mask { words: &[1 | 1 << 31, 1, 1 << 5, 1 | 1 << 31, 1, 1 << 5] });
    assert!((0..70).all(|head| heads.contains(&attention, 1, head) == [0, 31, 32, 69].contains(&head)));
    let three = [spans[0], spans[1], Span { slot: 2, start: 0, len: 1 }];
    assert!(matches!(set.select_heads(0, &three), Err(Error::Shape { what: "spans", .. })));
    // more than one word of a mask
    let mut set = PolicySet::new(&[Arc::new(norm)], &sizes).unwrap();
    let heads = set.select_heads(0, &spans).unwrap();
    assert_eq!(heads, Heads::Mask { words: &[u32::MAX, u32::MAX, 63, u32::MAX, u32::MAX, 63] });
}

#[test]
fn a_choice_of_heads_cannot_depend_on_values() {
    let mut set = set(&[
        Arc::new(AboveInputs { site: Site::Heads, threshold: 0.5 }),
        Arc::new(Random::new(Site::Neurons, 0.5).unwrap()),
    ]);
    let error = set.select_heads(0, &token(0, 0)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "selection of heads", .. }), "{error}");
}

/// A threshold on the inputs of a matrix, the same in every layer.
#[derive(Debug, Clone)]
struct AboveInputs {
    site: Site,
    threshold: f32,
}

impl PolicyConfig for AboveInputs {
    fn policy(&self, _: &Sizes) -> moray::Result<Box<dyn Policy>> {
        Ok(Box::new(self.clone()))
    }
}

impl Policy for AboveInputs {
    fn site(&self) -> Site {
        self.site
    }
    fn wants(&self, _: &[Span]) -> Wanted {
        Wanted::AtHand(Values::Inputs(Projection::GateUp))
    }
    fn select(&mut self, _: usize, _: &[Span]) -> moray::Result<Selection<'_>> {
        Ok(Selection::Threshold { score: Score::plain(ScoreOn::Input), threshold: self.threshold })
    }
    fn is_settled(&self, _: &[Span]) -> bool {
        true
    }
}

#[test]
fn inputs_of_gate_and_up_have_a_policy_of_their_own_instead_of_neurons() {
    let above = |site| AboveInputs { site, threshold: 0.5 };
    let gate_up = Site::Inputs(Projection::GateUp);
    let mut inputs = set(&[Arc::new(above(gate_up))]);
    assert_eq!(inputs.mlp_site(), gate_up);
    let selection = inputs.select_mlp(0, &token(0, 0)).unwrap()[0];
    assert!(matches!(selection, Selection::Threshold { threshold: 0.5, .. }));
    assert_eq!(set(&[]).select_mlp(0, &token(0, 0)).unwrap(), [Selection::All; 2]);
    // what is selected has to be of the site
    let wrong = set(&[Arc::new(above(Site::Neurons))]).select_mlp(0, &token(0, 0)).map(drop);
    assert!(matches!(wrong, Err(Error::Unsupported { what: "selection of the mlp", .. })));
    let wrong = set(&[Arc::new(Random::new(gate_up, 0.5).unwrap())]).select_mlp(0, &token(0, 0)).map(drop);
    assert!(matches!(wrong, Err(Error::Unsupported { what: "selection of the mlp", .. })));
    let both: [Arc<dyn PolicyConfig>; 2] = [Arc::new(above(gate_up)), Arc::new(TopK::by_gate(0.5, 64).unwrap())];
    let error = PolicySet::new(&both, &sizes(2, 64)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { what: "policies", .. }), "{error}");
}

#[test]
fn each_matrix_has_a_threshold_of_its_own_and_what_is_kept_is_counted_over_all() {
    let configs = Site::INPUTS.map(|site| AboveInputs { site, threshold: site_threshold(site) });
    let mut inputs = set(&configs.map(|config| Arc::new(config) as Arc<dyn PolicyConfig>));
    {
        let [qkv, output] = inputs.select_attention(0, &token(0, 0)).unwrap().1.map(threshold);
        let [gate_up, down] = inputs.select_mlp(0, &token(0, 0)).unwrap().map(threshold);
        assert_eq!([qkv, output, gate_up, down], Site::INPUTS.map(site_threshold));
    }
    assert_eq!(inputs.usage().fraction(&Site::INPUTS), None);
    let qkv = Site::Inputs(Projection::Qkv);
    assert_eq!(set(&[]).select_attention(0, &token(0, 0)).unwrap(), (Heads::All, [Selection::All; 2]));
    let wrong = set(&[Arc::new(Random::new(qkv, 0.5).unwrap())]).select_attention(0, &token(0, 0)).map(drop);
    assert!(matches!(wrong, Err(Error::Unsupported { what: "selection of inputs", .. })));
    // 1 of 4 of one matrix and 3 of 4 of another
    let teal = |projection| Arc::new(Teal::new(projection, vec![0.5; 2]).unwrap()) as Arc<dyn PolicyConfig>;
    let mut inputs = set(&[teal(Projection::Qkv), teal(Projection::Down)]);
    inputs.observe(qkv, 0, &token(0, 0), &Observed::new(&[0.5, -0.6, 0.1, 0.0], 4, 4)).unwrap();
    inputs
        .observe(Site::Inputs(Projection::Down), 1, &token(0, 0), &Observed::new(&[0.7, -0.6, 0.1, 9.0], 4, 4))
        .unwrap();
    assert_eq!((inputs.usage().fraction(&[qkv]), inputs.usage().fraction(&Site::INPUTS)), (Some(0.25), Some(0.5)));
}

fn threshold(selection: Selection<'_>) -> f32 {
    let Selection::Threshold { threshold, .. } = selection else { panic!("{selection:?}") };
    threshold
}

fn site_threshold(site: Site) -> f32 {
    Site::INPUTS.iter().position(|other| *other == site).unwrap() as f32 + 1.0
}

#[test]
fn the_longest_list_that_is_told_beforehand_is_as_long_as_the_list() {
    let list = |indices| NeuronList::new(indices, 64).unwrap();
    let lists = Lists::new(Site::Neurons, vec![list(vec![1, 3]), list(vec![5])]);
    let policies: [Arc<dyn PolicyConfig>; 4] = [
        Arc::new(Griffin::new(0.3).unwrap()),
        Arc::new(CoreInfer::new(0.4).unwrap()),
        Arc::new(lists),
        Arc::new(Random::new(Site::Neurons, 0.7).unwrap()),
    ];
    let hidden: Vec<f32> = (0..64).map(|j| 1.0 + j as f32).collect();
    for policy in policies {
        let mut set = set(&[Arc::clone(&policy)]);
        let told = [0, 1].map(|layer| set.longest_list(Site::Neurons, layer).unwrap());
        for layer in 0..2 {
            set.observe(Site::Neurons, layer, &token(0, 0), &Observed::new(&hidden, 64, 64)).unwrap();
        }
        set.begin_generation(0).unwrap();
        for (layer, told) in told.into_iter().enumerate() {
            let selection = set.select(Site::Neurons, layer, &token(0, 1)).unwrap();
            assert!(matches!(selection, Selection::List(list) if list.indices().len() == told), "{policy:?}");
        }
    }
    // thresholds and choices by token have no such number
    let unknown: [Arc<dyn PolicyConfig>; 2] =
        [Arc::new(TdaQuantile::new(0.5).unwrap()), Arc::new(TopK::by_gate(0.5, 64).unwrap())];
    assert!(unknown.into_iter().all(|policy| set(&[policy]).longest_list(Site::Neurons, 0).is_none()));
    assert_eq!(set(&[]).longest_list(Site::Neurons, 0), None);
}

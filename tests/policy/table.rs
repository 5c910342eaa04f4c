//! Policies by name.

use std::sync::Arc;

use moray::Error;
use moray::attention::Span;
use moray::policy::{
    Array, Calibration, CatsCalibrator, Chosen, Context, Effect, Found, Kept, LayerRule, Magnitude, ModelSizes, Named,
    Observed, PolicyConfig, Projection, PromptStatistic, Site, Sizes, TABLE, Tda, TealCalibrator, TopK, Values, Wanted,
    cett_of_dropping, help,
};
use moray::sparse_mlp::{Activation, Selection, Shape, Weights};

use crate::common::Random;
use crate::{sizes, token};

const D_FF: usize = 64;

/// A model whose calibration text has 40 tokens of known activations.
struct Known {
    weights: Weights,
    /// f32 \[40, d_ff\].
    gate: Vec<f32>,
    hidden: Vec<f32>,
    /// f32 \[40, 4 heads of 8\].
    out: Vec<f32>,
}

impl Known {
    fn new() -> Self {
        let random = &mut Random::new(3);
        let shape = Shape { d_model: 32, d_ff: D_FF, activation: Activation::Silu };
        let [gate, up, down] = [(); 3].map(|()| random.weights(32 * D_FF, 0.3));
        let weights = Weights::new(shape, &gate, &up, &down).unwrap();
        let [gate, hidden, out] = [D_FF, D_FF, 32].map(|n| random.weights(40 * n, 1.0));
        Known { weights, gate, hidden, out }
    }
}

impl Context for Known {
    fn model(&self) -> ModelSizes {
        sizes(2, D_FF).model
    }

    fn mlp(&self, _: usize) -> moray::Result<&Weights> {
        Ok(&self.weights)
    }

    fn column_norms(&self, projection: Projection, layer: usize) -> moray::Result<Vec<f32>> {
        let n = self.model().count(Site::Inputs(projection));
        Ok((0..n).map(|k| ((k + layer) % 5) as f32).collect())
    }

    fn run(&mut self, policies: Vec<Arc<dyn PolicyConfig>>) -> moray::Result<()> {
        policies.into_iter().try_for_each(|policy| self.show(&*policy))
    }

    /// What is left out costs its mean square, times what the matrix and the layer are worth.
    fn effect(&mut self, layer: usize, thresholds: [f32; 4], on: Effect) -> moray::Result<f64> {
        let cost = |place: usize| match on {
            Effect::Divergence => self.left_out(place, thresholds[place])[1] * worth(place, layer),
            Effect::Block => self.left_out(place, thresholds[place])[1] * worth(place, layer).sqrt(),
        };
        Ok((0..4).map(cost).sum())
    }
}

/// What a mean square of 1 that is left out of a matrix costs: the last matrix of the first layer next to nothing.
fn worth(place: usize, layer: usize) -> f64 {
    [[8.0, 1.0, 2.0, 1e-4], [1.0, 30.0, 0.5, 4.0]][layer][place]
}

impl Known {
    fn inputs(&self, place: usize) -> &[f32] {
        if place == 3 { &self.hidden } else { &self.out }
    }

    /// The share of a matrix's inputs of at most `threshold`, and the mean over all of the squares of these.
    fn left_out(&self, place: usize, threshold: f32) -> [f64; 2] {
        let inputs = self.inputs(place);
        let small = inputs.iter().filter(|x| x.abs() <= threshold);
        let squares: f64 = small.clone().map(|&x| f64::from(x) * f64::from(x)).sum();
        [small.count() as f64 / inputs.len() as f64, squares / inputs.len() as f64]
    }

    /// The share of all weights that thresholds \[4, 2 layers\] leave out, and what that costs.
    fn outcome(&self, thresholds: &[Vec<f32>]) -> [f64; 2] {
        let (mut spared, mut all, mut cost) = (0.0, 0.0, 0.0);
        for (place, projection) in Projection::ALL.into_iter().enumerate() {
            let weights = self.model().weights(projection) as f64;
            for layer in 0..2 {
                let [share, square] = self.left_out(place, thresholds[place][layer]);
                (spared, all, cost) = (spared + share * weights, all + weights, cost + square * worth(place, layer));
            }
        }
        [spared / all, cost]
    }

    /// The thresholds of a policy of inputs, \[4, 2 layers\].
    fn thresholds(&mut self, text: &str) -> Vec<Vec<f32>> {
        let configs = Named::parse(Site::INPUTS[0], text).unwrap().make(self).unwrap();
        let of = |config: &Arc<dyn PolicyConfig>| {
            let mut policy = config.policy(&sizes(2, D_FF)).unwrap();
            let mut at = |layer| match policy.select(layer, &token(0, 0)).unwrap() {
                Selection::Threshold { threshold, .. } => threshold,
                other => panic!("{other:?}"),
            };
            vec![at(0), at(1)]
        };
        configs.iter().map(of).collect()
    }
}

/// The definition: at the share of the weights that is asked for, no exchange between two matrices costs less.
#[test]
fn thresholds_by_divergence_cost_as_much_for_each_weight_and_keep_the_share() {
    let mut known = Known::new();
    let weights = Projection::ALL.map(|projection| known.model().weights(projection) as f64);
    // 1280 values of each matrix at least, and quantiles of 1/100
    let near = 0.015;
    for kept in ["0.9", "0.7", "0.5", "0.3"] {
        let thresholds = known.thresholds(&format!("teal-kl:{kept}"));
        let [spared, cost] = known.outcome(&thresholds);
        let share = 1.0 - kept.parse::<f64>().unwrap();
        assert!((spared - share).abs() < near, "{kept}: {spared}");
        let uniform = known.thresholds(&format!("teal:{kept}"));
        let [of_uniform, more] = known.outcome(&uniform);
        assert!((of_uniform - share).abs() < near && cost < 0.7 * more, "{kept}: {cost} of {more}");
        // t² · worth / weights is the same in all, but where 0.95 of the inputs are left out; worth as it is measured, in steps of quantiles
        let mut rates = Vec::new();
        for place in 0..4 {
            for layer in 0..2 {
                let threshold = thresholds[place][layer];
                let [dropped, _] = known.left_out(place, threshold);
                let rate = f64::from(threshold).powi(2) * worth(place, layer) / weights[place];
                assert!(dropped < 0.97, "{place} {layer}: {dropped}");
                // one is so cheap that it is taken for a twentieth of its kind's mean
                if dropped < 0.94 && (place, layer) != (3, 0) {
                    rates.push(rate);
                }
            }
        }
        let (least, most) = rates.iter().fold((f64::MAX, 0.0f64), |(a, b), &rate| (a.min(rate), b.max(rate)));
        assert!(rates.len() > 3 && most < 1.1 * least, "{kept}: {rates:?}");
    }
    assert!(known.thresholds("teal-kl:1").concat().iter().all(|&threshold| threshold == 0.0));
    for name in ["teal-kl", "teal-greedy"] {
        let refused = Named::parse(Site::INPUTS[0], &format!("{name}:0.03")).unwrap().make(&mut known);
        assert!(matches!(refused, Err(Error::Value { what: "kept fraction", .. })), "{name}: {refused:?}");
    }
}

/// A calibration of one share serves every other.
#[test]
fn what_divergence_was_found_serves_every_share_and_bad_numbers_are_refused() {
    let mut known = Known::new();
    let model = known.model();
    let named = |text: &str| Named::parse(Site::INPUTS[0], text).unwrap();
    assert_eq!(named("teal-kl:0.4").found_as().as_deref(), Some("inputs/teal-kl"));
    let found = named("teal-kl:0.4").find(&mut known).unwrap();
    let of_other = format!("{:?}", named("teal-kl:0.8").make_of(&model, &found).unwrap());
    assert_eq!(of_other, format!("{:?}", named("teal-kl:0.8").make(&mut known).unwrap()));
    let array = |name: &str| found.arrays().find(|(other, _)| *other == name).unwrap().1.clone();
    let changed = |name: &str, at: usize, value: f32| {
        let array = array(name);
        let moray::policy::Elements::F32(mut values) = array.elements().clone() else { panic!("numbers") };
        values[at] = value;
        let mut found = found.clone();
        found.put_f32(name, array.shape(), values).unwrap();
        named("teal-kl:0.8").make_of(&model, &found)
    };
    assert!(matches!(changed("costs", 1, -1.0), Err(Error::Value { what: "cost of a matrix", .. })));
    assert!(matches!(changed("sizes", 30, 0.0), Err(Error::Value { what: "size of inputs", .. })));
    assert!(matches!(changed("sizes", 0, -1.0), Err(Error::Value { what: "size of inputs", .. })));
}

/// The definition, with the inputs sorted: of every layer's weights a fiftieth at a time goes where the block's error is then least.
#[test]
fn greedy_shares_match_a_plain_search_in_every_block() {
    let mut known = Known::new();
    let weights = Projection::ALL.map(|projection| known.model().weights(projection) as f64);
    let all: f64 = weights.iter().sum();
    let found = known.thresholds("teal-greedy:0.62");
    for layer in 0..2 {
        let mut sorted: Vec<Vec<f32>> =
            (0..4).map(|place| known.inputs(place).iter().map(|x| x.abs()).collect()).collect();
        sorted.iter_mut().for_each(|sizes| sizes.sort_by(f32::total_cmp));
        let error = |dropped: &[f64; 4]| {
            let of_place = |place: usize| {
                let sizes = &sorted[place];
                let count = (dropped[place] * sizes.len() as f64).round() as usize;
                let squares: f64 = sizes[..count].iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                squares / sizes.len() as f64 * worth(place, layer).sqrt()
            };
            (0..4).map(of_place).sum::<f64>()
        };
        let mut dropped = [0.0f64; 4];
        for _ in 0..19 {
            let next = (0..4).map(|place| {
                let mut next = dropped;
                next[place] += 0.02 * all / weights[place];
                next
            });
            let fits = next.filter(|next| next.iter().all(|share| *share <= 0.95));
            dropped = fits.min_by(|a, b| error(a).total_cmp(&error(b))).unwrap();
        }
        for place in 0..4 {
            let [share, _] = known.left_out(place, found[place][layer]);
            // shares of values, and their quantiles in bins
            assert!((share - dropped[place]).abs() < 2e-3, "{layer} {place}: {share} of {dropped:?}");
        }
        let spared: f64 = (0..4).map(|place| known.left_out(place, found[place][layer])[0] * weights[place]).sum();
        assert!((spared / all - 0.38).abs() < 2e-3, "{layer}: {spared} of {all}");
    }
}

impl Known {
    fn show(&self, policy: &dyn PolicyConfig) -> moray::Result<()> {
        let mut policy = policy.policy(&Sizes { max_tokens: 40, ..sizes(2, D_FF) })?;
        let spans = [Span { slot: 0, start: 0, len: 40 }];
        let (values, width) = match policy.wants(&spans) {
            Wanted::Copied(Values::Gate) => (&self.gate, D_FF),
            Wanted::Copied(Values::Hidden) => (&self.hidden, D_FF),
            Wanted::Copied(Values::Inputs(Projection::Down)) => (&self.hidden, D_FF),
            Wanted::Copied(Values::HeadOutputs | Values::Inputs(_)) => (&self.out, 32),
            other => panic!("{other:?}"),
        };
        (0..2).try_for_each(|layer| {
            policy.observe(layer, &spans, &Observed::new(values, width, width))?;
            if policy.predicts() { policy.predict(layer, &spans, &Observed::new(&self.out, 32, 32)) } else { Ok(()) }
        })
    }
}

/// An entry's syntax with arguments in place of names.
fn example(syntax: &str) -> String {
    syntax.replace("K", "0.5").replace("T", "0.25").replace("[:R]", ":32").replace("[:A]", ":1")
}

#[test]
fn every_policy_is_made_from_its_name_and_displays_as_what_it_was_parsed_from() {
    let mut made = 0;
    for entry in TABLE {
        for &site in entry.sites() {
            let text = example(entry.syntax());
            let named = Named::parse(site, &text).unwrap();
            assert_eq!(named.to_string(), text);
            assert_eq!(Named::parse(site, &named.to_string()).unwrap(), named);
            let configs = named.make(&mut Known::new()).unwrap();
            assert_eq!(configs.is_empty(), named.chosen() == Chosen::Never, "{text}");
            let mut policies: Vec<_> = configs.iter().map(|config| config.policy(&sizes(2, D_FF)).unwrap()).collect();
            for policy in policies.iter_mut().filter(|policy| policy.predicts()) {
                policy.predict(1, &token(0, 0), &Observed::new(&[0.5; 32], 32, 32)).unwrap();
            }
            assert!(policies.iter_mut().all(|policy| policy.select(1, &token(0, 0)).is_ok()));
            if let Some(policy) = policies.iter().find(|policy| policy.site() == site) {
                let chosen_by_the_host = named.chosen() == Chosen::ByPrompt || policy.predicts();
                assert!(policy.is_settled(&token(0, 0)) != chosen_by_the_host, "{text}");
                made += 1;
            }
            assert!(help(site).contains(&format!("{} ({})", entry.syntax(), entry.help())));
        }
    }
    assert_eq!(made, 42);
    assert_eq!(Named::EVERY_NEURON, Named::parse(Site::Neurons, "dense").unwrap());
    assert_eq!(Named::EVERY_HEAD, Named::parse(Site::Heads, "all").unwrap());
    assert_eq!(Named::EVERY_INPUT, Named::parse(Site::INPUTS[0], "all").unwrap());
    assert_eq!(Named::parse(Site::Heads, "norm:0.7").unwrap().to_string(), "norm:0.7");
    assert_eq!(Named::parse(Site::Heads, "norm:0.7:0").unwrap().to_string(), "norm:0.7");
}

/// Whatever a policy finds goes through arrays: a policy of these arrays is the one that is made at once.
#[test]
fn policies_of_what_was_found_are_those_that_are_made_at_once() {
    let (mut found_something, model) = (0, sizes(2, D_FF).model);
    for entry in TABLE {
        for &site in entry.sites() {
            let named = Named::parse(site, &example(entry.syntax())).unwrap();
            let found = named.find(&mut Known::new()).unwrap();
            let mut copied = Found::default();
            for (name, array) in found.arrays() {
                copied.put(name, Array::new(array.shape(), array.elements().clone()).unwrap());
            }
            let made = format!("{:?}", named.make_of(&model, &copied).unwrap());
            assert_eq!(made, format!("{:?}", named.make(&mut Known::new()).unwrap()));
            assert_eq!(named.found_as().is_some(), found.arrays().next().is_some(), "{named}");
            // an array less, or of another model
            for (left_out, _) in found.arrays() {
                let mut less = Found::default();
                found
                    .arrays()
                    .filter(|(name, _)| *name != left_out)
                    .for_each(|(name, array)| less.put(name, array.clone()));
                let error = named.make_of(&model, &less).unwrap_err().to_string();
                assert!(error.contains(left_out), "{named} {left_out}: {error}");
                assert!(named.make_of(&sizes(3, D_FF).model, &found).is_err(), "{named}");
                found_something += 1;
            }
        }
    }
    assert!(found_something > 15, "{found_something}");
}

/// The tokens that run whole are part of what is kept.
#[test]
fn a_refreshed_policy_keeps_its_share_on_average() {
    let n = 1000;
    let random = &mut Random::new(6);
    let rows = random.weights(64 * n, 1.0);
    for (text, every) in [("griffin-refresh:0.5", 32), ("griffin-refresh:0.5:8", 8), ("tda-refresh:0.5:16", 16)] {
        let config = Named::parse(Site::Neurons, text).unwrap().make(&mut Known::new()).unwrap().remove(0);
        let mut policy = config.policy(&sizes(1, n)).unwrap();
        policy.observe(0, &token(0, 0), &Observed::new(&rows[..n], n, n)).unwrap();
        policy.begin_generation(0).unwrap();
        let (mut kept, mut whole, mut lists) = (Kept::default(), 0, std::collections::BTreeSet::new());
        for t in 0..2 * every {
            match policy.select(0, &token(0, t)).unwrap() {
                Selection::All => whole += 1,
                Selection::List(list) => {
                    lists.insert(list.indices().to_vec());
                }
                other => panic!("{other:?}"),
            }
            kept += policy.observe(0, &token(0, t), &Observed::new(&rows[t % 64 * n..][..n], n, n)).unwrap();
            policy.end_token(0).unwrap();
        }
        assert_eq!((whole, lists.len()), (2 * every / 8, 2), "{text}");
        // a list has one neuron more at most
        assert!((kept.fraction().unwrap() - 0.5).abs() < 1e-3, "{text}: {:?}", kept.fraction());
    }
    let refused = Named::parse(Site::Neurons, "tda-refresh:0.1").unwrap().make(&mut Known::new());
    assert!(matches!(refused, Err(Error::Value { what: "kept fraction", .. })));
}

#[test]
fn policies_by_name_are_those_of_their_calibrators() {
    let known = Known::new();
    let made = |site, text: &str| format!("{:?}", Named::parse(site, text).unwrap().make(&mut Known::new()).unwrap());
    let observed = |calibration: &mut dyn FnMut(usize, &[f32]), values: &[f32], width: usize| {
        (0..2).for_each(|layer| values.chunks(width).for_each(|token| calibration(layer, token)));
    };
    let mut cats = CatsCalibrator::new(2).unwrap();
    observed(&mut |layer, gate| cats.observe(layer, gate).unwrap(), &known.gate, D_FF);
    assert_eq!(made(Site::Neurons, "cats:0.3"), format!("[{:?}]", cats.finish(0.3).unwrap()));
    let mut magnitude = Magnitude::of_neurons(2, D_FF).unwrap();
    observed(&mut |layer, values| magnitude.observe(layer, values).unwrap(), &known.hidden, D_FF);
    assert_eq!(made(Site::Neurons, "static:0.3"), format!("[{:?}]", magnitude.finish(0.3).unwrap()));
    let mut heads = Magnitude::of_heads(2, sizes(2, D_FF).model.attention).unwrap();
    observed(&mut |layer, values| heads.observe(layer, values).unwrap(), &known.out, 32);
    assert_eq!(made(Site::Heads, "static:0.5"), format!("[{:?}]", heads.finish(0.5).unwrap()));
    let teal = |projection| {
        let mut teal = TealCalibrator::new(projection, 2).unwrap();
        let (values, width) = if projection == Projection::Down { (&known.hidden, D_FF) } else { (&known.out, 32) };
        observed(&mut |layer, values| teal.observe(layer, values).unwrap(), values, width);
        format!("{:?}", teal.finish(0.3).unwrap())
    };
    assert_eq!(made(Site::INPUTS[0], "teal:0.3"), format!("[{}]", Projection::ALL.map(teal).join(", ")));
    let norms = (0..2).flat_map(|_| known.weights.down_norms()).collect::<Vec<_>>();
    let oracle = TopK::by_contribution(0.3, D_FF, norms.chunks(D_FF).map(<[f32]>::to_vec).collect()).unwrap();
    assert_eq!(made(Site::Neurons, "oracle:0.3"), format!("[{oracle:?}]"));
}

#[test]
fn lists_of_an_order_that_names_a_neuron_twice_are_refused() {
    let (model, named) = (sizes(2, D_FF).model, Named::parse(Site::Neurons, "static:0.5").unwrap());
    let mut order: Vec<u32> = (0..2).flat_map(|_| 0..D_FF as u32).collect();
    let made = |order: Vec<u32>| {
        let mut found = Found::default();
        found.put_u32("order", &[2, D_FF], order).unwrap();
        named.make_of(&model, &found)
    };
    assert!(made(order.clone()).is_ok());
    order[1] = 0;
    assert!(matches!(made(order.clone()), Err(Error::NotIncreasing { .. })));
    order[1] = 1 + D_FF as u32;
    assert!(matches!(made(order), Err(Error::Index { .. })));
}

#[test]
fn names_and_arguments_that_are_not_there_are_refused_with_what_is() {
    let bad =
        ["", "topk", "topk:", "topk:0", "topk:1.5", "topk:nan", "topk:0.5:3", "dense:1", "norm:0.5", "all", "TOPK:0.5"];
    for text in bad {
        let error = Named::parse(Site::Neurons, text).unwrap_err();
        assert!(matches!(error, Error::Unsupported { what: "policy", .. }), "{text}");
        assert!(
            error.to_string().contains("dense, topk:K, oracle:K, cats:K, cett:T, griffin:K, tda:K, tda-cett:T, tda-max:T, griffin-refresh:K[:R], tda-refresh:K[:R], coreinfer:K, coreinfer-size:K, dejavu:K[:A], dejavu-trained:K[:A], moefication:K, static:K, random:K"),
            "{error}"
        );
    }
    for text in ["dense", "norm", "norm:0", "norm:0.5:", "norm:0.5:-1", "norm:0.5:1:1", "griffin:0.5"] {
        let error = Named::parse(Site::Heads, text).unwrap_err().to_string();
        assert!(error.contains("all, norm:K[:R], norm-groups:K[:R], predictor:K, static:K, random:K"), "{error}");
    }
}

/// The three ways to set TDA's thresholds by name are those of its type.
#[test]
fn tda_by_name_has_the_thresholds_of_its_kinds() {
    let mut known = Known::new();
    let prompt = PromptStatistic::new(D_FF).unwrap();
    let mut layers = [prompt.clone(), prompt];
    layers[0].observe(&known.hidden[..20 * D_FF]).unwrap();
    layers[1].observe(&known.hidden[20 * D_FF..]).unwrap();
    let mut statistic = PromptStatistic::new(D_FF).unwrap();
    statistic.observe(&known.hidden).unwrap();
    let cett = Tda::calibrated_by_cett(&known.weights, &statistic, &known.hidden, 0.3).unwrap();
    assert!(cett > 0.0);
    for (text, expected) in [
        ("tda:0.4", Tda::joint_quantile(&layers, 0.4).unwrap()),
        ("tda-max:0.7", Tda::fraction_of_max(&layers, 0.7).unwrap()),
        ("tda-cett:0.3", Tda::new(vec![f64::from(cett as f32); 2]).unwrap()),
    ] {
        let config = Named::parse(Site::Neurons, text).unwrap().make(&mut known).unwrap().remove(0);
        let mut policy = config.policy(&Sizes { max_tokens: 20, ..sizes(2, D_FF) }).unwrap();
        let spans = [Span { slot: 0, start: 0, len: 20 }];
        for (layer, hidden) in known.hidden.chunks(20 * D_FF).enumerate() {
            policy.observe(layer, &spans, &Observed::new(hidden, D_FF, D_FF)).unwrap();
        }
        policy.begin_generation(0).unwrap();
        for (layer, statistic) in layers.iter().enumerate() {
            let Selection::List(list) = policy.select(layer, &token(0, 20)).unwrap() else { panic!("a list") };
            let expected = expected.list(layer, statistic).unwrap();
            assert_eq!(list.indices(), expected.indices(), "{text}");
            assert!(!expected.indices().is_empty() && expected.indices().len() < D_FF, "{text}");
        }
    }
}

/// The definition: the highest threshold of the calibration text's scores at which dropping costs at most the target.
#[test]
fn cett_by_name_meets_its_target_on_the_calibration_text() {
    let mut known = Known::new();
    let config = Named::parse(Site::Neurons, "cett:0.2").unwrap().make(&mut known).unwrap().remove(0);
    let mut policy = config.policy(&sizes(2, D_FF)).unwrap();
    let Selection::Threshold { score, threshold } = policy.select(1, &token(0, 0)).unwrap() else {
        panic!("a threshold")
    };
    let norms = known.weights.down_norms();
    assert_eq!(score.channel_scale, Some(&norms[..]));
    let score = |t: usize, j: usize| known.hidden[t * D_FF + j].abs() * norms[j];
    let cost = |t: f32| cett_of_dropping(&known.weights, &known.hidden, |at, j| score(at, j) <= t).unwrap();
    let scores = (0..known.hidden.len()).map(|i| score(i / D_FF, i % D_FF));
    let next = scores.filter(|&s| s > threshold).fold(f32::INFINITY, f32::min);
    assert!(threshold > 0.0 && cost(threshold) <= 0.2 && cost(next) > 0.2, "{} and {}", cost(threshold), cost(next));
    // what is kept is counted from the products that are shown
    let shown: Vec<f32> =
        (0..D_FF).map(|j| if score(0, j) > threshold { known.hidden[j] } else { 0.0 }).filter(|a| *a != 0.0).collect();
    let kept = policy.observe(1, &token(0, 0), &Observed::new(&shown, shown.len(), shown.len())).unwrap();
    assert_eq!((kept.kept, kept.all), (shown.len() as u64, D_FF as u64));
}

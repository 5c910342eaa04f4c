//! `moray analyze`: its numbers against plain definitions on made-up activations, and the command from its arguments to its files.

use clap::Parser;
use moray::attention::AttentionShape;
use moray_lab::analyze::{
    Activations, Analysis, Histories, Inertia, Seen, decay, heads, histogram, inertia, uncertainty, union,
};
use moray_lab::cli::{Cli, run};
use moray_lab::fixture::{Fixture, SplitMix};

/// Numbers in 0..1 that differ by seed.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut random = SplitMix(seed);
    (0..len).map(|_| random.below(1 << 20) as f32 / (1 << 20) as f32).collect()
}

const D_FF: usize = 70;

fn noise(seed: u64, tokens: usize) -> Activations {
    Activations::new(D_FF, (0..3).map(|layer| random(seed * 10 + layer, tokens * D_FF)).collect())
}

/// Activations of which every token has the same largest ones.
fn constant(tokens: usize) -> Activations {
    let token: Vec<f32> = (0..D_FF).map(|j| ((j * 29) % D_FF) as f32 - 30.0).collect();
    Activations::new(D_FF, vec![token.repeat(tokens); 3])
}

/// Indices of the k largest sizes.
fn largest(values: &[f32], k: usize) -> std::collections::BTreeSet<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()).then(a.cmp(&b)));
    order.into_iter().take(k).collect()
}

#[test]
fn similarity_by_lag_matches_the_definition() {
    let found = Inertia {
        text_in_sequence: constant(40),
        random_in_sequence: constant(40),
        text_alone: noise(1, 40),
        random_alone: noise(2, 40),
    };
    let analysis = inertia(&found, 0.3).unwrap();
    assert_eq!(analysis.value("text, in sequence", "8"), Some(1.0));
    assert_eq!(analysis.value("text, in sequence", "prompt's mask"), Some(1.0));
    assert!(analysis.says.contains("holds here") && !analysis.says.contains("does not"), "{}", analysis.says);
    let (activations, k) = (noise(2, 40), 21);
    let mut sum = (0.0, 0);
    for layer in 0..3 {
        let token = |t: usize| largest(&activations.layer(layer)[t * D_FF..(t + 1) * D_FF], k);
        for t in 4 + 2..40 {
            let (a, b) = (token(t), token(t - 2));
            sum = (sum.0 + a.intersection(&b).count() as f64 / a.union(&b).count() as f64, sum.1 + 1);
        }
    }
    let value = analysis.value("random, each alone", "2").unwrap();
    // the same hundred quotients in f64, added in another order
    assert!((value - sum.0 / f64::from(sum.1)).abs() < 1e-12, "{value}");
    // 0.3 / 1.7 by chance: a mean over 3 · 34 pairs of sets of 21
    assert!((value - 0.3 / 1.7).abs() < 0.03, "{value}");
    let swapped = Inertia { random_in_sequence: noise(3, 40), ..found };
    assert!(inertia(&swapped, 0.3).unwrap().says.contains("does not hold here"));
}

#[test]
fn masks_of_what_stays_stay_and_of_noise_do_not() {
    let analysis = decay(&constant(128), 0.3).unwrap();
    for row in ["prompt of 16", "prompt of 64", "prompt of 64, renewed every 16"] {
        for column in ["16", "64"] {
            assert_eq!(analysis.value(row, column), Some(1.0), "{row} {column}");
        }
    }
    assert_eq!(analysis.value("prompt of 64", "128"), None);
    // the text changes halfway: what was renewed follows it, what was fixed does not
    let high = (0..D_FF).map(|j| (j as f32 - 35.0).max(0.0));
    let low = (0..D_FF).map(|j| (30.0 - j as f32).max(0.0));
    let tokens: Vec<f32> =
        (0..128).flat_map(|t| if t < 64 { high.clone().collect::<Vec<_>>() } else { low.clone().collect() }).collect();
    let analysis = decay(&Activations::new(D_FF, vec![tokens]), 0.3).unwrap();
    let at = |row: &str, column: &str| analysis.value(row, column).unwrap();
    assert_eq!(at("prompt of 64", "64"), 0.0);
    assert!(at("prompt of 64, renewed every 16", "64") > 0.2, "{analysis:?}");
}

#[test]
fn unions_match_counts_of_sets() {
    let sequences: Vec<Activations> = (0..4).map(|seed| noise(seed + 5, 6)).collect();
    let analysis = union(&sequences, 0.3);
    let mut sum = 0;
    for layer in 0..3 {
        for t in 0..6 {
            let set = |s: &Activations| largest(&s.layer(layer)[t * D_FF..(t + 1) * D_FF], 21);
            sum += sequences.iter().flat_map(set).collect::<std::collections::BTreeSet<_>>().len();
        }
    }
    let value = analysis.value("measured", "4").unwrap();
    // counts, divided and averaged in f64
    assert!((value - sum as f64 / (18 * D_FF) as f64).abs() < 1e-12, "{value}");
    // 0.3 and 1 − 0.7² are rounded in f64, as are means of them
    assert!((analysis.value("measured", "1").unwrap() - 0.3).abs() < 1e-12);
    assert!((analysis.value("independent", "2").unwrap() - 0.51).abs() < 1e-12);
}

#[test]
fn small_values_are_counted_beside_the_root_mean_square() {
    // squares sum to 4 · 1.25: a root of 1.118…; below a tenth of it are 0 and 0.1, below 0.3 of it no more, below it the 1 too
    let values = vec![0.0, 0.1, -1.0, (5.0f32 - 1.01).sqrt()];
    let found = Activations::new(4, vec![values, vec![0.0; 4]]);
    let analysis = histogram(&[("gates", &found)]);
    let at = |row: &str, layer: &str| analysis.value(row, layer).unwrap();
    assert_eq!((at("gates, 0", "0"), at("gates, 0", "1")), (0.25, 1.0));
    let below = ["0.1", "0.3", "1"].map(|below| at(&format!("gates, below {below} of the root"), "0"));
    assert_eq!(below, [0.5, 0.5, 0.75]);
    assert!(analysis.says.contains("does not hold here. 62.5% of the gates are exactly 0"), "{}", analysis.says);
}

#[test]
fn heads_that_stay_are_alike_and_heads_of_noise_are_not() {
    let mut same = vec![0.1; 40 * 24];
    same.chunks_mut(24).for_each(|token| token[3..6].fill(9.0));
    let analysis = heads(&Activations::new(24, vec![same]), 8, 0.1);
    assert_eq!(analysis.value("measured", "1"), Some(1.0));
    assert!(analysis.says.contains("does not hold here") && analysis.says.contains("12.5% of the heads"));
    let noise = heads(&Activations::new(24, vec![random(7, 200 * 24)]), 8, 0.5);
    let (found, chance) = (noise.value("measured", "4").unwrap(), noise.value("by chance", "4").unwrap());
    // about 200 similarities that differ by a quarter from one another
    assert!((found - chance).abs() < 0.06 && noise.says.contains("token to token: holds here"), "{}", noise.says);
}

#[test]
fn predictors_find_what_follows_the_inputs_and_not_what_follows_the_history() {
    let (d, tokens) = (24, 300);
    // neuron j puts out what input j is, or after another history input d − 1 − j
    let seen = |seed: u64, turned: bool| {
        let inputs = [random(seed, tokens * d), random(seed + 10, tokens * d)];
        let turn = |x: &[f32]| if turned { x.iter().rev().copied().collect::<Vec<_>>() } else { x.to_vec() };
        let hidden = inputs.each_ref().map(|inputs| inputs.chunks(d).flat_map(turn).collect());
        // head h of layer 1 puts out what input h of layer 0 is
        let outputs =
            inputs[0].chunks(d).flat_map(|x| turn(x)[..6].iter().flat_map(|v| [2.0 + v; 8]).collect::<Vec<_>>());
        let outputs = vec![vec![1.0; tokens * 48], outputs.collect()];
        Seen {
            inputs: Activations::new(d, inputs.to_vec()),
            hidden: Activations::new(d, hidden.to_vec()),
            outputs: Activations::new(48, outputs),
        }
    };
    let found =
        Histories { fitted: seen(1, false), same: seen(2, false), shuffled: seen(3, false), other: seen(4, true) };
    let shape = AttentionShape::new(6, 2, 8).unwrap();
    let analysis = uncertainty(&found, &[vec![1.0; d], vec![1.0; d]], &shape, 0.25).unwrap();
    let at = |column: &str| analysis.value("same layer", column).unwrap();
    // a predictor of 8 of 24 directions finds more than chance; what is turned round it does not
    assert!(at("same history") > 0.4 && (at("same history") - at("shuffled")).abs() < 0.05, "{analysis:?}");
    assert!((at("random") - 0.25).abs() < 0.06 && analysis.says.contains("after another: holds here"), "{analysis:?}");
    assert_eq!(analysis.value("one layer ahead", "by chance"), Some(0.25));
    let heads = |row: &str, column: &str| analysis.value(row, column).unwrap();
    for row in ["heads one layer ahead", "heads one layer ahead, trained"] {
        assert!(heads(row, "same history") > 0.7 && heads(row, "random") < 0.5, "{analysis:?}");
    }
    assert!((heads("heads, always the same", "same history") - 1.0 / 3.0).abs() < 0.1, "{analysis:?}");
    assert_eq!(analysis.value("heads one layer ahead", "by chance"), Some(1.0 / 3.0));
}

/// What `moray eval` finds of the same windows, groups and policy.
#[test]
fn what_skipped_groups_cost_is_what_eval_finds() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    Fixture { n_q_heads: 8, n_kv_heads: 4, ..Fixture::default() }.write_gguf(&folder.path().join("tiny.gguf")).unwrap();
    let text: String = (0..400).map(|word| format!("word {} and ", word * word % 97)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let (model, text, out) = (path("tiny.gguf"), path("text.txt"), path("out"));
    let command = |command: &str, more: &str| {
        let arguments = ["moray", command, "--model", &model, "--text", &text, "--tokens", "128"];
        let mut out = Vec::new();
        run(Cli::try_parse_from(arguments.into_iter().chain(more.split(' '))).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    command("analyze", &format!("kv --weights dense --out {out}"));
    let kv: Analysis = serde_json::from_slice(&std::fs::read(path("out/kv.json")).unwrap()).unwrap();
    assert_eq!(kv.columns, ["8", "16", "32", "all"]);
    assert_eq!(kv.rows.len(), 2 * 4 * 3);
    let mut costs = Vec::new();
    for policy in ["write-all", "hole", "zero", "recompute:4"] {
        for (kept, share) in [(3, 0.75), (2, 0.5)] {
            let switches = format!("--heads norm-groups:{share}:8 --kv {policy} --second-half --context 64 --json");
            let found: serde_json::Value = serde_json::from_str(&command("eval", &switches)).unwrap();
            let row = |what: &str| kv.value(&format!("{policy}, {kept} of 4 groups: {what}"), "all").unwrap();
            // the same positions' values in f64, added in another order, some as percents or exponents of means
            let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{policy} {kept}: {a} {b}");
            close(row("KL"), found["dense"]["kl"].as_f64().unwrap());
            close(row("same token"), found["dense"]["agreement_percent"].as_f64().unwrap() / 100.0);
            close(row("perplexity"), found["dense"]["perplexity_ratio"].as_f64().unwrap());
            costs.push(row("KL"));
            // the ranges together are the whole: 8, 8 and 16 of 32 positions
            let range = |column: &str| kv.value(&format!("{policy}, {kept} of 4 groups: KL"), column).unwrap();
            close((range("8") + range("16") + 2.0 * range("32")) / 4.0, row("KL"));
        }
    }
    costs.dedup();
    assert_eq!(costs.len(), 8, "every policy is another");
    assert!(kv.says.contains("with 3 of 4 groups"), "{}", kv.says);
}

#[test]
fn the_command_says_whether_claims_hold_and_writes_numbers_and_pages() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    Fixture::default().write_gguf(&folder.path().join("tiny.gguf")).unwrap();
    let text: String = (0..400).map(|word| format!("word {} and ", word * word % 97)).collect();
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let (model, text, out) = (path("tiny.gguf"), path("text.txt"), path("out"));
    let analyze = |more: &[&str]| {
        let arguments = ["moray", "analyze", "--model", &model, "--text", &text, "--out", &out];
        let cli = Cli::try_parse_from(arguments.iter().chain(more)).map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        run(cli, &mut out).map_err(|error| error.to_string())?;
        Ok::<_, String>(String::from_utf8(out).unwrap())
    };
    let printed = analyze(&["--tokens", "128"]).unwrap();
    for name in ["inertia", "decay", "union", "cett", "histogram", "uncertainty", "heads"] {
        let found: Analysis =
            serde_json::from_slice(&std::fs::read(path(&format!("out/{name}.json"))).unwrap()).unwrap();
        assert!(printed.contains(&found.says) && found.says.contains("hold"), "{name}: {printed}");
        assert!(
            found.rows.iter().all(|row| row.values.iter().flatten().all(|value| (0.0..=1.0).contains(value))),
            "{found:?}"
        );
        let html = std::fs::read_to_string(path(&format!("out/{name}.html"))).unwrap();
        assert!(html.contains("<svg") && !html.contains("src="));
    }
    // at a larger error no layer keeps more
    let cett: Analysis = serde_json::from_slice(&std::fs::read(path("out/cett.json")).unwrap()).unwrap();
    assert!(cett.rows[0].values.iter().zip(&cett.rows[2].values).all(|(small, large)| small <= large));
    let critical: Analysis = serde_json::from_slice(&std::fs::read(path("out/critical.json")).unwrap()).unwrap();
    assert!(printed.contains(&critical.says) && critical.rows.len() == 8, "{printed}");
    for pair in critical.rows.chunks(2) {
        // the less stays, the more is left out
        let left_out: Vec<f64> = pair[0].values.iter().flatten().copied().collect();
        assert!(left_out.windows(2).all(|pair| pair[0] < pair[1]) && left_out[4] < 0.9, "{critical:?}");
        assert!(pair[1].values.iter().flatten().all(|ratio| (0.5..2.0).contains(ratio)), "{critical:?}");
    }
    assert_eq!(analyze(&["union", "--tokens", "128"]).unwrap().matches("hold").count(), 1);
    for (more, part) in [
        (&["--kept", "1.5"][..], "kept: expected a number between 0 and 1"),
        (&["--tokens", "8"], "tokens: expected at least 64"),
        (&["--tokens", "129"], "the last token of the sequence: expected an index below 128, got 128"),
        (&["entropy"], "inertia"),
    ] {
        let refusal = analyze(more).unwrap_err();
        assert!(refusal.contains(part), "{refusal}");
    }
}

//! What `results/study.md` says of dynamic activation, as tables: `results/front.md` and `results/claims.md` of the README, `results/goals.md` of
//! `docs/study.md`.

use std::fs;

use crate::gains::Table;
use crate::root;

const STUDY: &str = "results/study.md";

/// What is read at so much more perplexity, as the study heads it.
const AT: &str = "at +2% perplexity";
const FEWER: &str = "fewer bytes ×";
const FASTER: &str = "faster ×";
const AT_DIVERGENCE: &str = "fewer bytes × at 0.1 nats";
const OVER: &str = "over whole %";

/// Parts of the file, by their headings.
const METHODS: &str = "Methods";
const SHARES: &str = "How thresholds are shared out";
const DIVERGENCE: &str = "Thresholds by divergence, in 16 and in 4 bits";
const LOOKS: &str = "A preview that reads all inputs, or fewer";
const SELECTIONS: &str = "Every selection of neurons and inputs that is made for each token or by a prompt's core";
const PROMPT: &str = "Masks by the prompt that are renewed, cores by size, what is best, and heads";
const MORE: &str = "Half of the neurons, and TDA's other thresholds";
const SWAPPED: &str = "ReLU in place of SiLU";
const COSTS: &str = "What selecting costs";

/// Methods whose gains are shown: the part that has them, the name there, and what they are. The first is the scheme of our own, and then what it is
/// with another of its parts and without each.
const SHOWN: [(&str, &str, &str); 13] = [
    (
        METHODS,
        "--weights dense teal --logits preview:64:0.7",
        "`--sparse auto`: TEAL and a preview of the output layer",
    ),
    (DIVERGENCE, "--weights dense teal-kl --logits preview:64:0.7", "the same with thresholds by divergence"),
    (LOOKS, "--weights dense teal --logits preview:64", "the same with a preview that reads all inputs"),
    (SHARES, "--weights dense teal-kl", "thresholds by divergence alone"),
    (METHODS, "--weights dense --logits preview:64:0.7", "a preview of the output layer alone"),
    (METHODS, "--weights dense --inputs teal:0.75", "TEAL, equal shares"),
    (SHARES, "--weights dense teal-greedy", "TEAL, block-greedy"),
    (SELECTIONS, "--weights dense wina-threshold", "WINA with thresholds"),
    (SELECTIONS, "--weights dense wina", "WINA"),
    (SELECTIONS, "--weights dense topk", "largest gates, exactly"),
    (METHODS, "--weights dense --mlp cats:0.8", "CATS"),
    (PROMPT, "--weights dense griffin", "GRIFFIN"),
    (PROMPT, "--weights dense tda", "TDA"),
];

/// The same over the file's 4 bits.
const SHOWN_IN_FOUR_BITS: [(&str, &str, &str); 5] = [
    (METHODS, "--weights as-file teal --logits preview:64:0.7", "`--sparse auto` over the file's 4 bits"),
    (DIVERGENCE, "--weights as-file teal-kl --logits preview:64:0.7", "the same with thresholds by divergence, 4 bits"),
    (LOOKS, "--weights as-file teal --logits preview:64", "the same with a preview that reads all inputs, 4 bits"),
    (METHODS, "--weights as-file --logits preview:64:0.7", "a preview of the output layer alone, 4 bits"),
    (METHODS, "--weights as-file --inputs teal:0.75", "TEAL, equal shares, 4 bits"),
];

/// What a goal is, whether it is reached, and the figures.
struct Goal {
    goal: &'static str,
    verdict: &'static str,
    figures: String,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The files and what should be in them.
pub fn files() -> Result<[(&'static str, String); 3]> {
    let text = fs::read_to_string(root().join(STUDY))?;
    let study = Study(&text);
    Ok([
        ("results/front.md", study.front()?),
        ("results/claims.md", study.claims()?),
        ("results/goals.md", study.goals()?),
    ])
}

/// The text of the study.
struct Study<'a>(&'a str);

impl Study<'_> {
    /// A part of the study.
    fn part(&self, heading: &str) -> Result<&str> {
        let mut parts = self.0.split("\n## ").filter_map(|part| part.split_once('\n'));
        let part = parts.find(|(head, _)| *head == heading);
        part.map(|(_, text)| text).ok_or_else(|| format!("{STUDY}: expected a part {heading}, got none").into())
    }

    /// A cell of the first table of a part that has the column.
    fn cell(&self, part: &str, column: &str, row: &str) -> Result<String> {
        let found = Table::of(self.part(part)?, column).and_then(|table| table.cell(&[(0, row)], column));
        found.ok_or_else(|| format!("{STUDY}: {part}: expected {column} of {row}, got none").into())
    }

    /// What 2% more perplexity buys with a method.
    fn bought(&self, part: &str, series: &str, column: &str) -> Result<String> {
        let found = Table::of(self.part(part)?, AT).and_then(|table| table.cell(&[(0, series)], column));
        found.ok_or_else(|| format!("{STUDY}: {part}: expected {column} of {series}, got none").into())
    }

    /// What a cell of the grid costs: perplexity over the whole model's, in percent, and its standard error.
    fn loss(&self, part: &str, switches: &str) -> Result<[f64; 2]> {
        let cell = self.cell(part, OVER, switches)?;
        let both = cell.split_once(" ± ").and_then(|(loss, error)| Some([loss.parse().ok()?, error.parse().ok()?]));
        both.ok_or_else(|| format!("{STUDY}: {part}: expected a loss of {switches}, got {cell:?}").into())
    }

    /// What 2% more perplexity buys, method by method.
    fn front(&self) -> Result<String> {
        let mut made = format!(
            "| SmolLM2-135M {AT} over the same weights whole | fewer bytes of weights a token × | tokens a second × | fewer bytes × at 0.1 nats |\n|---|---:|---:|---:|\n"
        );
        for (part, series, name) in SHOWN.into_iter().chain(SHOWN_IN_FOUR_BITS) {
            let faster = self.bought(part, series, FASTER)?;
            let faster = if faster.is_empty() { "not timed" } else { &faster };
            let at_divergence = self.bought(part, series, AT_DIVERGENCE).unwrap_or_else(|_| "not recorded".to_owned());
            made += &format!("| {name} | {} | {faster} | {at_divergence} |\n", self.bought(part, series, FEWER)?);
        }
        made += "\nRead off the line between the cells of each method, of 512 to 1024 scored tokens: perplexity has a standard error of one to two percent \
                 of itself there, \
                 and the divergence from the distribution of the same weights whole one of four to five. 1.00 is what costs more at every share that was tried. \
                 Rows are of several runs: `results/study.md` says when each was timed.\n";
        Ok(made)
    }

    /// Each claim that an analysis ends with, whether it holds here, and the figures that say so.
    fn claims(&self) -> Result<String> {
        let mut made = "| claim | here | figures |\n|---|---|---|\n".to_owned();
        let mut rows = 0;
        for part in self.0.split("\n## ") {
            let with = if part.starts_with(SWAPPED) { ", with ReLU in place of SiLU" } else { "" };
            let lines = part.lines().filter(|line| !line.starts_with(['|', '-', '#']));
            for [claim, verdict, figures] in lines.flat_map(claims_of) {
                made += &format!("| {claim}{with} | {verdict} | {figures} |\n");
                rows += 1;
            }
        }
        if rows == 0 {
            return Err(format!("{STUDY}: expected claims that hold here or do not, got none").into());
        }
        Ok(made)
    }

    /// What was aimed at, and what the study's figures say of it.
    fn goals(&self) -> Result<String> {
        let mut made = "| goal | here | figures |\n|---|---|---|\n".to_owned();
        let goals = [
            self.half_of_the_neurons()?,
            self.renewal()?,
            self.own_scheme("at +2% perplexity 1.40 × fewer bytes a token, 16 bits", FEWER, 1.40, &SHOWN[..3])?,
            self.own_scheme("the same over the file's 4 bits", FEWER, 1.40, &SHOWN_IN_FOUR_BITS[..3])?,
            self.own_scheme("at +2% perplexity 1.30 × the speed, 16 bits", FASTER, 1.30, &SHOWN[..1])?,
            self.speed_in_four_bits()?,
            self.ahead_of_others()?,
            self.cost_of_selecting()?,
        ];
        for Goal { goal, verdict, figures } in goals {
            made += &format!("| {goal} | {verdict} | {figures} |\n");
        }
        Ok(made)
    }

    /// Perplexity where half of the neurons are kept, chosen for each token.
    fn half_of_the_neurons(&self) -> Result<Goal> {
        let [bound, bound_error] = self.loss(MORE, "--weights dense --mlp oracle:0.5")?;
        let [loss, error] = self.loss(MORE, "--weights dense --mlp topk:0.5")?;
        let verdict = match (bound <= 10.0, loss <= 10.0) {
            (_, true) => "reached",
            (true, false) => "only by the oracle",
            _ => "missed",
        };
        let figures = format!(
            "an oracle that knows each contribution {bound:+.1} ± {bound_error:.1}%; the largest gates, the most that looking at gates can know, {loss:+.1} ± {error:.1}%"
        );
        Ok(Goal { goal: "half of the neurons for each token within 10% of perplexity", verdict, figures })
    }

    /// A prompt's mask that is renewed beside one that is fixed, at equal average shares.
    fn renewal(&self) -> Result<Goal> {
        let mut figures = Vec::new();
        let mut most = f64::NEG_INFINITY;
        for (name, fixed, part, renewed) in
            [("TDA", "tda", MORE, "tda-refresh"), ("GRIFFIN", "griffin", PROMPT, "griffin-refresh")]
        {
            for kept in ["0.9", "0.7"] {
                let [fixed, fixed_error] = self.loss(PROMPT, &format!("--weights dense --mlp {fixed}:{kept}"))?;
                let [loss, error] = self.loss(part, &format!("--weights dense --mlp {renewed}:{kept}"))?;
                figures.push(format!(
                    "{name} at {kept} {loss:+.0} ± {error:.0}% renewed, {fixed:+.0} ± {fixed_error:.0}% fixed"
                ));
                most = most.max(loss / fixed);
            }
        }
        let verdict = if most <= 0.5 { "reached" } else { "missed" };
        Ok(Goal {
            goal: "a renewed mask loses at most half of what a fixed one does",
            verdict,
            figures: figures.join("; "),
        })
    }

    /// What our scheme gains in a column, the best of its forms.
    fn own_scheme(&self, goal: &'static str, column: &str, aim: f64, forms: &[(&str, &str, &str)]) -> Result<Goal> {
        let (mut figures, mut best) = (Vec::new(), f64::NEG_INFINITY);
        for (part, series, name) in forms {
            let times = self.number(part, series, column)?;
            figures.push(format!("{times:.2} × with {name}"));
            best = best.max(times);
        }
        let verdict = if best >= aim { "reached" } else { "missed" };
        if best < aim {
            figures.push(format!("{:.0}% short", 100.0 * (1.0 - best / aim)));
        }
        Ok(Goal { goal, verdict, figures: figures.join("; ") })
    }

    fn number(&self, part: &str, series: &str, column: &str) -> Result<f64> {
        let cell = self.bought(part, series, column)?;
        cell.parse().map_err(|_| format!("{STUDY}: {part}: expected a number of {series}, got {cell:?}").into())
    }

    /// The fastest row over the file's 4 bits that costs at most 2%.
    fn speed_in_four_bits(&self) -> Result<Goal> {
        let (_, series, _) = SHOWN_IN_FOUR_BITS[0];
        let times = self.number(METHODS, series, FASTER)?;
        let verdict = if times >= 1.3 { "reached" } else { "missed" };
        let figures =
            format!("{times:.2} × with `{series}`, where a thread is busy with the products rather than with memory");
        Ok(Goal { goal: "at +2% perplexity 1.30 × the speed, the file's 4 bits", verdict, figures })
    }

    /// Our scheme beside every other method that is not trained.
    fn ahead_of_others(&self) -> Result<Goal> {
        let own = self.number(SHOWN[0].0, SHOWN[0].1, FEWER)?;
        let mut others = Vec::new();
        for (part, series, name) in &SHOWN[5..] {
            others.push((self.number(part, series, FEWER)?, *name));
        }
        others.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (next, name) = others[0];
        let verdict = if own > next { "reached" } else { "missed" };
        let figures = format!("{own:.2} × fewer bytes at +2%, {next:.2} × with the next, {name}; 16 bits");
        Ok(Goal { goal: "ahead of every other method that needs no training", verdict, figures })
    }

    /// Time of methods that keep everything, of the MLPs' share of a token's time.
    fn cost_of_selecting(&self) -> Result<Goal> {
        const TIMED: &str = "decode at 128";
        // gate, up and down of 30 layers in 16 bits
        const MLPS: f64 = 30.0 * 3.0 * 576.0 * 1536.0 * 2.0 / 1e6;
        let speed = |row: &str| -> Result<[f64; 3]> {
            let cell = self.cell(COSTS, TIMED, row)?;
            let numbers: Vec<f64> = cell.split([' ', '(', '–', ')']).filter_map(|number| number.parse().ok()).collect();
            numbers.try_into().map_err(|_| format!("{STUDY}: {COSTS}: expected a speed of {row}, got {cell:?}").into())
        };
        let bytes: f64 = self.cell(COSTS, "MB a token", "--weights dense")?.parse()?;
        let whole = "--weights dense";
        let by_neuron = "--weights dense --mlp random:1";
        let (mut figures, mut is_above) = (Vec::new(), false);
        for (name, row, beside) in [
            ("`topk`", "--weights dense --mlp topk:1", by_neuron),
            ("`cats`", "--weights dense --mlp cats:1", by_neuron),
            ("`teal`", "--weights dense --inputs teal:1", whole),
            ("`wina-threshold`", "--weights dense --inputs wina-threshold:1", whole),
            ("`wina`", "--weights dense --inputs wina:1", whole),
            ("`moefication`", "--weights dense --mlp moefication:1", by_neuron),
            ("`dejavu`", "--weights dense --mlp dejavu:1", by_neuron),
        ] {
            let ([median, low, high], [of, of_low, of_high]) = (speed(row)?, speed(beside)?);
            let [median, least, most] =
                [of / median, of_low / high, of_high / low].map(|ratio| 100.0 * (ratio - 1.0) * bytes / MLPS);
            figures.push(format!("{name} {median:+.1}% ({least:+.1} to {most:+.1})"));
            is_above |= least > 5.0;
        }
        let verdict = if is_above { "not by all" } else { "reached" };
        Ok(Goal { goal: "selecting costs at most 5% of the MLPs' time", verdict, figures: figures.join(", ") })
    }
}

/// The claims of a line: `CLAIM: holds here. FIGURES`, or `does not hold here`, perhaps several.
fn claims_of(line: &str) -> Vec<[String; 3]> {
    const VERDICTS: [(&str, &str); 2] = [(": holds here", "holds"), (": does not hold here", "does not hold")];
    let marks = VERDICTS
        .iter()
        .flat_map(|&(mark, verdict)| line.match_indices(mark).map(move |(at, mark)| (at, at + mark.len(), verdict)));
    let mut marks: Vec<(usize, usize, &str)> = marks.collect();
    marks.sort_unstable();
    // a claim begins with the sentence that its verdict ends
    let begins: Vec<usize> = marks.iter().map(|&(at, ..)| line[..at].rfind(". ").map_or(0, |end| end + 2)).collect();
    let ends = begins.iter().skip(1).copied().chain([line.len()]);
    let parts = marks.iter().zip(&begins).zip(ends);
    parts
        .map(|((&(at, after, verdict), &begin), end)| {
            let claim = line[begin..at].trim_start_matches("That ");
            let mut letters = claim.chars();
            let claim = letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect());
            [claim, verdict.to_owned(), line[after..end].trim_matches([' ', '.', ';', ',']).to_owned()]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_the_sentences_before_their_verdicts() {
        let line =
            "Routers fail: does not hold here. It finds 0.5 and 0.4. That neurons are hard: holds here; it finds 0.6.";
        let claims = claims_of(line).iter().map(|claim| claim.join("|")).collect::<Vec<_>>();
        assert_eq!(claims, ["Routers fail|does not hold|It finds 0.5 and 0.4", "Neurons are hard|holds|it finds 0.6"]);
        assert!(claims_of("What holds here is not said.").is_empty());
    }

    #[test]
    fn cells_are_those_of_their_part_and_what_is_not_there_is_named() {
        let text = "# A\n\n## Methods\n| switches | over whole % |\n|---|---|\n| `a` | +2.0 ± 0.5 |\n| `b` | |\n\n## Other\n\
                    | switches | over whole % |\n|---|---|\n| `a` | -1.0 ± 0.1 |\n";
        let study = Study(text);
        assert_eq!(study.loss("Methods", "a").unwrap(), [2.0, 0.5]);
        assert_eq!(study.loss("Other", "a").unwrap(), [-1.0, 0.1]);
        for (part, row, said) in
            [("Methods", "c", "of c"), ("Methods", "b", "a loss of b"), ("None", "a", "a part None")]
        {
            let refused = study.loss(part, row).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        assert!(study.front().unwrap_err().to_string().contains("teal"));
        assert!(study.claims().is_err());
    }
}

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
const AMD: &str = "Methods on a Zen 4 processor";
const SHARES: &str = "How thresholds are shared out";
const DIVERGENCE: &str = "Thresholds by divergence, in 16 and in 4 bits";
const LOOKS: &str = "A preview that reads all inputs, or fewer";
const SELECTIONS: &str = "Every selection of neurons and inputs that is made for each token or by a prompt's core";
const PROMPT: &str = "Masks by the prompt that are renewed, cores by size, what is best, and heads";
const MORE: &str = "Half of the neurons, and TDA's other thresholds";
const SWAPPED: &str = "ReLU in place of SiLU";
const COSTS: &str = "What selecting costs";

/// A method whose gains are shown.
struct Shown {
    /// What it is.
    name: &'static str,
    /// The part that has it, timed on the Intel processor where it is timed, and the name there.
    first: Option<(&'static str, &'static str)>,
    /// The name in the part that was timed on the AMD processor.
    amd: Option<&'static str>,
}

const fn shown(name: &'static str, first: Option<(&'static str, &'static str)>, amd: Option<&'static str>) -> Shown {
    Shown { name, first, amd }
}

/// The scheme of our own, what it is with another of its parts and without each, and other methods.
const SHOWN: [Shown; 13] = [
    shown(
        "`--sparse auto`: TEAL and a preview of the output layer",
        Some((METHODS, "--weights dense teal --logits preview:64:0.7")),
        Some("--weights dense auto"),
    ),
    shown(
        "the same with thresholds by divergence",
        Some((DIVERGENCE, "--weights dense teal-kl --logits preview:64:0.7")),
        Some("--weights dense teal-kl --logits preview:64:0.7"),
    ),
    shown(
        "the same with a preview that reads all inputs",
        Some((LOOKS, "--weights dense teal --logits preview:64")),
        None,
    ),
    shown("thresholds by divergence alone", Some((SHARES, "--weights dense teal-kl")), None),
    shown(
        "a preview of the output layer alone",
        Some((METHODS, "--weights dense --logits preview:64:0.7")),
        Some("--weights dense --logits preview:64:0.7"),
    ),
    shown(
        "TEAL, equal shares",
        Some((METHODS, "--weights dense --inputs teal:0.75")),
        Some("--weights dense --inputs teal:0.75"),
    ),
    shown("TEAL, block-greedy", Some((SHARES, "--weights dense teal-greedy")), None),
    shown("WINA with thresholds", Some((SELECTIONS, "--weights dense wina-threshold")), None),
    shown("WINA", Some((SELECTIONS, "--weights dense wina")), None),
    shown("largest gates, exactly", Some((SELECTIONS, "--weights dense topk")), Some("--weights dense --mlp topk:0.8")),
    shown("CATS", Some((METHODS, "--weights dense --mlp cats:0.8")), Some("--weights dense --mlp cats:0.8")),
    shown("GRIFFIN", Some((PROMPT, "--weights dense griffin")), Some("--weights dense --mlp griffin:0.8")),
    shown("TDA", Some((PROMPT, "--weights dense tda")), Some("--weights dense --mlp tda:0.8")),
];

/// The same over the file's 4 bits.
const SHOWN_IN_FOUR_BITS: [Shown; 5] = [
    shown(
        "`--sparse auto` over the file's 4 bits, which reads matrices of short rows whole",
        None,
        Some("--weights as-file auto"),
    ),
    shown(
        "the same in all matrices, 4 bits",
        Some((METHODS, "--weights as-file teal --logits preview:64:0.7")),
        Some("--weights as-file --inputs teal:0.75 --logits preview:64:0.7"),
    ),
    shown(
        "the same with thresholds by divergence, 4 bits",
        Some((DIVERGENCE, "--weights as-file teal-kl --logits preview:64:0.7")),
        Some("--weights as-file teal-kl --logits preview:64:0.7"),
    ),
    shown(
        "a preview of the output layer alone, 4 bits",
        Some((METHODS, "--weights as-file --logits preview:64:0.7")),
        Some("--weights as-file --logits preview:64:0.7"),
    ),
    shown(
        "TEAL, equal shares, 4 bits",
        Some((METHODS, "--weights as-file --inputs teal:0.75")),
        Some("--weights as-file --inputs teal:0.75"),
    ),
];

impl Shown {
    /// Where it is, its cells over several kept shares where there are such.
    fn of(&self) -> Result<(&'static str, &'static str)> {
        let own = self.amd.map(|series| (AMD, series));
        self.first.or(own).ok_or_else(|| format!("{STUDY}: expected a part that has {}, got none", self.name).into())
    }
}

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
            "| SmolLM2-135M {AT} over the same weights whole | fewer bytes of weights a token × | tokens a second ×, Intel Xeon | the same, AMD EPYC | fewer bytes × at a divergence of 0.1 nats |\n|---|---:|---:|---:|---:|\n"
        );
        for shown in SHOWN.iter().chain(&SHOWN_IN_FOUR_BITS) {
            let (part, series) = shown.of()?;
            let faster = |of: Option<(&str, &str)>| -> Result<String> {
                let faster = of.map_or(Ok(String::new()), |(part, series)| self.bought(part, series, FASTER))?;
                Ok(if faster.is_empty() { "not timed".to_owned() } else { faster })
            };
            let (intel, amd) = (faster(shown.first)?, faster(shown.amd.map(|series| (AMD, series)))?);
            let fewer = self.bought(part, series, FEWER)?;
            let at_divergence = self.bought(part, series, AT_DIVERGENCE).unwrap_or_else(|_| "not recorded".to_owned());
            made += &format!("| {} | {fewer} | {intel} | {amd} | {at_divergence} |\n", shown.name);
        }
        made += "\nRead off the line between the shares of each method that were tried, over 512 to 1024 scored tokens: perplexity has a standard error of one to two \
                 percent of itself there, the divergence one of four to five. 1.00: every share that was tried costs more. Not recorded: the run that \
                 made the row had no such column. Rows are of several runs: `results/study.md` says when each was timed.\n";
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
            self.fewer_bytes("at +2% perplexity 1.40 × fewer bytes a token, 16 bits", &SHOWN[..3])?,
            self.fewer_bytes("the same over the file's 4 bits", &SHOWN_IN_FOUR_BITS[..3])?,
            self.speed("at +2% perplexity 1.30 × the speed, 16 bits", &SHOWN[..2])?,
            self.speed("at +2% perplexity 1.30 × the speed, the file's 4 bits", &SHOWN_IN_FOUR_BITS[..3])?,
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

    /// What our scheme spares, the best of its forms.
    fn fewer_bytes(&self, goal: &'static str, forms: &[Shown]) -> Result<Goal> {
        let figures = forms.iter().map(|form| {
            let (part, series) = form.of()?;
            Ok((self.number(part, series, FEWER)?, form.name.to_owned()))
        });
        Ok(best_of(goal, 1.40, figures.collect::<Result<Vec<_>>>()?))
    }

    /// How much faster our scheme is, the best of its forms on each processor.
    fn speed(&self, goal: &'static str, forms: &[Shown]) -> Result<Goal> {
        let mut figures = Vec::new();
        for form in forms {
            let amd = form.amd.map(|series| (AMD, series));
            for ((part, series), on) in form.first.into_iter().map(|at| (at, "Intel")).chain(amd.map(|at| (at, "AMD")))
            {
                figures.push((self.number(part, series, FASTER)?, format!("{} on {on}", form.name)));
            }
        }
        Ok(best_of(goal, 1.30, figures))
    }

    fn number(&self, part: &str, series: &str, column: &str) -> Result<f64> {
        let cell = self.bought(part, series, column)?;
        cell.parse().map_err(|_| format!("{STUDY}: {part}: expected a number of {series}, got {cell:?}").into())
    }

    /// Our scheme beside every other method that is not trained.
    fn ahead_of_others(&self) -> Result<Goal> {
        let fewer = |shown: &Shown| -> Result<f64> {
            let (part, series) = shown.of()?;
            self.number(part, series, FEWER)
        };
        let own = fewer(&SHOWN[0])?;
        let others = SHOWN[5..].iter().map(|shown| Ok((fewer(shown)?, shown.name)));
        let mut others = others.collect::<Result<Vec<_>>>()?;
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

/// A goal and what forms of our scheme have of it: it is reached where the best of them does.
fn best_of(goal: &'static str, aim: f64, forms: Vec<(f64, String)>) -> Goal {
    let best = forms.iter().map(|(times, _)| *times).fold(f64::NEG_INFINITY, f64::max);
    let mut figures: Vec<String> = forms.iter().map(|(times, name)| format!("{times:.2} × with {name}")).collect();
    if best < aim {
        figures.push(format!("{:.0}% short", 100.0 * (1.0 - best / aim)));
    }
    Goal { goal, verdict: if best >= aim { "reached" } else { "missed" }, figures: figures.join("; ") }
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

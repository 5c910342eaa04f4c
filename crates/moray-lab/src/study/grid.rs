//! The cells of a study.

use std::str::FromStr;

use moray::policy::{Chosen, Entry, Named, Site, TABLE};

use crate::cli::{LogitsSwitch, Scheme};

/// A method of `--methods`: a policy of neurons or inputs, or the scheme of `--sparse`, by its name alone, which runs at every kept share of the grid, or with its
/// arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Method {
    text: String,
    takes_shares: bool,
}

/// Where policies are looked for, and the switch that they are said with.
const SITES: [(Site, &str); 2] = [(Site::Neurons, "--mlp"), (Site::INPUTS[0], "--inputs")];

/// The policies that a method can be.
fn policies() -> impl Iterator<Item = &'static Entry> {
    TABLE.iter().filter(|entry| SITES.iter().any(|(site, _)| entry.sites().contains(site)))
}

/// The switches that a method's text stands for, empty where nothing is left out; none of what is no method.
fn switches(text: &str) -> Option<String> {
    if let Ok(scheme) = text.parse::<Scheme>() {
        return Some(format!(" --sparse {scheme}"));
    }
    let (policy, switch) = SITES.iter().find_map(|&(site, switch)| Some((Named::parse(site, text).ok()?, switch)))?;
    Some(if policy.chosen() == Chosen::Never { String::new() } else { format!(" {switch} {policy}") })
}

impl FromStr for Method {
    type Err = String;

    /// # Errors
    /// A sentence with what there is, for a name that no site knows.
    fn from_str(text: &str) -> Result<Self, String> {
        let entry = policies().find(|entry| entry.name() == text);
        let takes_shares =
            text == Scheme::NAME || entry.is_some_and(|entry| entry.syntax().starts_with(&format!("{text}:K")));
        if takes_shares || switches(text).is_some() {
            return Ok(Method { text: text.to_owned(), takes_shares });
        }
        Err(match entry {
            Some(entry) => format!("expected {}, got {text}: its argument is no kept share", entry.syntax()),
            None => {
                let all: Vec<&str> = policies().map(Entry::syntax).chain([Scheme::SYNTAX]).collect();
                format!("expected one of {}, with its argument or without, got {text}", all.join(", "))
            }
        })
    }
}

impl Method {
    /// Its text at a kept share where it takes one.
    fn at(&self, share: f32) -> String {
        if self.takes_shares { format!("{}:{share}", self.text) } else { self.text.clone() }
    }

    /// Whether it says itself which logits are exact.
    fn has_logits(&self) -> bool {
        self.text.parse::<Scheme>().is_ok()
    }

    fn cell(&self, whole: &str, share: f32, besides: &str) -> Cell {
        let text = self.at(share);
        let switches = |text: &str| format!("{whole}{}", switches(text).unwrap_or_default());
        Cell {
            line: format!("{}{besides}", switches(&text)),
            series: format!("{whole} {}{besides}", if self.takes_shares { &self.text } else { &text }),
            whole: whole.to_owned(),
            idle: self.takes_shares.then(|| switches(&self.at(1.0))),
        }
    }
}

/// What a study varies.
#[derive(Debug, Clone)]
pub struct Grid {
    /// Names of weight schemes.
    pub weights: Vec<String>,
    /// What is left out of the layers.
    pub methods: Vec<Method>,
    /// Kept shares of methods that take one.
    pub kept: Vec<f32>,
    /// Policies of heads.
    pub heads: Vec<Named>,
    /// What is stored for heads that do not run.
    pub kv: Vec<String>,
    /// Which logits are computed exactly.
    pub logits: Vec<LogitsSwitch>,
}

/// One way to run the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The switches of `moray generate`.
    pub line: String,
    /// What it shares with the cells of other kept shares.
    pub series: String,
    /// The switches of the same weights of which all is computed.
    pub whole: String,
    /// The switches of the same method that keeps everything; none where it takes no kept share.
    pub idle: Option<String>,
}

impl Grid {
    /// The switches that would leave out every cell with a preview of the logits; none where the grid has none.
    pub fn without_previews(&self) -> Option<String> {
        let mut switches = Vec::new();
        let kept: Vec<&str> =
            self.methods.iter().filter(|method| !method.has_logits()).map(|method| &*method.text).collect();
        if kept.len() < self.methods.len() {
            switches.push(format!("--methods {}", if kept.is_empty() { "dense".into() } else { kept.join(",") }));
        }
        if self.logits.iter().any(|logits| logits.0.is_some()) {
            switches.push("--logits all".into());
        }
        (!switches.is_empty()).then(|| switches.join(" "))
    }

    /// The cells, by weights, those that compute everything first; none twice.
    pub fn cells(&self) -> Vec<Cell> {
        let mut cells = Vec::new();
        for weights in &self.weights {
            let whole = format!("--weights {weights}");
            cells.push(Cell { line: whole.clone(), series: whole.clone(), whole: whole.clone(), idle: None });
            for method in &self.methods {
                for besides in self.besides(method) {
                    cells.extend(self.shares(method).map(|share| method.cell(&whole, share, &besides)));
                }
            }
        }
        let mut seen = std::collections::HashSet::new();
        cells.retain(|cell| seen.insert(cell.line.clone()));
        cells
    }

    fn shares(&self, method: &Method) -> impl Iterator<Item = f32> {
        let count = if method.takes_shares { self.kept.len() } else { 1 };
        self.kept.iter().copied().chain([1.0]).take(count)
    }

    /// Switches of heads and, unless the method has its own, logits.
    fn besides(&self, method: &Method) -> Vec<String> {
        let all = [LogitsSwitch::default()];
        let logits = if method.has_logits() { &all[..] } else { &self.logits };
        let logits = logits.iter().map(|logits| logits.0.map_or(String::new(), |_| format!(" --logits {logits}")));
        let heads = self.heads_with_kv();
        logits.flat_map(|logits| heads.iter().map(move |heads| format!("{heads}{logits}"))).collect()
    }

    /// Switches of heads; what is stored for skipped ones matters where some are.
    fn heads_with_kv(&self) -> Vec<String> {
        let mut all = Vec::new();
        for heads in &self.heads {
            if heads.chosen() == Chosen::Never {
                all.push(String::new());
            } else {
                all.extend(self.kv.iter().map(|kv| format!(" --heads {heads} --kv {kv}")));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(methods: &[&str], heads: &[&str]) -> Grid {
        Grid {
            weights: vec!["dense".into(), "as-file".into()],
            methods: methods.iter().map(|text| text.parse().unwrap()).collect(),
            kept: vec![0.7, 0.5],
            heads: heads.iter().map(|text| Named::parse(Site::Heads, text).unwrap()).collect(),
            kv: vec!["write-all".into(), "hole".into()],
            logits: vec![LogitsSwitch(None)],
        }
    }

    #[test]
    fn cells_are_all_that_differ() {
        let lines = |grid: Grid| grid.cells().into_iter().map(|cell| cell.line).collect::<Vec<_>>();
        let whole = ["--weights dense", "--weights as-file"];
        assert_eq!(lines(grid(&["dense", "all"], &["all"])), whole);
        let found = lines(grid(&["topk", "teal:0.25"], &["all", "norm:0.5"]));
        // of each weights: whole, topk at two shares with three settings of heads, teal with three
        assert_eq!(found.len(), 2 * (1 + 2 * 3 + 3));
        for line in [
            "--weights dense --mlp topk:0.7",
            "--weights as-file --mlp topk:0.5 --heads norm:0.5 --kv hole",
            "--weights dense --inputs teal:0.25 --heads norm:0.5 --kv write-all",
        ] {
            assert!(found.iter().any(|other| other == line), "{line}: {found:?}");
        }
    }

    #[test]
    fn logits_are_varied_with_everything_else() {
        let grid = Grid {
            logits: vec![LogitsSwitch(None), "preview:64".parse().unwrap()],
            ..grid(&["dense", "teal"], &["all"])
        };
        let found: Vec<String> = grid.cells().into_iter().map(|cell| cell.line).collect();
        // of each weights: whole with both, teal at two shares with both
        assert_eq!(found.len(), 2 * (2 + 2 * 2), "{found:?}");
        for line in ["--weights dense --logits preview:64", "--weights as-file --inputs teal:0.5 --logits preview:64"] {
            assert!(found.iter().any(|other| other == line), "{line}: {found:?}");
        }
    }

    #[test]
    fn the_scheme_runs_at_every_share_with_the_logits_that_are_its_own() {
        let grid = Grid {
            logits: vec![LogitsSwitch(None), "preview:64".parse().unwrap()],
            ..grid(&["auto", "auto:0.9"], &["all"])
        };
        let found: Vec<String> = grid.cells().into_iter().map(|cell| cell.line).collect();
        let of = |weights: &str| {
            ["", " --sparse auto:0.7", " --sparse auto:0.5", " --sparse auto:0.9"]
                .map(|sparse| format!("--weights {weights}{sparse}"))
        };
        assert_eq!(found, [of("dense"), of("as-file")].concat());
        assert_eq!(grid.cells()[1].idle.as_deref(), Some("--weights dense --sparse auto:1"));
    }

    #[test]
    fn cells_know_their_baseline_and_series() {
        let cells = grid(&["topk", "cett:0.2"], &["all"]).cells();
        let of = |line: &str| cells.iter().find(|cell| cell.line == line).unwrap();
        let topk = of("--weights as-file --mlp topk:0.5");
        assert_eq!((&*topk.series, &*topk.whole), ("--weights as-file topk", "--weights as-file"));
        assert_eq!(topk.idle.as_deref(), Some("--weights as-file --mlp topk:1"));
        let cett = of("--weights dense --mlp cett:0.2");
        assert_eq!((&*cett.series, &cett.idle), ("--weights dense cett:0.2", &None));
    }

    #[test]
    fn methods_that_are_not_there_are_refused_with_what_there_is() {
        for (text, part) in
            [("tope", "topk:K"), ("cett", "cett:T"), ("topk:2", "topk:K"), ("norm", "teal:K"), ("", "cats:K")]
        {
            let refusal = text.parse::<Method>().unwrap_err();
            assert!(refusal.contains(part), "{text}: {refusal}");
        }
    }
}

//! The table of a study.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use super::{Point, Record, allowed_at, is_on_front};
use crate::cli::Figure;

/// What is found at this much more perplexity, in percent.
const LOSS_PERCENT: f64 = 2.0;

/// And at this much divergence, in nats, which a text of a few thousand tokens tells far better than its perplexity.
const LOSS_NATS: f64 = 0.1;

/// A study: where it was made, and its cells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Study {
    /// The model's file.
    pub model: String,
    /// The text's file.
    pub text: String,
    /// Tokens of it.
    pub tokens: usize,
    /// Tokens of a window.
    pub context: usize,
    /// The processor's name.
    pub processor: Option<String>,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Tokens that are decoded in a round, and the position that they start at; none where speed was not measured.
    pub decoded: Option<[usize; 2]>,
    /// Rounds in which every row has its turn.
    pub rounds: usize,
    /// In the order of the grid.
    pub records: Vec<Record>,
}

/// What cells of one method with different kept shares come to.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesFound<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its records, in the order of the grid.
    pub records: Vec<&'a Record>,
    /// How many times fewer bytes a token reads where perplexity is 2% higher.
    pub fewer_bytes: f64,
    /// How many times faster it decodes there; none where that was not measured.
    pub faster: Option<f64>,
    /// How many times fewer bytes a token reads where the divergence is 0.1 nats.
    pub fewer_bytes_by_divergence: f64,
}

/// Headings of the table of cells.
pub(super) const HEADINGS: [&str; 12] = [
    "switches",
    "kept %",
    "perplexity",
    "over whole %",
    "KL, nats",
    "same top %",
    "MB a token",
    "fewer bytes ×",
    "predicted",
    "tokens a second",
    "over whole ×",
    "selecting costs %",
];

/// Headings of the table of series.
pub(super) const SERIES_HEADINGS: [&str; 4] =
    ["at +2% perplexity", "fewer bytes ×", "faster ×", "fewer bytes × at 0.1 nats"];

impl Study {
    /// Methods, each with its cells, as the grid has them; those that leave nothing out are none.
    pub fn series(&self) -> Vec<SeriesFound<'_>> {
        let mut names: Vec<&str> = Vec::new();
        let sparse: Vec<&Record> = self.records.iter().filter(|record| !record.is_whole()).collect();
        for record in &sparse {
            if !names.contains(&&*record.series) {
                names.push(&record.series);
            }
        }
        let found = |name| {
            let records: Vec<&Record> = sparse.iter().copied().filter(|record| record.series == name).collect();
            let bytes: Vec<Point> = records.iter().map(|record| record.point(record.fewer_bytes())).collect();
            let by_divergence = |record: &&Record| Point { gain: record.fewer_bytes(), loss: record.kl };
            let by_divergence: Vec<Point> = records.iter().map(by_divergence).collect();
            let speeds = records.iter().map(|record| Some(record.point(record.faster()?))).collect::<Option<Vec<_>>>();
            SeriesFound {
                name,
                fewer_bytes: allowed_at(&bytes, LOSS_PERCENT),
                faster: speeds.map(|speeds| allowed_at(&speeds, LOSS_PERCENT)),
                fewer_bytes_by_divergence: allowed_at(&by_divergence, LOSS_NATS),
                records,
            }
        };
        names.into_iter().map(found).collect()
    }

    /// One line for each cell, as the table shows it.
    pub(super) fn rows(&self) -> Vec<[String; 12]> {
        self.records.iter().map(Record::cells).collect()
    }

    /// One line for each method.
    pub(super) fn series_rows(&self) -> Vec<[String; 4]> {
        let row = |found: &SeriesFound<'_>| {
            let faster = found.faster.map_or(String::new(), |faster| format!("{faster:.2}"));
            let bytes = [found.fewer_bytes, found.fewer_bytes_by_divergence].map(|times| format!("{times:.2}"));
            let [at_perplexity, at_divergence] = bytes;
            [found.name.to_owned(), at_perplexity, faster, at_divergence]
        };
        self.series().iter().map(row).collect()
    }

    /// What the numbers say.
    pub fn findings(&self) -> Vec<String> {
        let mut said = Vec::new();
        let series = self.series();
        let mut whole: Vec<&str> = Vec::new();
        for against in series.iter().filter_map(|found| found.records[0].against.as_deref()) {
            if !whole.contains(&against) {
                whole.push(against);
            }
        }
        for whole in whole {
            let of = series.iter().filter(|found| found.records[0].against.as_deref() == Some(whole));
            let Some(best) = of.max_by(|a, b| a.fewer_bytes.total_cmp(&b.fewer_bytes)) else { continue };
            said.push(format!(
                "Over {whole}, {LOSS_PERCENT}% more perplexity buys the most with {}: {:.2} × fewer bytes of weights a token, read off \
                 the line between its cells.",
                best.name, best.fewer_bytes
            ));
            let cells: Vec<&Record> = self.records.iter().filter(|r| r.against.as_deref() == Some(whole)).collect();
            let points: Vec<Point> = cells.iter().map(|record| record.point(record.fewer_bytes())).collect();
            let front = (0..cells.len()).filter(|&index| is_on_front(&points, index) && points[index].gain > 1.0);
            let front: Vec<String> = front.map(|index| format!("`{}`", cells[index].switches)).collect();
            if !front.is_empty() {
                said.push(format!("No cell reads less at less perplexity than {}.", front.join(", ")));
            }
        }
        said.extend(self.selecting());
        said
    }

    /// What selecting costs, method by method, and which of these costs the rounds tell apart from none.
    fn selecting(&self) -> Option<String> {
        let percent = |ratio: f64| 100.0 * (1.0 / ratio - 1.0);
        let mut costs = Vec::new();
        for found in self.series() {
            let idle = |record: &&Record| record.decoding.as_ref()?.idle_over_whole;
            let mut idle: Vec<Figure> = found.records.iter().filter_map(idle).collect();
            if idle.is_empty() {
                continue;
            }
            idle.sort_by(|a, b| a.median.total_cmp(&b.median));
            let low = idle.iter().fold(f64::INFINITY, |low, figure| low.min(figure.low));
            let high = idle.iter().fold(0.0, |high: f64, figure| high.max(figure.high));
            let [median, least, most] = [idle[idle.len() / 2].median, high, low].map(percent);
            let told = match (least > 0.0, most < 0.0) {
                (true, _) => "",
                (_, true) => ", less than nothing",
                _ => ", which is not told apart from none",
            };
            costs.push(format!("{} {median:+.1}% ({least:+.1} to {most:+.1}{told})", found.name));
        }
        (!costs.is_empty()).then(|| {
            format!(
                "Keeping everything by a selection costs, of a token's time with the same weights whole, the form that weights are held in included: {}; \
                 the middle of the cells' medians, and the widest of their quartiles.",
                costs.join(", ")
            )
        })
    }

    /// Where and on what it was made, in a sentence.
    pub fn setting(&self) -> String {
        let processor = self.processor.as_deref().unwrap_or("an unnamed processor");
        let speed = self.decoded.map_or(String::new(), |[n, position]| {
            let rounds = self.rounds;
            format!(" Speeds are medians (quartiles) of {rounds} rounds, {n} tokens from position {position}, each cell in turn with its weights whole.")
        });
        format!(
            "{} on {}, {} tokens in windows of {}, whose second halves are scored; {processor}, {} threads, {}.{speed}",
            self.model, self.text, self.tokens, self.context, self.threads, self.isa
        )
    }

    /// Writes the tables and what they say.
    ///
    /// # Errors
    /// What `out` refuses.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(out, "{}\n\n{}\n", self.setting(), table(&HEADINGS, &self.rows()))?;
        if !self.series().is_empty() {
            writeln!(out, "{}\n", table(&SERIES_HEADINGS, &self.series_rows()))?;
        }
        self.findings().iter().try_for_each(|said| writeln!(out, "- {said}"))?;
        writeln!(
            out,
            "- kept: of what its method selects from, measured; over whole: against the same weights of which all is computed, or 16 bits, \
             at the same positions.\n\
             - MB a token: weights of the layers and the output layer that a token reads; fewer bytes: the speed that bytes allow.\n\
             - predicted: tokens a second that memory allows, what it read a second in the same rounds over the bytes of weights a token.\n\
             - selecting costs: time of the same method that keeps everything, over the same weights whole, less 1."
        )
    }

    /// The cells as comma-separated values.
    pub fn csv(&self) -> String {
        let columns = "switches,series,against,sparse,kept_neurons,kept_inputs,kept_heads,perplexity,perplexity_se,perplexity_ratio,\
                       perplexity_ratio_se,kl,kl_se,agreement_percent,scored_tokens,bytes_per_token,whole_bytes_per_token,\
                       tokens_per_second,tokens_per_second_low,tokens_per_second_high,over_whole,idle_over_whole,\
                       predicted_tokens_per_second\n";
        let line = |record: &Record| {
            let number = |value: Option<f64>| value.map_or(String::new(), |value| value.to_string());
            let speed = record.decoding.as_ref();
            let texts =
                [&record.switches, &record.series, record.against.as_ref().unwrap_or(&String::new()), &record.sparse]
                    .map(|text| format!("\"{}\"", text.replace('"', "\"\"")));
            let quality = [
                record.perplexity,
                record.perplexity_se,
                record.perplexity_ratio,
                record.perplexity_ratio_se,
                record.kl,
                record.kl_se,
                record.agreement_percent,
            ];
            let counts = [record.scored_tokens, record.bytes_per_token, record.whole_bytes_per_token];
            let medians = [
                speed.map(|speed| speed.speed.median),
                speed.map(|speed| speed.speed.low),
                speed.map(|speed| speed.speed.high),
                speed.and_then(|speed| Some(speed.over_whole?.median)),
                speed.and_then(|speed| Some(speed.idle_over_whole?.median)),
                speed.and_then(|speed| speed.predicted),
            ];
            let fields = texts.into_iter().chain(record.kept.map(number)).chain(quality.map(|value| value.to_string()));
            let fields = fields.chain(counts.map(|count| count.to_string())).chain(medians.map(number));
            fields.collect::<Vec<_>>().join(",") + "\n"
        };
        columns.to_owned() + &self.records.iter().map(line).collect::<String>()
    }
}

impl Record {
    /// Whether all of its weights is computed.
    pub fn is_whole(&self) -> bool {
        self.kept.iter().all(Option::is_none) && self.bytes_per_token == self.whole_bytes_per_token
    }

    /// How many times faster it decodes than the same weights of which all is computed.
    pub fn faster(&self) -> Option<f64> {
        self.decoding.as_ref()?.over_whole.map(|figure| figure.median)
    }

    pub(super) fn point(&self, gain: f64) -> Point {
        Point { gain, loss: self.increase_percent() }
    }

    fn cells(&self) -> [String; 12] {
        let figure = |figure: Option<Figure>, digits: usize| {
            figure.map_or(String::new(), |Figure { median, low, high }| {
                format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
            })
        };
        let speed = self.decoding.as_ref();
        let against = |text: String| if self.against.is_some() { text } else { String::new() };
        let idle = speed.and_then(|speed| speed.idle_over_whole);
        [
            format!("`{}`", self.switches),
            format!("{:.1}", 100.0 * self.kept_fraction()),
            format!("{:.3} ± {:.3}", self.perplexity, self.perplexity_se),
            against(format!("{:+.2} ± {:.2}", self.increase_percent(), 100.0 * self.perplexity_ratio_se)),
            against(format!("{:.4} ± {:.4}", self.kl, self.kl_se)),
            against(format!("{:.1}", self.agreement_percent)),
            format!("{:.1}", self.bytes_per_token as f64 / 1e6),
            format!("{:.2}", self.fewer_bytes()),
            speed.and_then(|speed| speed.predicted).map_or(String::new(), |predicted| format!("{predicted:.1}")),
            figure(speed.map(|speed| speed.speed), 1),
            figure(speed.and_then(|speed| speed.over_whole), 2),
            idle.map_or(String::new(), |idle| format!("{:+.1}", 100.0 * (1.0 / idle.median - 1.0))),
        ]
    }
}

/// A table whose numbers stand to the right.
fn table<const N: usize>(headings: &[&str; N], rows: &[[String; N]]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

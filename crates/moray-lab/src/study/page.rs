//! The page of a study.

use super::report::{HEADINGS, SERIES_HEADINGS};
use super::{Record, Study};
use crate::error::Result;
use crate::plot::{self, Labels, Series};

/// Perplexity beyond the baseline's that plots show, in percent; what is worse lies at their upper edge.
const SHOWN_PERCENT: f64 = 30.0;

impl Study {
    /// The page: curves, fronts and the layers' shares, and the tables. It loads nothing.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if the plotting library fails.
    pub fn page(&self) -> Result<String> {
        let mut body = format!("<p>{}</p>\n<ul>\n", plot::escape(&self.setting()));
        self.findings().iter().for_each(|said| body += &format!("<li>{}</li>\n", plot::escape(said)));
        body += "</ul>\n";
        let kept = Labels {
            title: "Perplexity by what is kept",
            x: "kept of what the method selects from",
            y: "perplexity over the same weights whole, %",
        };
        body += &self.curves(kept, |record| Some(record.kept_fraction()))?;
        let bytes = Labels { title: "Quality and bytes", x: "times fewer bytes of weights a token", ..kept };
        body += &self.curves(bytes, |record| Some(record.fewer_bytes()))?;
        if self.records.iter().any(|record| record.decoding.is_some()) {
            let speed = Labels { title: "Quality and measured speed", x: "times faster in decoding", ..kept };
            body += &self.curves(speed, Record::faster)?;
        }
        let layers = Labels { title: "Kept by layer: darker is more", x: "layer", y: "" };
        body += &plot::heat_map(layers, &self.layer_rows())?;
        body += &plot::table(&SERIES_HEADINGS, self.series_rows());
        body += &plot::table(&HEADINGS, self.rows());
        Ok(plot::page(&format!("What can be left out of {}", self.model), &body))
    }

    /// A line for each method of what its cells lose against `x` of them.
    fn curves(&self, labels: Labels<'_>, x: impl Fn(&Record) -> Option<f64>) -> Result<String> {
        let line = |found: super::report::SeriesFound<'_>| {
            let point = |record: &&Record| Some((x(record)?, record.increase_percent()));
            let mut points: Vec<(f64, f64)> = found.records.iter().filter_map(point).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Series { name: found.name.to_owned(), points }
        };
        plot::lines(labels, &self.series().into_iter().map(line).collect::<Vec<_>>(), SHOWN_PERCENT)
    }

    /// A row for each cell and site.
    fn layer_rows(&self) -> Vec<(String, Vec<Option<f64>>)> {
        let rows = |record: &Record| {
            let name = |site: &str| format!("{}: {site}", record.switches.trim_start_matches("--weights "));
            record.kept_by_layer.iter().map(|kept| (name(&kept.site), kept.layers.clone())).collect::<Vec<_>>()
        };
        self.records.iter().flat_map(rows).collect()
    }
}

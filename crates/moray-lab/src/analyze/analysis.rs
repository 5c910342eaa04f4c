//! What an analysis found.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::plot::{self, Labels, Series};

/// Numbers of one setting, one for each column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The setting.
    pub name: String,
    /// None where a column does not apply.
    pub values: Vec<Option<f64>>,
}

/// A table, its plot, and what they say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Analysis {
    /// Its name, as the command knows it.
    pub name: String,
    /// What is measured.
    pub title: String,
    /// What the columns are.
    pub x: String,
    /// What the values are.
    pub y: String,
    /// The columns; those that are numbers are plotted.
    pub columns: Vec<String>,
    /// The settings.
    pub rows: Vec<Row>,
    /// Whether the claim holds here, and the figures that say so.
    pub says: String,
}

impl Analysis {
    /// The value of a setting in a column.
    pub fn value(&self, row: &str, column: &str) -> Option<f64> {
        let column = self.columns.iter().position(|name| name == column)?;
        self.rows.iter().find(|other| other.name == row)?.values.get(column).copied().flatten()
    }

    /// Writes the table and what it says.
    ///
    /// # Errors
    /// What `out` refuses.
    pub fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header([self.x.clone()].iter().chain(&self.columns));
        table.add_rows(self.cells());
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(out, "{}: {}\n\n{table}\n\n{}", self.title, self.y, self.says)
    }

    fn cells(&self) -> Vec<Vec<String>> {
        let text = |value: &Option<f64>| value.map_or(String::new(), |value| format!("{value:.3}"));
        self.rows
            .iter()
            .map(|row| std::iter::once(row.name.clone()).chain(row.values.iter().map(text)).collect())
            .collect()
    }

    /// The page: the plot, the table, what they say. It loads nothing.
    ///
    /// # Errors
    /// [`Error::Io`](crate::error::Error::Io) if the plotting library fails.
    pub fn page(&self) -> Result<String> {
        let point = |(column, value): (&String, &Option<f64>)| Some((column.parse().ok()?, (*value)?));
        let series = |row: &Row| Series {
            name: row.name.clone(),
            points: self.columns.iter().zip(&row.values).filter_map(point).collect(),
        };
        let labels = Labels { title: &self.title, x: &self.x, y: &self.y };
        let plot = plot::lines(labels, &self.rows.iter().map(series).collect::<Vec<_>>(), f64::INFINITY)?;
        let header: Vec<&str> = std::iter::once(&*self.x).chain(self.columns.iter().map(|column| &**column)).collect();
        let body = format!("<p>{}</p>\n{plot}{}", plot::escape(&self.says), plot::table(&header, self.cells()));
        Ok(plot::page(&self.title, &body))
    }
}

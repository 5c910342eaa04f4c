//! `cargo xtask figures`: draws the documents' figures from the result files, each for light and for dark pages; `--check` compares.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use serde_json::Value;

use crate::gains::{BENCHES, Table, place_of};
use crate::{TaskResult, root};

const FOLDER: &str = "docs/figures";

const SIZE: (u32, u32) = (1000, 400);

/// Pixels to the right of a chart, for its legend, and of a line of it.
const LEGEND: u32 = 260;
const LEGEND_LINE: i32 = 22;

/// Paul Tol's bright colours, which readers with colour-blindness tell apart and which stand out from white and from black.
const COLOURS: [RGBColor; 10] = [
    RGBColor(68, 119, 170),
    RGBColor(238, 102, 119),
    RGBColor(34, 136, 51),
    RGBColor(204, 150, 40),
    RGBColor(80, 180, 220),
    RGBColor(170, 51, 119),
    RGBColor(130, 130, 130),
    RGBColor(200, 90, 20),
    RGBColor(100, 160, 120),
    RGBColor(130, 110, 200),
];

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The colours of a page.
struct Theme {
    name: &'static str,
    background: RGBColor,
    text: RGBColor,
    grid: RGBColor,
}

const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        background: RGBColor(255, 255, 255),
        text: RGBColor(36, 41, 47),
        grid: RGBColor(225, 228, 232),
    },
    Theme { name: "dark", background: RGBColor(13, 17, 23), text: RGBColor(201, 209, 217), grid: RGBColor(48, 54, 61) },
];

/// Points that a line joins.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
    is_dashed: bool,
}

/// What a figure shows.
struct Figure {
    name: &'static str,
    title: String,
    x: &'static str,
    y: &'static str,
    x_axis: Axis,
    /// Values of y that are shown; points outside are left out.
    y_range: Range<f64>,
    series: Vec<Series>,
}

/// How far apart values of x stand.
enum Axis {
    Linear(Range<f64>),
    /// These values at equal distances.
    Places(Vec<f64>),
}

/// Runs the task.
pub fn run(arguments: &[String]) -> TaskResult {
    let is_check = match arguments {
        [] => false,
        [check] if check == "--check" => true,
        _ => return Err("figures: expected --check or nothing".into()),
    };
    let folder = root().join(FOLDER);
    fs::create_dir_all(&folder)?;
    let mut count = 0;
    for figure in [study()?, products()?, decoding()?] {
        for theme in &THEMES {
            let (text, file) = (figure.draw(theme)?, format!("{}-{}.svg", figure.name, theme.name));
            let path = folder.join(&file);
            if !is_check {
                fs::write(&path, text)?;
            } else if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
                return Err(format!("{FOLDER}/{file} is stale; `cargo xtask figures` draws it").into());
            }
            count += 1;
        }
    }
    println!("{count} figures in {FOLDER} are current");
    Ok(())
}

/// Perplexity over the bytes of a token, a line for each method of the study.
fn study() -> Result<Figure> {
    const FILE: &str = "results/study.csv";
    let text = fs::read_to_string(root().join(FILE))?;
    let mut lines = text.lines().map(fields);
    let head = lines.next().ok_or_else(|| format!("{FILE}: expected a head, got none"))?;
    let column = |name: &str| {
        head.iter().position(|field| field == name).ok_or_else(|| format!("{FILE}: expected {name}, got none"))
    };
    let (switches, bytes, perplexity) = (column("switches")?, column("bytes_per_token")?, column("perplexity")?);
    // what lies far above would flatten all else
    let y_range = 30.0..36.0;
    let mut series: Vec<Series> = Vec::new();
    for row in lines {
        let name = method(&row[switches]);
        let point = (row[bytes].parse::<f64>()? / 1e6, row[perplexity].parse()?);
        if !y_range.contains(&point.1) {
            continue;
        }
        match series.iter_mut().find(|one| one.name == name) {
            Some(one) => one.points.push(point),
            None => series.push(Series { is_dashed: !name.starts_with("16"), name, points: vec![point] }),
        }
    }
    series.iter_mut().for_each(|one| one.points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    Ok(Figure {
        name: "study",
        title: "SmolLM2-135M: perplexity over what a token reads".to_owned(),
        x: "MB of weights a token",
        y: "perplexity",
        x_axis: Axis::Linear(60.0..280.0),
        y_range,
        series,
    })
}

/// What a row's switches are called, without the shares: those of one method make a line.
fn method(switches: &str) -> String {
    let mut name = String::new();
    for part in switches.split("--").map(str::trim).filter(|part| !part.is_empty()) {
        let (flag, value) = part.split_once(' ').unwrap_or((part, ""));
        let word = value.split(':').next().unwrap_or_default();
        match (flag, word) {
            ("weights", "dense") => name += "16 bits",
            ("weights", "as-file") => name += "4 bits, as the file has them",
            ("weights", other) => name += other,
            (_, word) => name = format!("{name}, {word}"),
        }
    }
    name
}

/// Predicted speed of W4A8 products over cuBLAS in 16 bits, by tokens.
fn products() -> Result<Figure> {
    const FILE: &str = "results/roofline/predictions.json";
    let rows: Vec<Value> = serde_json::from_str(&fs::read_to_string(root().join(FILE))?)?;
    let mut machines: Vec<String> = Vec::new();
    let mut points: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut places = Vec::new();
    for row in &rows {
        let (Some(id), Some(machine)) = (row["id"].as_str(), row["machine"].as_str()) else { continue };
        let Some(tokens) = id.strip_prefix("w4a8/per-channel/qqq.figure/m") else { continue };
        let (Some(ours), Some(theirs)) = (row["microseconds"].as_f64(), row["cublas_fp16_microseconds"].as_f64())
        else {
            continue;
        };
        let tokens: f64 = tokens.parse()?;
        if !machines.iter().any(|known| known == machine) {
            machines.push(machine.to_owned());
        }
        points.entry(machine.to_owned()).or_default().push((tokens, theirs / ours));
        places.push(tokens);
    }
    places.sort_by(f64::total_cmp);
    places.dedup();
    let series = machines.into_iter().map(|name| {
        let mut points = points.remove(&name).unwrap_or_default();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name, points, is_dashed: false }
    });
    Ok(Figure {
        name: "w4a8",
        title: "W4A8 per channel, N = 8192, K = 21760: times cuBLAS fp16, predicted".to_owned(),
        x: "tokens M",
        y: "times cuBLAS fp16",
        x_axis: Axis::Places(places),
        y_range: 0.0..4.5,
        series: series.collect(),
    })
}

/// Measured decoding speed by position, of the 4-bit file here and in the other engine.
fn decoding() -> Result<Figure> {
    const POSITIONS: [u32; 3] = [8, 500, 2000];
    let mut series = Vec::new();
    for file in BENCHES {
        let text = fs::read_to_string(root().join(file))?;
        let table = Table::of(&text, "MB a token").ok_or_else(|| format!("{file}: expected a table, got none"))?;
        let place = text.lines().find_map(place_of).ok_or_else(|| format!("{file}: expected a processor, got none"))?;
        let processor = place.split(',').next().unwrap_or_default().replace("(R)", "").replace(" Processor", "");
        for (row, name) in [("--weights as-file", "moray"), ("ik_llama.cpp", "ik_llama.cpp")] {
            let mut points = Vec::new();
            for position in POSITIONS {
                let cell = table.cell(&[(0, row)], &format!("decode at {position}"));
                let median = cell.as_deref().and_then(|cell| cell.split(' ').next()).and_then(|m| m.parse().ok());
                let median = median.ok_or_else(|| format!("{file}: expected {row} at {position}, got none"))?;
                points.push((f64::from(position), median));
            }
            series.push(Series { name: format!("{name}, {processor}"), points, is_dashed: name != "moray" });
        }
    }
    let top = series.iter().flat_map(|one| &one.points).map(|&(_, y)| y).fold(0.0, f64::max);
    Ok(Figure {
        name: "decoding",
        title: "SmolLM2-135M in 4 bits, two threads: tokens a second by position".to_owned(),
        x: "position",
        y: "tokens a second",
        x_axis: Axis::Linear(0.0..2050.0),
        y_range: 0.0..1.1 * top,
        series,
    })
}

/// What stands at a value of x.
fn chart_label(x: &f64, axis: &Axis) -> String {
    match axis {
        Axis::Linear(_) => x.to_string(),
        Axis::Places(places) => places.get(*x as usize).map_or(String::new(), f64::to_string),
    }
}

/// The fields of a line, of which some are in quotes.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    for c in line.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            _ => fields.last_mut().expect("there is one").push(c),
        }
    }
    fields
}

/// Values at equal distances, and every place named.
struct Places(Vec<f64>);

impl Places {
    /// Where a value is among the places, as a number of them.
    fn at(places: &[f64], value: f64) -> f64 {
        places.iter().position(|&place| place >= value).unwrap_or(places.len()) as f64
    }
}

impl Ranged for Places {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value + 0.5) / self.0.len() as f64;
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        (0..self.0.len()).map(|place| place as f64).collect()
    }

    fn range(&self) -> Range<f64> {
        -0.5..self.0.len() as f64 - 0.5
    }
}

impl ValueFormatter<f64> for Places {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

impl Series {
    /// A disc, or a ring where the line is dashed.
    fn marker(&self, colour: RGBColor) -> ShapeStyle {
        ShapeStyle { color: colour.to_rgba(), filled: !self.is_dashed, stroke_width: 2 }
    }
}

impl Figure {
    fn draw(&self, theme: &Theme) -> Result<String> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            area.fill(&theme.background)?;
            let (chart, legend) = area.split_horizontally(SIZE.0 - LEGEND);
            self.explain(theme, &legend)?;
            let mut builder = ChartBuilder::on(&chart);
            let style = |size: u32| ("sans-serif", size).into_font().color(&theme.text);
            builder.caption(&self.title, style(17)).margin(12).x_label_area_size(44).y_label_area_size(58);
            match &self.x_axis {
                Axis::Linear(range) => {
                    let chart = builder.build_cartesian_2d(range.clone(), self.y_range.clone())?;
                    self.fill(theme, chart, |x| x)?;
                }
                Axis::Places(places) => {
                    let chart = builder.build_cartesian_2d(Places(places.clone()), self.y_range.clone())?;
                    self.fill(theme, chart, |x| Places::at(places, x))?;
                }
            }
            area.present()?;
        }
        Ok(text)
    }

    /// Draws the legend.
    fn explain(&self, theme: &Theme, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> TaskResult {
        for (index, series) in self.series.iter().enumerate() {
            let (y, colour) = (60 + LEGEND_LINE * index as i32, COLOURS[index % COLOURS.len()]);
            area.draw(&Circle::new((12, y), 4, series.marker(colour))).map_err(|error| error.to_string())?;
            let style = ("sans-serif", 13).into_font().color(&theme.text);
            area.draw(&Text::new(series.name.clone(), (24, y - 7), style)).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn fill<'c, X: Ranged<ValueType = f64> + ValueFormatter<f64>>(
        &self,
        theme: &Theme,
        mut chart: ChartContext<'c, SVGBackend<'c>, Cartesian2d<X, RangedCoordf64>>,
        place: impl Fn(f64) -> f64,
    ) -> TaskResult {
        let style = |size: u32| ("sans-serif", size).into_font().color(&theme.text);
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .axis_style(theme.text)
            .bold_line_style(theme.grid)
            .light_line_style(TRANSPARENT)
            .x_label_formatter(&|x| chart_label(x, &self.x_axis))
            .label_style(style(13))
            .axis_desc_style(style(14))
            .draw()
            .map_err(|error| error.to_string())?;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let points: Vec<(f64, f64)> =
                series.points.iter().filter(|(_, y)| self.y_range.contains(y)).map(|&(x, y)| (place(x), y)).collect();
            let (is_dashed, marker) = (series.is_dashed, series.marker(colour));
            let line = points.iter().copied();
            let drawn = if is_dashed {
                chart.draw_series(DashedLineSeries::new(line, 6, 4, colour.stroke_width(2)))
            } else {
                chart.draw_series(LineSeries::new(line, colour.stroke_width(2)))
            };
            drawn.map_err(|error| error.to_string())?;
            chart
                .draw_series(points.iter().map(|&point| Circle::new(point, 4, marker)))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_fields_keep_their_commas() {
        assert_eq!(fields("\"a, b\",1,,\"c\""), ["a, b", "1", "", "c"]);
    }

    #[test]
    fn shares_of_a_method_have_one_name() {
        assert_eq!(method("--weights dense --inputs teal:0.7 --logits preview:64"), "16 bits, teal, preview");
        assert_eq!(method("--weights as-file"), "4 bits, as the file has them");
    }

    #[test]
    fn places_stand_at_equal_distances() {
        let places = Places(vec![1.0, 16.0, 2048.0]);
        let at = |value| places.map(&Places::at(&places.0, value), (0, 300));
        assert_eq!([at(1.0), at(16.0), at(2048.0)], [50, 150, 250]);
        assert_eq!(chart_label(&2.0, &Axis::Places(places.0)), "2048");
    }

    #[test]
    fn committed_figures_match_the_result_files() {
        run(&["--check".to_owned()]).unwrap();
    }
}

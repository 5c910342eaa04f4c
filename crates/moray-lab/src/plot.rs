//! Plots as SVG, and the self-contained page around them.

use std::io;
use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};

/// Pixels of a plot.
const SIZE: (u32, u32) = (1000, 480);

/// Pixels of a row of a heat map, and of what stands around its rows.
const ROW: u32 = 18;
const AROUND_ROWS: u32 = 90;

/// Paul Tol's bright and high-contrast colours, which readers with colour-blindness tell apart.
const COLOURS: [RGBColor; 9] = [
    RGBColor(68, 119, 170),
    RGBColor(238, 102, 119),
    RGBColor(34, 136, 51),
    RGBColor(204, 187, 68),
    RGBColor(102, 204, 238),
    RGBColor(170, 51, 119),
    RGBColor(120, 120, 120),
    RGBColor(221, 170, 51),
    RGBColor(0, 68, 136),
];

/// Points that belong together, in the order in which a line joins them.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// (x, y).
    pub points: Vec<(f64, f64)>,
}

/// A plot's title and what stands at its axes.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it.
    pub x: &'a str,
    /// Beside it.
    pub y: &'a str,
}

/// Draws lines with their points. What lies above `top` is cut off there, so that one method's fall does not flatten the others.
///
/// # Errors
/// [`Error::Io`] if the plotting library fails.
pub fn lines(labels: Labels<'_>, series: &[Series], top: f64) -> Result<String> {
    let clipped = |series: &Series| series.points.iter().map(|&(x, y)| (x, y.min(top))).collect::<Vec<_>>();
    let clipped: Vec<(&str, Vec<(f64, f64)>)> = series.iter().map(|one| (&*one.name, clipped(one))).collect();
    let all = || clipped.iter().flat_map(|(_, points)| points.iter().copied());
    let (x, y) = (range(all().map(|(x, _)| x)), range(all().map(|(_, y)| y)));
    svg(labels.title, SIZE, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(labels.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(62)
            .build_cartesian_2d(x, y)?;
        chart.configure_mesh().x_desc(labels.x).y_desc(labels.y).light_line_style(TRANSPARENT).draw()?;
        for (index, (name, points)) in clipped.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(*name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 4, colour.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .draw()?;
        Ok(())
    })
}

/// Draws rows of shares in 0..=1, one cell for each column, darker for more; nothing where there is none.
///
/// # Errors
/// [`Error::Io`] if the plotting library fails.
pub fn heat_map(labels: Labels<'_>, rows: &[(String, Vec<Option<f64>>)]) -> Result<String> {
    if rows.is_empty() {
        return Ok("<svg xmlns=\"http://www.w3.org/2000/svg\"></svg>\n".to_owned());
    }
    let (count, columns) = (rows.len(), rows.iter().map(|(_, values)| values.len()).max().unwrap_or(0));
    let size = (SIZE.0, ROW * count as u32 + AROUND_ROWS);
    svg(labels.title, size, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(labels.title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(300)
            .build_cartesian_2d(0..columns.max(1), (0..count.max(1)).into_segmented())?;
        let name = |place: &SegmentValue<usize>| match place {
            SegmentValue::CenterOf(row) => rows.get(*row).map_or(String::new(), |(name, _)| name.clone()),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc(labels.x)
            .y_labels(count.max(1))
            .y_label_formatter(&name)
            .draw()?;
        for (row, (_, values)) in rows.iter().enumerate() {
            let cells = values.iter().enumerate().filter_map(|(column, value)| value.map(|value| (column, value)));
            chart.draw_series(cells.map(|(column, value)| {
                let corners = [(column, SegmentValue::Exact(row)), (column + 1, SegmentValue::Exact(row + 1))];
                Rectangle::new(corners, shade(value).filled())
            }))?;
        }
        Ok(())
    })
}

/// White for nothing, dark blue for all.
fn shade(value: f64) -> RGBColor {
    let part = |from: f64, to: f64| (from + (to - from) * value.clamp(0.0, 1.0)).round() as u8;
    RGBColor(part(255.0, 0.0), part(255.0, 40.0), part(255.0, 110.0))
}

/// A range that holds all values, with some room; any where there are none.
fn range(values: impl Iterator<Item = f64>) -> std::ops::Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return 0.0..1.0;
    }
    let room = if high > low { 0.05 * (high - low) } else { 0.5 };
    low - room..high + room
}

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn svg(title: &str, size: (u32, u32), draw: impl FnOnce(&Drawing<'_>) -> Drawn) -> Result<String> {
    let mut text = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = draw(&root);
        drawn.and_then(|()| Ok(root.present()?))
    };
    match drawn {
        Ok(()) => Ok(text),
        Err(error) => Err(Error::io("draw", Path::new(title), io::Error::other(error.to_string()))),
    }
}

/// A page that loads nothing, after the reader's choice of light or dark: `body` is HTML.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>\n\
         :root {{ color-scheme: light dark; }}\n\
         body {{ font-family: sans-serif; margin: 2rem auto; max-width: 1040px; padding: 0 1rem; }}\n\
         table {{ border-collapse: collapse; display: block; overflow-x: auto; font-size: 0.85rem; }}\n\
         th, td {{ padding: 0.2rem 0.6rem; border-bottom: 1px solid #8888; text-align: right; white-space: nowrap; }}\n\
         th:first-child, td:first-child {{ text-align: left; }}\n\
         svg {{ width: 100%; height: auto; }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ filter: invert(0.9) hue-rotate(180deg); }} }}\n\
         </style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A table of HTML: the header, then rows.
pub fn table<R: AsRef<[String]>>(header: &[&str], rows: impl IntoIterator<Item = R>) -> String {
    let cells = |tag: &str, cells: Vec<&str>| {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect::<String>()
    };
    let body: String = rows
        .into_iter()
        .map(|row| format!("<tr>{}</tr>\n", cells("td", row.as_ref().iter().map(|cell| &**cell).collect())))
        .collect();
    format!("<table>\n<tr>{}</tr>\n{body}</table>\n", cells("th", header.to_vec()))
}

/// Text as HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels<'_> = Labels { title: "a < b", x: "kept", y: "perplexity" };

    #[test]
    fn lines_name_their_series_and_have_their_points() {
        let series = |name: &str, y: f64| Series { name: name.into(), points: vec![(0.5, y), (1.0, 30.0)] };
        let svg = lines(LABELS, &[series("teal", 31.0), series("random", 1e6)], 60.0).unwrap();
        assert_eq!(svg.matches("<circle").count(), 2 * 2 + 2, "points and legend");
        for part in ["teal", "random", "a &lt; b", "perplexity", "<polyline"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn plots_without_points_are_empty_plots() {
        assert!(lines(LABELS, &[], 1.0).unwrap().contains("</svg>"));
        assert!(heat_map(LABELS, &[]).unwrap().contains("</svg>"));
    }

    #[test]
    fn heat_maps_have_a_cell_for_each_value() {
        let rows = [("first".to_owned(), vec![Some(0.0), None, Some(1.0)]), ("second".into(), vec![Some(0.5); 3])];
        let svg = heat_map(LABELS, &rows).unwrap();
        let shades = ["#FFFFFF", "#00286E", "#8094B7"].map(|shade| svg.matches(&format!("fill=\"{shade}\"")).count());
        assert_eq!(shades, [1, 1, 3], "{svg}");
        assert!(svg.contains("first") && svg.contains("second"));
    }

    #[test]
    fn pages_hold_their_text_as_text() {
        let html = page("a < b", &table(&["x"], [["1 & 2".to_owned()]]));
        assert!(html.contains("a &lt; b") && html.contains("<td>1 &amp; 2</td>") && !html.contains("<script"));
    }
}

//! Histogram: how many of the values of each place are small beside the others.

use super::{Activations, Analysis, Row};

/// Shares of a layer's root mean square below which values are counted; the first counts those that are exactly 0.
const BELOW: [f64; 4] = [0.0, 0.1, 0.3, 1.0];

/// Values of N(0, 1) below a tenth, in percent: what a layer has there whose values are as those of any sum of many parts.
const NORMAL_TENTH_PERCENT: f64 = 7.97;

/// The place of which the sentence speaks.
const GATES: &str = "gates";

/// Counts, for each place and layer, the values that are exactly 0, and those whose sizes are below shares of the layer's root mean square.
pub fn histogram(places: &[(&str, &Activations)]) -> Analysis {
    let n_layers = places.iter().map(|(_, found)| found.n_layers()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for (place, found) in places {
        for below in BELOW {
            let values = (0..n_layers).map(|layer| Some(share(found.layer(layer), below))).collect();
            let name = if below == 0.0 { format!("{place}, 0") } else { format!("{place}, below {below} of the root") };
            rows.push(Row { name, values });
        }
    }
    let mean = |name: String| {
        let row = rows.iter().find(|row| row.name == name);
        row.map_or(0.0, |row| 100.0 * row.values.iter().flatten().sum::<f64>() / n_layers.max(1) as f64)
    };
    let (zeros, tenth) = (mean(format!("{GATES}, 0")), mean(format!("{GATES}, below 0.1 of the root")));
    let says = format!(
        "The activation leaves few values at 0: {}. {zeros:.1}% of the gates are exactly 0 and {tenth:.1}% below a tenth of their layer's \
         root mean square, where a normal distribution has {NORMAL_TENTH_PERCENT:.1}%.",
        if zeros < 50.0 { "holds here" } else { "does not hold here" }
    );
    Analysis {
        name: "histogram".into(),
        title: "Sizes of values".into(),
        x: "layer".into(),
        y: "share of values whose size is below a share of the layer's root mean square".into(),
        columns: (0..n_layers).map(|layer| layer.to_string()).collect(),
        rows,
        says,
    }
}

/// The share of values that are 0, or smaller than `below` times their root mean square.
fn share(values: &[f32], below: f64) -> f64 {
    let squares: f64 = values.iter().map(|&v| f64::from(v).powi(2)).sum();
    let limit = below * (squares / values.len().max(1) as f64).sqrt();
    let small = |v: &&f32| **v == 0.0 || f64::from(v.abs()) < limit;
    values.iter().filter(small).count() as f64 / values.len().max(1) as f64
}

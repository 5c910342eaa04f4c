//! What is predicted of a row on a machine.

use super::code::Codes;
use super::counts::Row;
use super::machine::Machine;
use super::predict::{Resource, Times, library_seconds, limit_seconds, times};

/// A row on a machine.
#[derive(Debug, Clone)]
pub struct Prediction {
    pub id: String,
    pub machine: &'static Machine,
    /// By launch.
    pub launches: Vec<(String, Times)>,
    /// Seconds of cuBLAS in 16 bits, where the row is a product.
    pub library: Option<f64>,
    /// Seconds that no kernel can be faster than.
    pub limit: f64,
    /// Seconds of a copy of the bytes that its work has to move.
    pub copy: f64,
}

impl Prediction {
    /// Predicts.
    ///
    /// # Errors
    /// Returns an error that names a kernel without code.
    pub fn new(machine: &'static Machine, row: &Row, codes: &Codes) -> Result<Self, String> {
        let mut launches = Vec::new();
        for launch in &row.launches {
            let key = (machine.code.to_owned(), launch.kernel.clone());
            let missing = || format!("results/roofline/code.json: expected {} for {}, got none", key.1, key.0);
            launches.push((launch.kernel.clone(), times(machine, launch, codes.get(&key).ok_or_else(missing)?)));
        }
        let product = row.product();
        let operations = product.map_or(0.0, |(m, n, k)| 2.0 * m * n * k);
        Ok(Self {
            id: row.id.clone(),
            machine,
            launches,
            library: product.map(|shape| library_seconds(machine, shape)),
            limit: limit_seconds(machine, row.bytes, operations),
            copy: row.bytes / machine.copy,
        })
    }

    pub fn seconds(&self) -> f64 {
        self.launches.iter().map(|(_, times)| times.seconds()).sum()
    }

    /// The resource on which most of the time is spent.
    pub fn bound(&self) -> &'static str {
        let mut spent = vec![(Resource::Launch, self.launches.iter().map(|(_, times)| times.launch).sum::<f64>())];
        for (index, &(resource, _)) in Resource::OVERLAPPED.iter().enumerate() {
            let longest = |times: &Times| times.of.iter().copied().fold(0.0, f64::max);
            let of = |times: &Times| if times.of[index] == longest(times) { longest(times) } else { 0.0 };
            spent.push((resource, self.launches.iter().map(|(_, times)| of(times)).sum()));
        }
        spent.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map_or("", |(resource, _)| resource.name())
    }

    /// Seconds that each resource of [`Resource::OVERLAPPED`] needs for all launches.
    pub fn resources(&self) -> [f64; 7] {
        std::array::from_fn(|index| self.launches.iter().map(|(_, times)| times.of[index]).sum())
    }
}

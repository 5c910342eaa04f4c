//! The meter: what one launch executed and moved.

/// Counts of one launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Name of the kernel's entry.
    pub kernel: String,
    /// Warp-instructions executed.
    pub instructions: u64,
}

impl Report {
    /// Writes the report as one JSON object.
    pub fn to_json(&self) -> String {
        format!("{{\"kernel\":\"{}\",\"instructions\":{}}}", self.kernel, self.instructions)
    }
}

//! Which blocks of a launch run, where only its counts are wanted.

use std::str::FromStr;

use super::checks::matches;

/// Launches of which only some columns of blocks run: for a grid that takes an hour, whose blocks do the same.
///
/// A column is all blocks (all clusters) of one x. Columns are spread evenly, the first among them, so what a kernel writes is
/// incomplete and what the meter counts is that of the columns that ran: [`Report::blocks_run`](super::Report::blocks_run) of a
/// grid's blocks. A cooperative launch, whose blocks wait for each other, runs whole.
///
/// # Spelling
/// Rules `pattern:columns` separated by `;`, of which the last that matches the kernel's name counts; `*` stands for any
/// characters and `?` for one.
///
/// ```
/// use simcuda::machine::Sample;
///
/// let sample: Sample = "gemm_*:2; *_tail:1".parse()?;
/// assert_eq!(sample.columns("gemm_64", 128), 2);
/// assert_eq!(sample.columns("gemm_64", 1), 1);
/// assert_eq!(sample.columns("gemm_tail", 128), 1);
/// assert_eq!(sample.columns("copy", 128), 128);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    rules: Vec<(String, u32)>,
}

impl Sample {
    /// How many of `all` columns of a kernel's launch run.
    pub fn columns(&self, kernel: &str, all: u32) -> u32 {
        let rule = self.rules.iter().rev().find(|(pattern, _)| matches(pattern.as_bytes(), kernel.as_bytes()));
        rule.map_or(all, |&(_, columns)| columns.min(all))
    }
}

impl FromStr for Sample {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = |part: &str| {
            let (pattern, columns) = part.rsplit_once(':')?;
            Some((pattern.trim().to_owned(), columns.trim().parse().ok().filter(|&columns| columns > 0)?))
        };
        let parts = text.split(';').map(str::trim).filter(|part| !part.is_empty());
        let rules = parts.map(|part| rule(part).ok_or_else(|| format!("expected pattern:columns, got {part:?}")));
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_say_no_number_of_columns_are_refused() {
        for bad in ["gemm", "gemm:", "gemm:0", "gemm:-1", "gemm:x", "a:1;b"] {
            assert!(bad.parse::<Sample>().is_err(), "{bad}");
        }
        assert_eq!("".parse::<Sample>(), Ok(Sample::default()));
    }
}

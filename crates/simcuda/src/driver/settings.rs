//! Settings, all from the environment and read once: programs run unmodified, so there is no other way in.

use std::env;
use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;

use super::codes::{Code, Result};
use crate::machine::{Arch, Checks, Options};

/// When work that is asynchronous runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// At its submission.
    Eager,
    /// As late as anything waits for it, and of a graph's ready nodes the youngest first.
    Lazy,
    /// At random times that keep every stream's order and every wait.
    Seeded(u64),
}

impl FromStr for Order {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<Self, ()> {
        match text {
            "eager" => Ok(Self::Eager),
            "lazy" => Ok(Self::Lazy),
            _ => text.strip_prefix("seed:").and_then(|seed| seed.parse().ok()).map(Self::Seeded).ok_or(()),
        }
    }
}

/// What the environment asks for.
pub(crate) struct Settings {
    pub(crate) memory_bytes: usize,
    pub(crate) order: Order,
    pub(crate) meter: Option<File>,
    pub(crate) options: Options,
}

/// Reads a variable; a value that does not parse is refused with a line that says what was expected.
fn read<T>(name: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
    match env::var(name) {
        Err(env::VarError::NotPresent) => Ok(None),
        Ok(text) => match parse(&text) {
            Some(value) => Ok(Some(value)),
            None => Err(Code::INVALID_VALUE.because(format!("{name}: expected {expected}, got {text:?}"))),
        },
        Err(_) => {
            Err(Code::INVALID_VALUE.because(format!("{name}: expected {expected}, got bytes that are not UTF-8")))
        }
    }
}

fn positive<T: FromStr + PartialOrd + From<u8>>(text: &str) -> Option<T> {
    text.parse().ok().filter(|value| *value > T::from(0))
}

/// Reads `SIMCUDA_CHECKS`, whose spelling is that of [`Checks`].
fn checks() -> Result<Checks> {
    let text = read("SIMCUDA_CHECKS", "rules", |text| Some(text.to_owned()))?.unwrap_or_else(|| "1".into());
    text.parse().map_err(|reason| Code::INVALID_VALUE.because(format!("SIMCUDA_CHECKS: {reason}, in {text:?}")))
}

fn parse_arch(text: &str) -> Option<Arch> {
    let spelled = |arch: &Arch| {
        let (major, minor) = arch.compute_capability();
        format!("{major}.{minor}") == text
    };
    Arch::ALL.into_iter().find(spelled)
}

impl Settings {
    /// Reads every `SIMCUDA_*` variable.
    ///
    /// # Errors
    /// `CUDA_ERROR_INVALID_VALUE` for a value that is not understood, with a line that names the variable.
    pub(crate) fn from_environment() -> Result<Self> {
        let arch = read("SIMCUDA_ARCH", "7.5, 8.0, 8.6, 8.9, 9.0 or 12.0", parse_arch)?.unwrap_or_default();
        let mut options = Options::for_arch(arch);
        options.checks = checks()?;
        if let Some(count) = read("SIMCUDA_SMS", "a number of multiprocessors from 1 to 1024", |text| {
            positive(text).filter(|count| *count <= 1024)
        })? {
            options.sm_count = count;
        }
        options.sample = read("SIMCUDA_SAMPLE", "pattern:columns", |text| text.parse().ok())?.unwrap_or_default();
        if let Some(workers) = read("SIMCUDA_WORKERS", "a number of threads from 1 up", positive)? {
            options.workers = workers;
        }
        options.youngest_first = read("SIMCUDA_BLOCKS", "eldest or youngest", |text| match text {
            "eldest" => Some(false),
            "youngest" => Some(true),
            _ => None,
        })?
        .unwrap_or(false);
        options.truncates = read("SIMCUDA_MMA", "rounded or truncated", |text| match text {
            "rounded" => Some(false),
            "truncated" => Some(true),
            _ => None,
        })?
        .unwrap_or(false);
        if let Some(budget) = read("SIMCUDA_BUDGET", "a number of warp-instructions from 1 up", positive)? {
            options.instruction_budget = budget;
        }
        let order = read("SIMCUDA_ORDER", "lazy, eager or seed:<number>", |text| text.parse().ok())?;
        let order = order.unwrap_or(Order::Lazy);
        if let Order::Seeded(seed) = order {
            options.seed = seed;
        }
        let memory_bytes =
            read("SIMCUDA_MEMORY", "a number of bytes from 1 up", |text| positive::<u64>(text).map(|n| n as usize))?;
        let meter = match read("SIMCUDA_METER", "a path", |text| Some(PathBuf::from(text)))? {
            Some(path) => {
                let file = OpenOptions::new().create(true).append(true).open(&path);
                Some(file.map_err(|e| Code::INVALID_VALUE.because(format!("SIMCUDA_METER: {}: {e}", path.display())))?)
            }
            None => None,
        };
        options.meter = meter.is_some();
        driver_version()?;
        Ok(Self { memory_bytes: memory_bytes.unwrap_or(8 << 30), order, meter, options })
    }
}

/// What cuDriverGetVersion reports by default: the newest toolkit whose PTX is read.
const NEWEST_DRIVER: i32 = 13050;

/// The driver's version as 1000 · major + 10 · minor (`SIMCUDA_DRIVER_VERSION`); may be asked before cuInit.
///
/// # Errors
/// `CUDA_ERROR_INVALID_VALUE` for a value that is not understood, with a line that names the variable.
pub(crate) fn driver_version() -> Result<i32> {
    let parse = |text: &str| text.parse().ok().filter(|version| (11000..=NEWEST_DRIVER).contains(version));
    Ok(read("SIMCUDA_DRIVER_VERSION", "1000 · major + 10 · minor from 11000 to 13050", parse)?.unwrap_or(NEWEST_DRIVER))
}

/// Tells whether every API call is to be named on stderr (`SIMCUDA_TRACE=1`).
pub(crate) fn trace() -> bool {
    static TRACE: OnceLock<bool> = OnceLock::new();
    *TRACE.get_or_init(|| env::var_os("SIMCUDA_TRACE").is_some_and(|value| value == "1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_matches_its_documented_spellings() {
        assert_eq!("lazy".parse(), Ok(Order::Lazy));
        assert_eq!("eager".parse(), Ok(Order::Eager));
        assert_eq!("seed:7".parse(), Ok(Order::Seeded(7)));
        assert_eq!("seed:".parse::<Order>(), Err(()));
        assert_eq!("Lazy".parse::<Order>(), Err(()));
    }
}

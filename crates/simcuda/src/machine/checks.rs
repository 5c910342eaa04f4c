//! What is checked while kernels run, and what happens on a finding: by kind and by kernel.

use std::fmt;
use std::str::FromStr;

use super::error::FaultKind;

/// A kind of check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Check {
    /// Access outside every allocation, or to freed memory. What lies outside of the device's memory, or of the block's shared
    /// memory, is a fault in any case.
    Bounds,
    /// A value that nothing wrote reaches a branch, an address, an atomic or a store to global memory.
    Init,
    /// A value that nothing wrote is loaded, whatever becomes of it.
    Load,
    /// Two unordered accesses to the same shared memory, one of them a write.
    Race,
    /// The destination of an asynchronous copy is used before its wait, or a proxy fence is missing.
    Async,
    /// Threads of a warp that do not reach a barrier together.
    Barrier,
}

impl Check {
    /// All checks, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Bounds, Self::Init, Self::Load, Self::Race, Self::Async, Self::Barrier];

    /// The name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bounds => "bounds",
            Self::Init => "init",
            Self::Load => "load",
            Self::Race => "race",
            Self::Async => "async",
            Self::Barrier => "barrier",
        }
    }

    /// The check that makes findings of a kind; `None` for faults that cannot be passed over. Uninitialised values are those of
    /// [`Check::Init`] here.
    pub(crate) fn of(kind: FaultKind) -> Option<Self> {
        Some(match kind {
            FaultKind::OutOfBounds | FaultKind::UseAfterFree => Self::Bounds,
            FaultKind::Uninitialized => Self::Init,
            FaultKind::SharedRace => Self::Race,
            FaultKind::AsyncNotWaited | FaultKind::MissingProxyFence => Self::Async,
            FaultKind::DivergentBarrier => Self::Barrier,
            _ => return None,
        })
    }
}

/// What happens on a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing.
    Off,
    /// It is counted, and the kernel goes on.
    Warn,
    /// The kernel is stopped.
    Fatal,
}

impl Level {
    const ALL: [(Self, &'static str); 3] = [(Self::Off, "off"), (Self::Warn, "warn"), (Self::Fatal, "fatal")];
}

/// The level of each check for one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels([Level; Check::ALL.len()]);

impl Levels {
    /// The level of a check.
    pub fn of(&self, check: Check) -> Level {
        self.0[check as usize]
    }

    /// Whether a check is made at all.
    pub(crate) fn is_on(&self, check: Check) -> bool {
        self.of(check) != Level::Off
    }

    /// Whether any check is made.
    pub(crate) fn any(&self) -> bool {
        self.0.iter().any(|&level| level != Level::Off)
    }
}

/// One rule: for kernels whose name matches, a level for a check or for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    kernels: String,
    check: Option<Check>,
    level: Level,
}

/// The checks of every kernel: rules of which the last that matches counts.
///
/// By default every check but [`Check::Load`] is fatal.
///
/// # Spelling
/// Rules are separated by `;`. Each is a list `check=level` separated by commas, where `all` stands for every check, and a pattern
/// of kernel names with a colon may come before it; `*` stands for any characters and `?` for one. `0` switches everything off, `1`
/// is the default.
///
/// ```
/// use simcuda::machine::{Check, Checks, Level};
///
/// let checks: Checks = "load=warn; flash_*: race=off,init=warn".parse()?;
/// assert_eq!(checks.of_kernel("flash_fwd").of(Check::Race), Level::Off);
/// assert_eq!(checks.of_kernel("gemm").of(Check::Race), Level::Fatal);
/// assert_eq!(checks.of_kernel("gemm").of(Check::Load), Level::Warn);
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    rules: Vec<Rule>,
}

impl Checks {
    /// The same level for every check of every kernel.
    pub fn all(level: Level) -> Self {
        Self { rules: vec![Rule { kernels: "*".into(), check: None, level }] }
    }

    /// The same with another level for one check.
    #[must_use]
    pub fn with(self, check: Check, level: Level) -> Self {
        self.with_kernels("*", check, level)
    }

    /// The same with another level for one check of the kernels whose name matches a pattern.
    #[must_use]
    pub fn with_kernels(mut self, kernels: &str, check: Check, level: Level) -> Self {
        self.rules.push(Rule { kernels: kernels.into(), check: Some(check), level });
        self
    }

    /// The levels for a kernel.
    pub fn of_kernel(&self, name: &str) -> Levels {
        let mut levels = Check::ALL.map(|check| if check == Check::Load { Level::Off } else { Level::Fatal });
        for rule in self.rules.iter().filter(|rule| matches(rule.kernels.as_bytes(), name.as_bytes())) {
            match rule.check {
                Some(check) => levels[check as usize] = rule.level,
                None => levels = [rule.level; Check::ALL.len()],
            }
        }
        Levels(levels)
    }
}

/// Whether a name matches a pattern of characters, `?` and `*`.
pub(super) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    // Where to go on if the last `*` has to take one character more.
    let (mut p, mut n, mut retry) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == b'?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((after, taken)) => {
                    (p, n) = (after, taken + 1);
                    retry = Some((after, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

impl FromStr for Checks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => return Ok(Self::all(Level::Off)),
            "1" => return Ok(Self::default()),
            _ => {}
        }
        let mut checks = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (kernels, list) = part.rsplit_once(':').map_or(("*", part), |(kernels, list)| (kernels.trim(), list));
            for item in list.split(',') {
                let (name, level) =
                    item.split_once('=').ok_or_else(|| format!("expected check=level, got {item:?}"))?;
                let check = match name.trim() {
                    "all" => None,
                    name => Some(named(name, &Check::ALL.map(|check| (check, check.name())))?),
                };
                checks.rules.push(Rule { kernels: kernels.into(), check, level: named(level.trim(), &Level::ALL)? });
            }
        }
        Ok(checks)
    }
}

/// Finds a value by its name.
fn named<T: Copy>(name: &str, all: &[(T, &str)]) -> Result<T, String> {
    all.iter().find(|known| known.1 == name).map(|known| known.0).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|known| known.1).collect();
        format!("expected one of {}, got {name:?}", names.join(", "))
    })
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_written_out() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "a_b_b_c", true),
            ("a*b*c", "acb", false),
            ("*gemm*", "_Z9gemm_w4a8Pv", true),
            ("gemm?", "gemm1", true),
            ("gemm?", "gemm", false),
            ("**x", "yyx", true),
            ("*ab", "aab", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_last_matching_rule_counts() {
        let levels = |text: &str, kernel: &str| text.parse::<Checks>().expect(text).of_kernel(kernel);
        assert_eq!(levels("1", "k"), Checks::default().of_kernel("k"));
        assert_eq!(levels("0", "k"), Levels([Level::Off; 6]));
        let some = levels("all=off;a*:race=warn, bounds = fatal;ab:all=warn", "abc");
        assert_eq!(Check::ALL.map(|check| some.of(check)), {
            use Level::*;
            [Fatal, Off, Off, Warn, Off, Off]
        });
        assert_eq!(levels("a*:race=warn;ab:all=warn", "ab"), Levels([Level::Warn; 6]));
        let built =
            Checks::all(Level::Off).with(Check::Init, Level::Warn).with_kernels("x*", Check::Init, Level::Fatal);
        assert_eq!(
            (built.of_kernel("y").of(Check::Init), built.of_kernel("xy").of(Check::Init)),
            (Level::Warn, Level::Fatal)
        );
        for bad in ["2", "race", "race=loud", "speed=off", "a:race=off,", "init:fatal"] {
            assert!(bad.parse::<Checks>().is_err(), "{bad}");
        }
    }
}

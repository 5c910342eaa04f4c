//! The architectures that kernels were built for.

use super::Device;
use super::kernels::images::ARCHITECTURES;

impl Device {
    /// Whether this build has kernels for devices of a compute capability (major, minor): machine code of the same major number and no later
    /// minor one, or PTX of no later capability. Needs no driver.
    ///
    /// # Example
    /// ```
    /// assert!(!moray::Device::has_kernels_for((7, 5)));
    /// ```
    pub fn has_kernels_for(capability: (u32, u32)) -> bool {
        ARCHITECTURES.iter().any(|built| runs_on(built, capability))
    }
}

/// Whether what was built for an architecture runs on a compute capability. `a` stands for features of one capability alone, `f` for
/// those of a major number.
fn runs_on(built: &str, capability: (u32, u32)) -> bool {
    let (kind, number) = built.split_once('_').unwrap_or_default();
    let plain = number.trim_end_matches(['a', 'f']);
    let of = plain.parse().map_or((u32::MAX, 0), |number: u32| (number / 10, number % 10));
    match (kind, &number[plain.len()..]) {
        (_, "a") => capability == of,
        ("compute", "") => capability >= of,
        _ => capability.0 == of.0 && capability.1 >= of.1,
    }
}

#[cfg(test)]
mod tests {
    use super::runs_on;

    #[test]
    fn code_runs_on_the_capabilities_that_nvidia_says() {
        for (built, on, not_on) in [
            ("sm_80", &[(8, 0), (8, 6), (8, 9)][..], &[(7, 5), (9, 0), (12, 0)][..]),
            ("sm_86", &[(8, 6), (8, 9)], &[(8, 0), (9, 0)]),
            ("sm_90a", &[(9, 0)], &[(8, 9), (9, 1), (10, 0)]),
            ("sm_100f", &[(10, 0), (10, 3)], &[(9, 0), (12, 0)]),
            ("compute_80", &[(8, 0), (9, 0), (12, 1)], &[(7, 5)]),
            ("compute_90a", &[(9, 0)], &[(8, 9), (10, 0)]),
        ] {
            assert!(on.iter().all(|&capability| runs_on(built, capability)), "{built}");
            assert!(!not_on.iter().any(|&capability| runs_on(built, capability)), "{built}");
        }
    }
}

//! The checks of a matrix's shape and of the scales against the matrix that they belong to.

use super::{Bits, GroupOffset, MAX_K, QQQ_GROUP, Scales};
use crate::error::{Error, Result, check_len};

pub(crate) fn check_shape(n: usize, k: usize) -> Result<()> {
    if n == 0 {
        return Err(Error::Shape { what: "n", expected: "at least 1", got: n });
    }
    if k == 0 || k % 32 != 0 || k > MAX_K {
        return Err(Error::Shape { what: "k", expected: "a multiple of 32 from 32 to 65536", got: k });
    }
    Ok(())
}

/// Checks a group size against K and returns the number of groups in a row.
pub(crate) fn check_group(k: usize, group_size: usize) -> Result<usize> {
    if ![32, 64, 128].contains(&group_size) {
        return Err(Error::Shape { what: "group_size", expected: "32, 64 or 128", got: group_size });
    }
    if k % group_size != 0 {
        return Err(Error::Shape { what: "k", expected: "a multiple of the group size", got: k });
    }
    Ok(k / group_size)
}

fn check_finite(what: &'static str, mut values: impl Iterator<Item = f32>) -> Result<()> {
    match values.find(|v| !v.is_finite()) {
        Some(got) => Err(Error::Value { what, expected: "finite numbers", got }),
        None => Ok(()),
    }
}

pub(super) fn check_scales(n: usize, k: usize, bits: Bits, codes: &[i8], scales: &Scales) -> Result<()> {
    let four_only = |what: &str| match bits {
        Bits::Four => Ok(()),
        Bits::Eight => Err(Error::Unsupported {
            what: "scales",
            expected: "per-channel or per-group for 8 bits",
            got: what.into(),
        }),
    };
    match scales {
        Scales::PerChannel { scale } => {
            check_len("scale", n, scale.len())?;
            check_finite("scale", scale.iter().copied())
        }
        Scales::PerGroup { group_size, scale, offset } => {
            let groups = n * check_group(k, *group_size)?;
            check_len("scale", groups, scale.len())?;
            check_finite("scale", scale.iter().map(|s| s.to_f32()))?;
            match offset {
                GroupOffset::Symmetric => Ok(()),
                GroupOffset::F16(offset) => {
                    check_len("offset", groups, offset.len())?;
                    check_finite("offset", offset.iter().map(|s| s.to_f32()))
                }
                GroupOffset::ZeroPoint(zero) => {
                    four_only("zero points")?;
                    check_len("zero_point", groups, zero.len())?;
                    check_range("zero_point", "0..=15", zero, 0, 15)
                }
            }
        }
        Scales::TwoLevel { group_size, group_scale, scale } => {
            four_only("two-level")?;
            check_len("group_scale", n * check_group(k, *group_size)?, group_scale.len())?;
            check_len("scale", n, scale.len())?;
            check_range("group_scale", "1..=16", group_scale, 1, 16)?;
            check_finite("scale", scale.iter().copied())
        }
        Scales::Qqq { group_scale, scale } => {
            four_only("qqq")?;
            check_len("group_scale", n * check_group(k, QQQ_GROUP)?, group_scale.len())?;
            check_len("scale", n, scale.len())?;
            check_finite("group_scale", group_scale.iter().map(|s| s.to_f32()))?;
            check_finite("scale", scale.iter().copied())?;
            // QQQ's kernel has no clamp: a product past int8 would wrap
            for (codes, &scale) in codes.chunks_exact(QQQ_GROUP).zip(group_scale) {
                let low = codes.iter().min().map_or(0.0, |&c| (f32::from(c) - 8.0) * scale.to_f32());
                let high = codes.iter().max().map_or(0.0, |&c| (f32::from(c) - 8.0) * scale.to_f32());
                if let Some(got) = [low, high].into_iter().find(|v| v.abs() >= 127.5) {
                    return Err(Error::Value { what: "codes", expected: "|(code − 8) · group_scale| < 127.5", got });
                }
            }
            Ok(())
        }
    }
}

fn check_range(what: &'static str, expected: &'static str, values: &[u8], low: u8, high: u8) -> Result<()> {
    match values.iter().find(|v| !(low..=high).contains(*v)) {
        Some(&got) => Err(Error::Value { what, expected, got: f32::from(got) }),
        None => Ok(()),
    }
}

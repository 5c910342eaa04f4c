//! The numbers that codes stand for while they are being chosen, by row and group.

mod search;
#[cfg(test)]
mod tests;

use half::f16;
use moray::w4a8::{Bits, Format, GroupScale, Offset, QuantizedWeight, Scales, Values, quantize};
use rayon::prelude::*;

use super::matrix::Matrix;
use crate::error::{Error, Result};
use search::{best_channel, search_offset, search_symmetric};

/// Codes of 4 bits.
pub const LEVELS: f32 = 15.0;

/// The code that stands for zero without an offset.
pub const CENTRE: f32 = 8.0;

/// Scales and offsets of a matrix \[N, K\] in groups of K: value = scale · (code − 8) + centre.
#[derive(Debug, Clone)]
pub struct Grid {
    /// How they will be stored.
    pub format: Format,
    /// Columns K.
    pub columns: usize,
    /// Columns that share a scale.
    pub group_size: usize,
    /// f32 \[N, K / group_size\].
    pub scale: Vec<f32>,
    /// What code 8 stands for, f32 \[N, K / group_size\]; zero without offsets.
    pub centre: Vec<f32>,
    /// The integer over the channel's scale in two-level form, \[N, K / group_size\]; empty otherwise.
    pub integer: Vec<u8>,
}

/// One group's scale and what code 8 stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Between neighbouring codes.
    pub scale: f32,
    /// The value of code 8.
    pub centre: f32,
}

impl Step {
    /// The nearest code to a value.
    #[inline(always)]
    pub fn code(self, value: f32, inverse: f32) -> f32 {
        nearest(((value - self.centre) * inverse).clamp(-CENTRE, LEVELS - CENTRE))
    }
}

/// Rounds |x| < 2²² to nearest, ties to even, in two additions that every instruction set has.
#[inline(always)]
pub fn nearest(x: f32) -> f32 {
    (x + 12_582_912.0) - 12_582_912.0
}

/// 1 / scale, and 0 for a group of zeros.
#[inline(always)]
pub fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Columns that share a scale, checked.
///
/// # Errors
/// [`Error::Kernel`] for a group size that does not divide K, or a format without 4-bit codes.
pub fn group_size(format: Format, k: usize) -> Result<usize> {
    if format.bits != Bits::Four {
        let (expected, got) = ("a 4-bit format", "8 bits".into());
        return Err(Error::Kernel(moray::Error::Unsupported { what: "weights", expected, got }));
    }
    let size = format.group_size().unwrap_or(k);
    if k % size != 0 {
        return Err(Error::Kernel(moray::Error::Unsupported {
            what: "weights",
            expected: "a group size that divides every K of the model",
            got: format!("groups of {size} and K = {k}"),
        }));
    }
    Ok(size)
}

impl Grid {
    /// The scales of round-to-nearest.
    ///
    /// # Errors
    /// As [`quantize`].
    pub fn plain(w: &Matrix, format: Format) -> Result<Self> {
        let group_size = group_size(format, w.columns)?;
        let quantized = quantize(&w.data, w.rows, w.columns, format)?;
        let Scales { channel, group, offset } = quantized.scales();
        let groups = w.columns / group_size;
        let channel_of = |i: usize| channel.as_ref().map(|channel| channel[i / groups]);
        let scale: Vec<f32> = (0..w.rows * groups)
            .map(|i| match (channel_of(i), group) {
                (Some(channel), Some(group)) => channel * group.get(i),
                (channel, group) => channel.or(group.as_ref().map(|group| group.get(i))).unwrap_or(0.0),
            })
            .collect();
        let centre = match offset {
            Some(offset) => offset.iter().zip(&scale).map(|(o, s)| o + CENTRE * s).collect(),
            None => vec![0.0; scale.len()],
        };
        let integer = match group {
            Some(Values::U8(integers)) => integers.clone(),
            _ => Vec::new(),
        };
        Ok(Grid { format, columns: w.columns, group_size, scale, centre, integer })
    }

    /// Finds, group by group, the scale (and offset) with the least Σₖ weight\[k\] · (w\[k\] − nearest level)², clipping
    /// outliers where that pays.
    ///
    /// # Errors
    /// As [`Grid::plain`].
    pub fn searched(w: &Matrix, format: Format, weight: &[f32]) -> Result<Self> {
        let group_size = group_size(format, w.columns)?;
        let groups = w.columns / group_size;
        let offsets = format.offset() == Offset::F16;
        let signed = matches!(format.group_scale(), None | Some(GroupScale::F16));
        let steps: Vec<Step> = (0..w.rows * groups)
            .into_par_iter()
            .map(|i| {
                let columns = i % groups * group_size..(i % groups + 1) * group_size;
                let (values, weight) = (&w.row(i / groups)[columns.clone()], &weight[columns]);
                pulp::Arch::new().dispatch(|| {
                    if offsets { search_offset(values, weight) } else { search_symmetric(values, weight, signed) }
                })
            })
            .collect();
        let mut grid = Grid {
            format,
            columns: w.columns,
            group_size,
            scale: steps.iter().map(|step| step.scale).collect(),
            centre: steps.iter().map(|step| step.centre).collect(),
            integer: Vec::new(),
        };
        grid.round();
        Ok(grid)
    }

    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.columns / self.group_size
    }

    /// The step of one group.
    #[inline(always)]
    pub fn step(&self, row: usize, group: usize) -> Step {
        let at = row * self.groups() + group;
        Step { scale: self.scale[at], centre: self.centre[at] }
    }

    /// Multiplies every scale; offsets stay.
    pub fn scaled(&self, factor: f32) -> Self {
        let mut grid = self.clone();
        grid.scale.iter_mut().for_each(|scale| *scale *= factor);
        grid.round();
        grid
    }

    /// Takes over one row of another grid of the same format.
    pub fn copy_row(&mut self, from: &Grid, row: usize) {
        let range = row * self.groups()..(row + 1) * self.groups();
        self.scale[range.clone()].copy_from_slice(&from.scale[range.clone()]);
        self.centre[range.clone()].copy_from_slice(&from.centre[range.clone()]);
        if !self.integer.is_empty() {
            self.integer[range.clone()].copy_from_slice(&from.integer[range]);
        }
    }

    /// Rounds scales and offsets to what can be stored.
    pub fn round(&mut self) {
        match self.format.group_scale() {
            None | Some(GroupScale::Qqq) => {}
            Some(GroupScale::F16) => {
                let offset = self.format.offset() == Offset::F16;
                for (scale, centre) in self.scale.iter_mut().zip(&mut self.centre) {
                    *scale = to_f16(*scale);
                    // what is stored is the value of code 0
                    *centre = if offset { to_f16(*centre - CENTRE * *scale) + CENTRE * *scale } else { 0.0 };
                }
            }
            Some(GroupScale::Integer) => {
                let groups = self.groups();
                let mut integers = Vec::with_capacity(self.scale.len());
                for row in self.scale.chunks_exact_mut(groups) {
                    let channel = best_channel(row);
                    for scale in row {
                        let integer = nearest(*scale * inverse(channel)).clamp(1.0, 16.0);
                        *scale = channel * integer;
                        integers.push(integer as u8);
                    }
                }
                self.integer = integers;
            }
        }
    }

    /// What codes stand for, \[N, K\].
    pub fn values(&self, codes: &[i8]) -> Vec<f32> {
        let mut out = vec![0.0; codes.len()];
        out.par_chunks_exact_mut(self.group_size).zip(codes.par_chunks_exact(self.group_size)).enumerate().for_each(
            |(group, (out, codes))| {
                let (scale, centre) = (self.scale[group], self.centre[group]);
                for (out, &code) in out.iter_mut().zip(codes) {
                    *out = scale * (f32::from(code) - CENTRE) + centre;
                }
            },
        );
        out
    }

    /// The nearest codes to w, \[N, K\].
    pub fn nearest_codes(&self, w: &[f32]) -> Vec<i8> {
        let mut out = vec![0; w.len()];
        out.par_chunks_exact_mut(self.group_size).zip(w.par_chunks_exact(self.group_size)).enumerate().for_each(
            |(group, (out, w))| {
                let step = Step { scale: self.scale[group], centre: self.centre[group] };
                let inverse = inverse(step.scale);
                out.iter_mut().zip(w).for_each(|(out, &w)| *out = (step.code(w, inverse) + CENTRE) as i8);
            },
        );
        out
    }

    /// Puts codes and scales together in the library's form.
    ///
    /// # Errors
    /// [`Error::Kernel`] for scales that overflow their type.
    pub fn finish(&self, rows: usize, codes: Vec<i8>) -> Result<QuantizedWeight> {
        let (k, groups, group_size) = (self.columns, self.groups(), self.group_size);
        let halves = |values: &mut dyn Iterator<Item = f32>| values.map(f16::from_f32).collect::<Vec<_>>();
        let scales = match self.format.group_scale() {
            None => Scales::per_channel(self.scale.clone()),
            Some(GroupScale::F16) => {
                let zero = |(centre, scale): (&f32, &f32)| centre - CENTRE * scale;
                let mut offsets = self.centre.iter().zip(&self.scale).map(zero);
                let offset = (self.format.offset() == Offset::F16).then(|| halves(&mut offsets).into());
                Scales::per_group(halves(&mut self.scale.iter().copied()), offset)
            }
            Some(GroupScale::Integer) => {
                let first = |row: usize| self.scale[row * groups] / f32::from(self.integer[row * groups]);
                Scales::over_channel(self.integer.clone(), (0..rows).map(first).collect())
            }
            Some(GroupScale::Qqq) => {
                let largest = |row: usize| {
                    let groups = row * groups..(row + 1) * groups;
                    groups.fold(0.0f32, |largest, g| {
                        let codes = &codes[g * group_size..(g + 1) * group_size];
                        let reach = codes.iter().map(|&code| (f32::from(code) - CENTRE).abs()).fold(0.0, f32::max);
                        largest.max(reach * self.scale[g].abs())
                    })
                };
                let scale: Vec<f32> = (0..rows).map(|row| largest(row) / 127.0).collect();
                let mut group = self.scale.iter().enumerate().map(|(g, s)| s * inverse(scale[g / groups]));
                Scales::over_channel(halves(&mut group), scale)
            }
        };
        Ok(QuantizedWeight::new(rows, k, self.format, codes, scales)?)
    }
}

fn to_f16(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

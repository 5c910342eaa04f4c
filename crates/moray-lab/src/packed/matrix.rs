//! A matrix as integer codes, in the form that operations take.

use half::f16;
use moray::w4a8::{Bits, Format, Offset, QuantizedWeight, Scales};

use super::tensors::Projection;
use crate::error::Result;

/// Group sizes that kernels have, the largest first.
const GROUP_SIZES: [usize; 3] = [128, 64, 32];

/// A matrix w\[N, K\] as integer codes, perhaps for inputs in another order.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedMatrix {
    /// Codes and scales.
    pub weight: QuantizedWeight,
    /// u32 \[K\]: column j of the codes goes with input `order[j]`; none where every column goes with its own.
    pub order: Option<Vec<u32>>,
}

impl From<QuantizedWeight> for PackedMatrix {
    fn from(weight: QuantizedWeight) -> Self {
        PackedMatrix { weight, order: None }
    }
}

impl PackedMatrix {
    /// The whole matrix as f32 \[N, K\], columns in the order of the inputs.
    pub fn dequantize(&self) -> Vec<f32> {
        let values = self.weight.dequantize();
        let Some(order) = &self.order else { return values };
        let mut out = vec![0.0; values.len()];
        for (out, row) in out.chunks_exact_mut(order.len()).zip(values.chunks_exact(order.len())) {
            order.iter().zip(row).for_each(|(&input, &value)| out[input as usize] = value);
        }
        out
    }
}

/// What the layouts have in common: codes, and a scale and a zero point for each group.
pub(super) struct Parts {
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) bits: Bits,
    /// \[N, K\], as stored.
    pub(super) codes: Vec<u8>,
    /// \[N, groups\].
    pub(super) scale: Vec<f32>,
    /// \[N, groups\]; none for the middle of the codes.
    pub(super) zero: Option<Vec<u8>>,
    /// What the file says of zero points.
    pub(super) symmetric: Option<bool>,
    /// \[K\]: the group of each input; none where neighbours share one.
    pub(super) group_of: Option<Vec<u32>>,
}

impl Parts {
    /// Puts columns of a group beside each other and scales into the sizes that kernels have.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] for zero points that contradict what the file says of them or that 8-bit codes cannot have, for
    /// orders with groups of unlike sizes, and for groups of no multiple of 32; [`crate::Error::Kernel`] for scales out of range.
    pub(super) fn matrix(self, source: &Projection<'_>) -> Result<PackedMatrix> {
        let groups = self.scale.len() / self.n;
        let centre = if self.bits == Bits::Four { 8 } else { 128 };
        let zero = self.zero.as_deref().filter(|zero| zero.iter().any(|&zero| zero != centre));
        if let (Some(true), Some(got)) = (self.symmetric, zero.and_then(|z| z.iter().find(|&&z| z != centre))) {
            let expected = format!("{centre} everywhere, as the configuration says that codes are symmetric");
            return Err(source.unsupported("zero points", &expected, got));
        }
        if let (Bits::Eight, Some(_)) = (self.bits, zero) {
            return Err(source.unsupported("zero points", "128 everywhere with codes of 8 bits", "others"));
        }
        let order = self.group_of.as_deref().map(|group_of| order(source, group_of, groups)).transpose()?.flatten();
        let codes = self.signed_codes(order.as_deref());
        let bits = self.bits;
        let (format, scales) = match (groups, zero) {
            (1, None) => (Format::per_channel().with_bits(bits), Scales::per_channel(self.scale)),
            _ => {
                let size = self.k / groups;
                let fits = |unit: &&usize| self.k == groups * size && size % **unit == 0;
                let Some(unit) = GROUP_SIZES.iter().find(fits) else {
                    let got = format!("{} inputs in {groups} groups", self.k);
                    return Err(source.unsupported("groups", "groups of one size, a multiple of 32", got));
                };
                let scale = repeated(&self.scale, size / unit).into_iter().map(f16::from_f32).collect();
                let zero = zero.map(|zero| repeated(zero, size / unit).into());
                let offset = if zero.is_some() { Offset::ZeroPoint } else { Offset::None };
                (Format::per_group(*unit, offset).with_bits(bits), Scales::per_group(scale, zero))
            }
        };
        Ok(PackedMatrix { weight: QuantizedWeight::new(self.n, self.k, format, codes, scales)?, order })
    }

    /// The codes in the order of their columns; those of 8 bits about 0.
    fn signed_codes(&self, order: Option<&[u32]>) -> Vec<i8> {
        let signed = |code: u8| if self.bits == Bits::Four { code as i8 } else { (code ^ 0x80) as i8 };
        let Some(order) = order else { return self.codes.iter().map(|&code| signed(code)).collect() };
        let rows = self.codes.chunks_exact(self.k);
        rows.flat_map(|row| order.iter().map(|&input| signed(row[input as usize]))).collect()
    }
}

fn repeated<T: Copy>(values: &[T], times: usize) -> Vec<T> {
    values.iter().flat_map(|&value| std::iter::repeat_n(value, times)).collect()
}

/// The inputs group by group, each group's in their order; none if that is the order in which they come.
fn order(source: &Projection<'_>, group_of: &[u32], groups: usize) -> Result<Option<Vec<u32>>> {
    let k = group_of.len();
    let mut sizes = vec![0usize; groups];
    for (input, &group) in group_of.iter().enumerate() {
        match sizes.get_mut(group as usize) {
            Some(size) => *size += 1,
            None => {
                let got = format!("{} for input {input}", group as i32);
                return Err(source.unsupported("g_idx", &format!("a group below {groups}"), got));
            }
        }
    }
    if let Some(got) = sizes.iter().find(|&&size| size * groups != k) {
        let expected = format!("groups of {} inputs", k / groups.max(1));
        return Err(source.unsupported("g_idx", &expected, format!("one of {got}")));
    }
    let mut order: Vec<u32> = (0..k as u32).collect();
    order.sort_by_key(|&input| group_of[input as usize]);
    let moved = order.iter().enumerate().any(|(column, &input)| column != input as usize);
    Ok(moved.then_some(order))
}

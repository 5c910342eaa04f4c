//! GPTQ's layout: `qweight` int32 \[K/8, N\], eight k in a word; `qzeros` int32 \[K/group, N/8\], eight n in a word; `scales`
//! f16 \[K/group, N\]; `g_idx` int32 \[K\]. w = scale · (code − zero), with zero = stored + 1 in the older form.

use moray::w4a8::QuantizedWeight;

use super::nibbles::{nibble, transpose};
use super::scales_of;
use super::tensors::Projection;
use crate::error::Result;

pub(super) fn read(
    source: &Projection<'_>,
    n: usize,
    k: usize,
    group_size: Option<usize>,
    second_form: bool,
) -> Result<QuantizedWeight> {
    let size = group_size.unwrap_or(k);
    let groups = k / size;
    check_groups(source, k, size)?;
    let words = source.required("qweight")?.shaped(&[k / 8, n])?.words()?;
    let mut codes = vec![0i8; n * k];
    for (at, &word) in words.iter().enumerate() {
        let (row, column) = (at % n, at / n * 8);
        for i in 0..8 {
            codes[row * k + column + i] = nibble(word, i) as i8;
        }
    }
    let words = source.required("qzeros")?.shaped(&[groups, n.div_ceil(8)])?.words()?;
    let added = u8::from(!second_form);
    let zeros: Vec<u8> = words.iter().flat_map(|&word| (0..8).map(move |i| nibble(word, i) + added)).collect();
    if let Some(&got) = zeros.iter().find(|&&zero| zero > 15) {
        return Err(source.unsupported("zero point", "0 to 15", got));
    }
    let scale = source.required("scales")?.shaped(&[groups, n])?.halves()?;
    let scales =
        scales_of(group_size, transpose(&scale, n), transpose(&zeros, n.div_ceil(8) * 8)[..n * groups].to_vec());
    let (format, scales) =
        scales.ok_or_else(|| source.unsupported("zero points", "8 where a channel has one scale", "others"))?;
    Ok(QuantizedWeight::new(n, k, format, codes, scales)?)
}

/// Groups of neighbouring inputs: another order would need the activations reordered at run time.
fn check_groups(source: &Projection<'_>, k: usize, size: usize) -> Result<()> {
    let Some(order) = source.optional("g_idx") else { return Ok(()) };
    let order = order.shaped(&[k])?.words()?;
    match order.iter().enumerate().find(|(i, group)| **group as usize != i / size) {
        None => Ok(()),
        Some((i, got)) => {
            let expected = format!("input {i} in group {}", i / size);
            Err(source.unsupported("g_idx", &expected, format!("{got}: desc_act without static groups")))
        }
    }
}
